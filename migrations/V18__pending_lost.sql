-- refinery:no-transaction
-- Gauges count losses without the rows that wait.
create index concurrently if not exists pending_lost on pending (pool) where lost_at is not null
