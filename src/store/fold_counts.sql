-- Moves deltas on, each once, in one statement: no snapshot misses one or sees it twice.
with taken as (
  delete from outcome_count where ctid = any (array(select ctid from outcome_count limit $1))
  returning *
), totals as (
  insert into outcome_total as t (outcome, n)
  select outcome, sum(n) from taken group by outcome
  on conflict (outcome) do update set n = t.n + excluded.n
), pools as (
  insert into pool_total as t (pool, pending)
  select pool, sum(case when outcome = 'scheduled' then n else -n end) from taken group by pool
  on conflict (pool) do update set pending = t.pending + excluded.pending
), hours as (
  insert into outcome_hour as h (
    hour, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late, n)
  select date_trunc('hour', minute, 'UTC'), pool, supervisor, region, deployment_version, intent, outcome, reason,
    fallback_result, late, sum(n)
  from taken
  group by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
  on conflict on constraint outcome_hour_once do update set n = h.n + excluded.n
), minutes as (
  insert into outcome_minute as m (
    minute, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late, n)
  select minute, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late, sum(n)
  from taken
  group by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
  on conflict on constraint outcome_minute_once do update set n = m.n + excluded.n
), latencies as (
  insert into latency_count as l (hour, pool, kind, bucket, n)
  select date_trunc('hour', minute, 'UTC'), pool, case when outcome = 'cancelled' then 'connect' else 'verdict' end,
    bucket, count(*)
  from taken cross join lateral unnest(latencies) as bucket
  group by 1, 2, 3, 4
  on conflict (kind, hour, pool, bucket) do update set n = l.n + excluded.n
)
select count(*) as "folded!" from taken
