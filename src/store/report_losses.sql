with asked as (
  select minute as at, pool, supervisor, region, deployment_version, intent, scheduled, delivered, connected, requeued,
    fallback, overtaken, probe_error, missed, withdrawn, superseded, late, lost, observed
  from silent_loss_minutely
  where $1 = 'minute' and minute >= date_trunc('minute', $2::timestamptz, 'UTC')
  union all
  select case $1 when 'hour' then hour when 'day' then date_trunc('day', hour, 'UTC')
      else date_trunc('hour', $2::timestamptz, 'UTC') end,
    pool, supervisor, region, deployment_version, intent, scheduled, delivered, connected, requeued,
    fallback, overtaken, probe_error, missed, withdrawn, superseded, late, lost, observed
  from silent_loss_hourly
  where $1 <> 'minute' and hour >= date_trunc(case $1 when 'day' then 'day' else 'hour' end, $2::timestamptz, 'UTC')
), summed as (
  select at,
    case $3 when 'pool' then pool when 'supervisor' then supervisor when 'region' then region
      when 'deployment_version' then deployment_version when 'intent' then intent end as key,
    sum(scheduled)::bigint as scheduled, sum(delivered)::bigint as delivered, sum(connected)::bigint as connected,
    sum(requeued)::bigint as requeued, sum(fallback)::bigint as fallback, sum(overtaken)::bigint as overtaken,
    sum(probe_error)::bigint as probe_error, sum(missed)::bigint as missed, sum(withdrawn)::bigint as withdrawn,
    sum(superseded)::bigint as superseded, sum(late)::bigint as late, sum(lost)::bigint as lost,
    sum(observed)::bigint as observed
  from asked
  group by 1, 2
)
select
  at as "at!", key, scheduled as "scheduled!", delivered as "delivered!", connected as "connected!",
  requeued as "requeued!", fallback as "fallback!", overtaken as "overtaken!", probe_error as "probe_error!",
  missed as "missed!", withdrawn as "withdrawn!", superseded as "superseded!", late as "late!", lost as "lost!",
  observed as "observed!",
  lost::double precision / nullif(observed, 0) as loss_rate,
  wilson_95_low(lost, observed) as loss_rate_low,
  wilson_95_high(lost, observed) as loss_rate_high,
  (lost - overtaken)::double precision / nullif(observed - overtaken, 0) as loss_rate_without_overtaken,
  wilson_95_low(lost - overtaken, observed - overtaken) as loss_rate_without_overtaken_low,
  wilson_95_high(lost - overtaken, observed - overtaken) as loss_rate_without_overtaken_high,
  fallback::double precision / nullif(fallback + requeued + delivered, 0) as fallback_rate,
  wilson_95_low(fallback, fallback + requeued + delivered) as fallback_rate_low,
  wilson_95_high(fallback, fallback + requeued + delivered) as fallback_rate_high
from summed
order by at, key nulls first
