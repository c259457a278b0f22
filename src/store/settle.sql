with said as (
  select
    unnest($1::text[]) as run_id, unnest($2::uuid[]) as id, unnest($3::bigint[]) as fence,
    unnest($4::text[]) as verdict, unnest($5::text[]) as acted, unnest($6::bool[]) as warm_start,
    unnest($7::text[]) as result, unnest($8::int[]) as probes, unnest($9::int[]) as probe_ms,
    unnest($10::bool[]) as late, unnest($11::text[]) as workload, unnest($12::text[]) as error
), gone as (
  -- The fence is the right to write: no row, no outcome.
  delete from pending p
  using said s
  where p.run_id = s.run_id and p.id = s.id and p.fence = s.fence
  returning
    p.id, p.run_id, p.snapshot_id, p.pool, p.supervisor, p.region, p.deployment_version, p.intent,
    p.dequeued_at, p.scheduled_at, p.due_at, p.fence, p.worker, p.claim_count, p.probe_count, p.create_count,
    p.connected_at, p.lost_at, p.create_permitted_at, p.traceparent,
    is_early(p.early, coalesce(p.lost_at, statement_timestamp()), p.due_at) as early,
    coalesce(s.workload, p.workload) as workload,
    -- An earlier error does not count when the end went well.
    case when s.verdict = 'delivered' or s.result in ('created', 'existed') then s.error
      else coalesce(s.error, p.last_error) end as error,
    s.verdict, s.acted, s.warm_start, s.result, s.probes, s.probe_ms, s.late
), judged as (
  -- The row decides: once marked lost it ends as a fallback, even if a later probe saw the run move on.
  select
    gone.*,
    ending_of(lost_at, verdict) as outcome,
    case when lost_at is null then acted end as reason,
    case
      when lost_at is null then null
      when verdict = 'fallback' then result
      when verdict = 'probe_error' then 'failed'
      when acted = 'requeued' then 'requeued'
      when warm_start or create_count = 0 then 'overtaken'
      else 'created'
    end as fallback_result
  from gone
), recorded as (
  insert into outcome (
    settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
    dequeued_at, scheduled_at, due_at, outcome, reason, fallback_result, late, early, fence, worker,
    claim_count, probe_count, create_count, connected_at, lost_at, create_permitted_at,
    probe_ms, workload, error, traceparent)
  select
    statement_timestamp(), id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
    dequeued_at, scheduled_at, due_at, outcome, reason, fallback_result, late, early, fence, worker,
    claim_count, probe_count + probes, create_count, connected_at, lost_at, create_permitted_at,
    probe_ms, workload, error, traceparent
  from judged
  returning *
), counted as (
  insert into outcome_count (
    minute, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late, n, latencies)
  select
    date_trunc('minute', settled_at), pool, supervisor, region, deployment_version, intent, outcome, reason,
    fallback_result, late or early, count(*),
    -- When the verdict was on disk: at the mark of a loss, or now. A row for each would cost ten times as much.
    array_agg(latency_bucket(coalesce(lost_at, settled_at) - due_at)) filter (where not early)
  from recorded
  group by date_trunc('minute', settled_at), pool, supervisor, region, deployment_version, intent, outcome, reason,
    fallback_result, late or early
), followed_up as (
  -- A created workload does not prove that its run started: a follow-up probes once more.
  insert into follow_up (verification_id, run_id, snapshot_id, pool, dequeued_at, settled_at, probe_at)
  select j.id, j.run_id, j.snapshot_id, j.pool, j.dequeued_at, statement_timestamp(),
    statement_timestamp() + pool.follow_up_after_ms * interval '1 millisecond'
  from judged j
  join pool on pool.name = j.pool and pool.follow_up_after_ms is not null
  where j.verdict = 'fallback' and j.fallback_result in ('created', 'existed')
)
select
  settled_at as "settled_at!", id as "id!", run_id as "run_id!", snapshot_id as "snapshot_id!", pool as "pool!",
  supervisor as "supervisor: SupervisorName", region as "region: RegionName", deployment_version, intent as "intent!: Intent", dequeued_at as "dequeued_at!",
  scheduled_at as "scheduled_at!", due_at as "due_at!", outcome as "outcome!: OutcomeKind",
  reason as "reason: Reason", fallback_result as "fallback_result: FallbackResult",
  late as "late!", early as "early!", fence, worker, claim_count as "claim_count!", probe_count as "probe_count!",
  create_count as "create_count!", connected_at, lost_at, create_permitted_at, probe_ms, workload, error, traceparent
from recorded
