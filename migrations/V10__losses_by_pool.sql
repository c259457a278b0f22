-- The latest losses of one pool are read off the index too. By time alone it made whoever asked for a pool that hardly
-- ever loses read every loss of every other. Losses are few among outcomes, so the index stays small.
drop index outcome_lost;
create index outcome_lost on outcome (pool, settled_at) where outcome = 'fallback' or reason = 'requeued';
comment on index outcome_lost is 'The latest losses of each pool; all of them together are a merge over the pools.';
