-- How fast the server alone can be: the life of a verification in a few large statements.
--
-- The tables, indexes, constraints, columns and counts are the product's; the messages are the very
-- bytes that the product stored. Nothing crosses a network and no client reads a row's answer, so
-- that only the server's own work is timed. Each statement is its own transaction.
-- $1 pool (one for each backend), $2 and $3 first and last staged row, $4 fence.

-- step: stage (not timed)
-- Copies of pending rows that the product has scheduled, under their own names.
create unlogged table staged (n bigint primary key, like pending including defaults)

-- step: stage rows (not timed; $1 copies of each pending row)
insert into staged (
  n, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at, scheduled_at,
  due_at, probe_at, lease_expires_at, fence, worker, claim_count, probe_count, probe_failures, create_count,
  connected_at, lost_at, create_permitted_at, workload, last_error, traceparent, timings, codec, message)
select
  (copy - 1) * all_of_them + k, gen_random_uuid(), model.run_id || '_' || copy, snapshot_id, pool, supervisor,
  region, deployment_version, intent, dequeued_at, scheduled_at, due_at, probe_at, lease_expires_at, fence, worker,
  claim_count, probe_count, probe_failures, create_count, connected_at, lost_at, create_permitted_at, workload,
  last_error, traceparent, timings, codec, message
from (select *, row_number() over (order by run_id) as k, count(*) over () as all_of_them from pending) as model
cross join generate_series(1, $1) as copy
order by 1

-- step: settings (not timed)
-- The planner's statistics still describe an empty table, so it would join fifty thousand rows one
-- by one. The limit must come from a good plan.
set enable_nestloop = off

-- step: schedule
with created as (
  insert into pending (
    id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at,
    scheduled_at, due_at, probe_at, traceparent, timings, codec, message)
  select
    id, run_id, snapshot_id, $1, supervisor, region, deployment_version, intent, now(),
    now(), now() + interval '10 seconds', now() + interval '10 seconds', traceparent, timings, codec, message
  from staged
  where n between $2 and $3
  order by n
  returning pool, supervisor, region, deployment_version, intent
)
insert into outcome_count (minute, pool, supervisor, region, deployment_version, intent, outcome, n)
select date_trunc('minute', now()), pool, supervisor, region, deployment_version, intent, 'scheduled', count(*)
from created
group by pool, supervisor, region, deployment_version, intent

-- step: cancel
-- Nine of ten, each by its key and with the product's guards.
with gone as (
  delete from pending p
  using staged s
  where s.n between $2 and $3 and s.n % 10 <> 0
    and p.run_id = s.run_id and p.snapshot_id = s.snapshot_id and p.pool = $1
    and p.create_permitted_at is null
  returning
    p.id, p.run_id, p.snapshot_id, p.pool, p.supervisor, p.region, p.deployment_version, p.intent,
    p.dequeued_at, p.scheduled_at, p.due_at, p.claim_count, p.probe_count, p.create_count, p.lost_at,
    p.create_permitted_at, p.workload, p.last_error, p.traceparent
), recorded as (
  insert into outcome (
    settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
    dequeued_at, scheduled_at, due_at, outcome, reason, claim_count, probe_count, create_count,
    connected_at, lost_at, create_permitted_at, workload, error, traceparent)
  select
    now(), id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
    dequeued_at, scheduled_at, due_at, 'cancelled', 'connected', claim_count, probe_count, create_count,
    now(), lost_at, create_permitted_at, workload, last_error, traceparent
  from gone
)
insert into outcome_count (
  minute, pool, supervisor, region, deployment_version, intent, outcome, reason, n, latencies)
select date_trunc('minute', now()), pool, supervisor, region, deployment_version, intent, 'cancelled', 'connected',
  count(*), array_agg(latency_bucket(now() - scheduled_at))
from gone
group by pool, supervisor, region, deployment_version, intent

-- step: claim
-- The product's own update: lease columns only, found through the index on probe_at.
update pending p
set
  lease_expires_at = clock_timestamp() + interval '1 minute',
  fence = $4,
  worker = 'limit',
  claim_count = p.claim_count + 1
where p.ctid = any (array(
  select candidate.ctid
  from pending candidate
  where candidate.pool = $1
    and candidate.probe_at <= statement_timestamp() + interval '1 minute'
    and (candidate.lease_expires_at is null or candidate.lease_expires_at <= statement_timestamp())
  order by candidate.probe_at
  limit $3 - $2 + 1
  for update skip locked))

-- step: settle
with gone as (
  delete from pending p
  using staged s
  where s.n between $2 and $3 and s.n % 10 = 0
    and p.run_id = s.run_id and p.pool = $1 and p.fence = $4
  returning
    p.id, p.run_id, p.snapshot_id, p.pool, p.supervisor, p.region, p.deployment_version, p.intent,
    p.dequeued_at, p.scheduled_at, p.due_at, p.fence, p.worker, p.claim_count, p.probe_count, p.create_count,
    p.connected_at, p.lost_at, p.create_permitted_at, p.workload, p.traceparent
), recorded as (
  insert into outcome (
    settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
    dequeued_at, scheduled_at, due_at, outcome, reason, fence, worker, claim_count, probe_count, create_count,
    connected_at, lost_at, create_permitted_at, probe_ms, workload, traceparent)
  select
    now(), id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
    dequeued_at, scheduled_at, due_at, 'delivered', 'started', fence, worker, claim_count, probe_count + 1,
    create_count, connected_at, lost_at, create_permitted_at, 0, workload, traceparent
  from gone
)
insert into outcome_count (
  minute, pool, supervisor, region, deployment_version, intent, outcome, reason, n, latencies)
select date_trunc('minute', now()), pool, supervisor, region, deployment_version, intent, 'delivered', 'started',
  count(*), array_agg(latency_bucket(now() - due_at))
from gone
group by pool, supervisor, region, deployment_version, intent

-- step: one row
-- The single-row commit limit: one plain insert, its own commit, prepared once on each connection.
insert into pending (
  id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at,
  scheduled_at, due_at, probe_at, traceparent, codec, message)
values ($1, $2, $3, 'default', $4, $5, $6, 'hit', $7, $7, $7 + interval '10 seconds', $7 + interval '10 seconds',
  $8, $9, $10)
