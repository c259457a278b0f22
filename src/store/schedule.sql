-- The rule: fresh dispatches of runs that are not pending. schedule_many judges the others.
-- The select list unpacks the arrays and keeps none of them; `from unnest (...)` would store each on its own.
with now as materialized (
  select statement_timestamp() as moment
), served as materialized (
  select name, delay_ms from pool where name = any ($16::text[])
), created as (
  insert into pending as p (
    id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at,
    scheduled_at, due_at, probe_at, traceparent, timings, codec, message)
  select i.id, i.run_id, i.snapshot_id, i.pool, i.supervisor, i.region, i.deployment_version, i.intent, i.dequeued_at,
    now.moment, promised.due_at, promised.due_at, i.traceparent, i.timings, i.codec, i.message
  from now
  cross join (
    select
      unnest($1::uuid[]) as id, unnest($2::text[]) as run_id, unnest($3::text[]) as snapshot_id,
      unnest($4::text[]) as pool, unnest($5::text[]) as supervisor, unnest($6::text[]) as region,
      unnest($7::text[]) as deployment_version, unnest($8::text[]) as intent,
      unnest($9::timestamptz[]) as dequeued_at, unnest($10::int[]) as delay_ms, unnest($11::text[]) as traceparent,
      unnest($12::text[]) as timings, unnest($13::smallint[]) as codec, unnest($14::bytea[]) as message,
      unnest($17::timestamptz[]) as left_queue_at
  ) as i
  join served on served.name = i.pool
  cross join lateral (
    select now.moment + coalesce(i.delay_ms, served.delay_ms, $15::int) * interval '1 millisecond'
  ) as promised (due_at)
  -- Older dispatches may be late retries of what has ended.
  where is_just_dispatched(i.left_queue_at, now.moment)
    -- Looked up, not left to `on conflict`, which locks each row it tries and writes to the log once more. Where
    -- two calls race all the same, the primary key refuses the batch, and schedule_many judges it.
    and not exists (select 1 from pending old where old.run_id = i.run_id)
  returning p.id, p.scheduled_at, p.due_at, p.pool, p.supervisor, p.region, p.deployment_version, p.intent
), counted as (
  insert into outcome_count (minute, pool, supervisor, region, deployment_version, intent, outcome, n)
  select date_trunc('minute', scheduled_at), pool, supervisor, region, deployment_version, intent, 'scheduled', count(*)
  from created
  group by date_trunc('minute', scheduled_at), pool, supervisor, region, deployment_version, intent
)
select id as "id!", scheduled_at as "scheduled_at!", due_at as "due_at!" from created
