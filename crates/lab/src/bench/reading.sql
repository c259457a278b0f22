-- A pool without losses, and the audit entries of a year.
insert into pool (name) values ('quiet') on conflict do nothing;
-- next
insert into audit (actor, action, target, detail)
select 'token-' || n % 10, 'cancel', 'run_' || n, '{"snapshot": null}' from generate_series(1, 100000) as n;
-- next
-- A day of outcomes, spread evenly, from 40 supervisors in 4 regions with 20 versions.
insert into outcome (
  settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at, scheduled_at,
  due_at, outcome, reason, fallback_result, fence, worker, claim_count, probe_count, create_count, lost_at,
  create_permitted_at, probe_ms, workload)
select
  at, gen_random_uuid(), 'run_' || md5(n::text), 'snapshot_' || md5(n::text), 'default',
  'supervisor-' || n % 40, 'region-' || n % 4, '20261124.' || n % 20, 'hit', at - interval '11 seconds',
  at - interval '10 seconds', at,
  kind, case kind when 'cancelled' then 'connected' when 'delivered' then 'started' end,
  case kind when 'fallback' then 'created' end,
  case when kind <> 'cancelled' then n end, case when kind <> 'cancelled' then 'worker-' || n % 8 end,
  1, 1, (kind = 'fallback')::int, case when kind = 'fallback' then at end, case when kind = 'fallback' then at end,
  3, case when kind = 'fallback' then 'runner-' || md5(n::text) end
from (
  select n, clock_timestamp() - ({outcomes} - n) * interval '23 hours' / {outcomes} as at,
    case when n % 100 < 90 then 'cancelled' when n % 100 < 99 then 'delivered' else 'fallback' end as kind
  from generate_series(1, {outcomes}) as n
) as drawn;
-- next
insert into outcome_hour (
  hour, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late, n)
select date_trunc('hour', settled_at), pool, supervisor, region, deployment_version, intent, e.outcome, e.reason,
  e.fallback_result, false, count(*)
from outcome o
cross join lateral (values ('scheduled', null, null), (o.outcome, o.reason, o.fallback_result))
  as e (outcome, reason, fallback_result)
group by 1, 2, 3, 4, 5, 6, 7, 8, 9;
-- next
insert into outcome_minute (
  minute, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late, n)
select date_trunc('minute', settled_at), pool, supervisor, region, deployment_version, intent, e.outcome, e.reason,
  e.fallback_result, false, count(*)
from outcome o
cross join lateral (values ('scheduled', null, null), (o.outcome, o.reason, o.fallback_result))
  as e (outcome, reason, fallback_result)
group by 1, 2, 3, 4, 5, 6, 7, 8, 9;
-- next
insert into outcome_total (outcome, n) select outcome, sum(n) from outcome_hour group by outcome;
-- next
insert into latency_count (hour, pool, kind, bucket, n)
select hour, pool, 'connect', bucket, sum(n)
from outcome_hour cross join generate_series(20, 60) as bucket where outcome = 'cancelled' group by 1, 2, 4;
-- next
insert into pending (
  id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at, scheduled_at, due_at,
  probe_at, codec, message)
select gen_random_uuid(), 'run_' || replace(gen_random_uuid()::text, '-', ''), 'snapshot_waits', 'default',
  'supervisor-' || n % 40, 'region-' || n % 4, '20261124.' || n % 20, 'hit', clock_timestamp(), clock_timestamp(),
  clock_timestamp() + interval '30 seconds', clock_timestamp() + interval '1 hour' + n * interval '1 ms', 0, '\x7b7d'
from generate_series(1, {pending}) as n;
-- next
insert into outcome_count (minute, pool, intent, outcome, n)
values (date_trunc('minute', clock_timestamp()), 'default', 'hit', 'scheduled', {pending});
-- next
vacuum analyze outcome;
-- next
vacuum analyze pending;
-- next
analyze outcome_hour;
-- next
analyze outcome_minute;
