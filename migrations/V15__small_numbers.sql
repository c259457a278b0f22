-- Numbers for people from small tables. Until now each scrape counted all pending rows: with three million of them it
-- took longer than it may.

create table pool_total (
  pool    text   collate "C" primary key,
  pending bigint not null
);
comment on table pool_total is
  'What is pending in each pool by all counts that were folded; with the deltas of outcome_count it is exact. Counted anew with each account.';
comment on column pool_total.pool is 'The pool.';
comment on column pool_total.pending is 'Scheduled less ended, as far as it was folded.';

create table account (
  checked_at timestamptz not null,
  scheduled  bigint      not null,
  pending    bigint      not null,
  ended      bigint      not null,
  -- One row: the last one.
  is_last    boolean     primary key default true check (is_last)
);
comment on table account is 'The last full count of what is pending, against what was scheduled and has ended; by upkeep.';
comment on column account.checked_at is 'When it was counted.';
comment on column account.scheduled is 'Verifications ever scheduled.';
comment on column account.pending is 'Verifications pending, each counted.';
comment on column account.ended is 'Verifications ended.';
comment on column account.is_last is 'Always true: there is one row.';

create function count_pool_totals() returns void
language sql
set search_path from current
as $$
  -- One statement, so that no delta is counted twice. A pool without rows keeps its line.
  insert into pool_total as t (pool, pending)
  select every.pool, sum(every.n)
  from (
    select pool, count(*) as n from pending group by pool
    union all
    select pool, sum(case when outcome = 'scheduled' then -n else n end) from outcome_count group by pool
    union all
    select pool, 0 from pool_total
  ) as every
  group by every.pool
  on conflict (pool) do update set pending = excluded.pending
$$;
comment on function count_pool_totals is 'Counts anew what is pending in each pool; upkeep does so with its first account.';
