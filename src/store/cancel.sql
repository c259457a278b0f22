-- The rule: rows that may still be cancelled. cancel_many judges the others.
with now as materialized (
  select statement_timestamp() as moment
), input as materialized (
  select i.*
  from (
    select unnest($1::text[]) as run_id, unnest($2::text[]) as snapshot_id, unnest($3::text[]) as reason,
      generate_series(1, cardinality($1)) as ordinal
  ) as i
  -- One order of locks for every batch, so that batches never deadlock.
  order by i.run_id collate "C"
), gone as (
  delete from pending p using input i
  where p.run_id = i.run_id
    and (i.snapshot_id is null or p.snapshot_id = i.snapshot_id)
    and p.create_permitted_at is null
    -- In a pool that keeps watching, a connect is only noted, and the probe happens all the same.
    and (i.reason <> 'connected'
      or p.pool <> all (array(select pool.name from pool where pool.on_connect = 'keep_watching')))
  returning
    i.ordinal, i.reason as cancel_reason,
    p.id, p.run_id, p.snapshot_id, p.pool, p.supervisor, p.region, p.deployment_version, p.intent,
    p.dequeued_at, p.scheduled_at, p.due_at, p.claim_count, p.probe_count, p.create_count, p.lost_at,
    p.workload, p.last_error, p.traceparent,
    is_early(p.early, p.lost_at, p.due_at) as early
), judged as (
  select
    gone.*, now.moment,
    ending_of(lost_at, 'cancelled') as outcome,
    case when lost_at is null then cancel_reason end as reason,
    case when lost_at is not null then loss_cancelled_by(cancel_reason) end as fallback_result,
    is_late_loss(lost_at, dequeued_at, redrive_of(pool)) as late,
    case
      when early then null
      when lost_at is not null then latency_bucket(lost_at - due_at)
      when cancel_reason = 'connected' then latency_bucket(moment - scheduled_at)
    end as bucket
  from gone cross join now
), recorded as (
  insert into outcome (
    settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
    dequeued_at, scheduled_at, due_at, outcome, reason, fallback_result, late, early,
    claim_count, probe_count, create_count, connected_at, lost_at, workload, error, traceparent)
  select moment, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
    dequeued_at, scheduled_at, due_at, outcome, reason, fallback_result, late, early,
    claim_count, probe_count, create_count,
    case when cancel_reason = 'connected' then moment end, lost_at, workload, last_error, traceparent
  from judged
), counted as (
  insert into outcome_count (
    minute, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late, n, latencies)
  select date_trunc('minute', moment), pool, supervisor, region, deployment_version, intent, outcome, reason,
    fallback_result, late or early, count(*), array_agg(bucket) filter (where bucket is not null)
  from judged
  group by date_trunc('minute', moment), pool, supervisor, region, deployment_version, intent, outcome, reason,
    fallback_result, late or early
)
select ordinal as "ordinal!", id as "id!" from gone
