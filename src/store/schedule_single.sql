-- The rule of schedule.sql for a batch of one, the usual size: most calls arrive alone.
with now as materialized (
  select statement_timestamp() as moment
), created as (
  insert into pending as p (
    id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at,
    scheduled_at, due_at, probe_at, traceparent, timings, codec, message)
  select $1::uuid, $2::text, $3::text, served.name, $5::text, $6::text, $7::text, $8::text, $9::timestamptz,
    now.moment, promised.due_at, promised.due_at, $11::text, $12::text, $13::smallint, $14::bytea
  from now
  join pool as served on served.name = $4
  cross join lateral (
    select now.moment + coalesce($10::int, served.delay_ms, $15::int) * interval '1 millisecond'
  ) as promised (due_at)
  where is_just_dispatched($16::timestamptz, now.moment)
    and not exists (select 1 from pending old where old.run_id = $2)
  returning p.id, p.scheduled_at, p.due_at, p.pool, p.supervisor, p.region, p.deployment_version, p.intent
), counted as (
  insert into outcome_count (minute, pool, supervisor, region, deployment_version, intent, outcome, n)
  select date_trunc('minute', scheduled_at), pool, supervisor, region, deployment_version, intent, 'scheduled', 1
  from created
)
select id as "id!", scheduled_at as "scheduled_at!", due_at as "due_at!" from created
