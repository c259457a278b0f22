-- Moves deltas on, each once, in one statement: no snapshot misses one or sees it twice.
with removed as (
  delete from outcome_count where ctid = any (array(select ctid from outcome_count limit $1))
  returning *
), seen as (
  -- Each name once: rows are many more.
  select s.pool, s.kind, s.name, k.name is not null as is_known
  from (
    select distinct r.pool, n.kind, n.name
    from removed r
    cross join lateral (values
      ('supervisor', r.supervisor), ('region', r.region), ('deployment_version', r.deployment_version))
      as n (kind, name)
    where n.name is not null
  ) as s
  left join counted_name k on k.pool = s.pool and k.kind = s.kind and k.name = s.name
), admitted as (
  insert into counted_name (pool, kind, name, seen_on)
  select fresh.pool, fresh.kind, fresh.name, statement_timestamp()::date
  from (
    select pool, kind, name, row_number() over (partition by pool, kind order by name) as place
    from seen where not is_known
  ) as fresh
  left join (select pool, kind, count(*) as n from counted_name group by pool, kind) as known
    on known.pool = fresh.pool and known.kind = fresh.kind
  where fresh.place + coalesce(known.n, 0) <= $2
  returning pool, kind, name
), seen_again as (
  -- Once a day is enough.
  update counted_name k set seen_on = statement_timestamp()::date
  from seen s
  where k.pool = s.pool and k.kind = s.kind and k.name = s.name and k.seen_on < statement_timestamp()::date
), named as (
  select s.pool, s.kind, s.name, case when s.is_known or a.name is not null then s.name else 'other' end as counted
  from seen s
  left join admitted a on a.pool = s.pool and a.kind = s.kind and a.name = s.name
), taken as (
  select r.minute, r.pool, s.counted as supervisor, g.counted as region, d.counted as deployment_version, r.intent,
    r.outcome, r.reason, r.fallback_result, r.late, r.n, r.latencies
  from removed r
  left join named s on s.kind = 'supervisor' and s.pool = r.pool and s.name = r.supervisor
  left join named g on g.kind = 'region' and g.pool = r.pool and g.name = r.region
  left join named d on d.kind = 'deployment_version' and d.pool = r.pool and d.name = r.deployment_version
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
