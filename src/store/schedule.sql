-- The rule: fresh dispatches of runs that are not pending. Whatever this leaves out is judged by schedule_many.
with setting as materialized (
  select case when $16::text is null then 'usual' else set_config('lock_timeout', $16, true) end as wait,
    clock_timestamp() as moment
), created as (
  insert into pending as p (
    id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at,
    scheduled_at, due_at, look_at, traceparent, timings, codec, message)
  select i.id, i.run_id, i.snapshot_id, i.pool, i.supervisor, i.region, i.deployment_version, i.intent, i.dequeued_at,
    setting.moment, promised.due_at, promised.due_at, i.traceparent, i.timings, i.codec, i.message
  from setting
  cross join unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::timestamptz[], $10::int[], $11::text[], $12::text[], $13::smallint[], $14::bytea[])
    as i (id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at,
      delay_ms, traceparent, timings, codec, message)
  join pool on pool.name = i.pool
  cross join lateral (
    select setting.moment + coalesce(i.delay_ms, pool.delay_ms, $15::int) * interval '1 millisecond'
  ) as promised (due_at)
  where setting.wait is not null
    -- Older dispatches may be late retries of what has ended.
    and setting.moment - i.dequeued_at between interval '0' and interval '1 second'
  -- One order of locks for every batch, so that batches never deadlock.
  order by i.run_id collate "C"
  on conflict (run_id) do nothing
  returning p.id, p.scheduled_at, p.due_at, p.pool, p.supervisor, p.region, p.deployment_version, p.intent
), counted as (
  insert into outcome_count (minute, pool, supervisor, region, deployment_version, intent, outcome, n)
  select date_trunc('minute', scheduled_at), pool, supervisor, region, deployment_version, intent, 'scheduled', count(*)
  from created
  group by date_trunc('minute', scheduled_at), pool, supervisor, region, deployment_version, intent
)
select id as "id!", due_at as "due_at!" from created
