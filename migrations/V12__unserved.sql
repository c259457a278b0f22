-- What waits for a worker that never comes ends: rows of pools that were removed, or that no worker serves. Until now
-- they stayed for ever.

create function expire_unserved(silent interval, expire_after interval, most integer) returns integer
language sql
set search_path from current
as $$
  with recursive named (pool) as (
    -- The pools of all pending rows, one step of the index for each.
    select min(p.pool) from pending p
    union all
    select (select min(p.pool) from pending p where p.pool > n.pool) from named n where n.pool is not null
  ), unserved as materialized (
    select n.pool from named n
    where n.pool is not null
      and not exists (
        select 1 from worker w where n.pool = any (w.pools) and w.seen_at > statement_timestamp() - silent)
  ), gone as (
    delete from pending p
    where p.run_id = any (array(
      select overdue.run_id
      from unserved u
      cross join lateral (
        select c.run_id from pending c
        where c.pool = u.pool and c.probe_at < statement_timestamp() - expire_after
          and c.due_at < statement_timestamp() - expire_after
          and (c.lease_expires_at is null or c.lease_expires_at <= statement_timestamp())
        order by c.probe_at
        limit most
        for update skip locked
      ) as overdue))
    returning p.*
  ), judged as (
    select gone.*,
      ending_of(lost_at, 'probe_error') as outcome,
      case when lost_at is not null then 'failed' end as fallback_result,
      is_late_loss(lost_at, dequeued_at, redrive_of(pool)) as late
    from gone
  ), recorded as (
    insert into outcome (
      settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
      dequeued_at, scheduled_at, due_at, outcome, fallback_result, late, fence, worker,
      claim_count, probe_count, create_count, connected_at, lost_at, create_permitted_at, workload, error, traceparent)
    select statement_timestamp(), id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
      -- No claim settled it; an outcome of this kind has a fence and a worker.
      dequeued_at, scheduled_at, due_at, outcome, fallback_result, late, 1, 'upkeep',
      claim_count, probe_count, create_count, connected_at, lost_at, create_permitted_at, workload,
      'expired: no running worker serves the pool', traceparent
    from judged
    returning *
  ), counted as (
    insert into outcome_count (
      minute, pool, supervisor, region, deployment_version, intent, outcome, fallback_result, late, n, latencies)
    select date_trunc('minute', settled_at), pool, supervisor, region, deployment_version, intent, outcome,
      fallback_result, late, count(*), array_agg(latency_bucket(coalesce(lost_at, settled_at) - due_at))
    from recorded
    group by date_trunc('minute', settled_at), pool, supervisor, region, deployment_version, intent, outcome,
      fallback_result, late
  )
  select count(*)::integer from recorded;
$$;
comment on function expire_unserved is
  'Ends verifications that are long overdue in pools that no running worker serves, at most so many of each pool; returns how many.';
