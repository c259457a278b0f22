-- Brown-outs in proportion, and workers that are sick.
--
-- A brown-out is what most workers see: probes of a worker that fails alone count for none, and the worker
-- learns that it is sick. A brown-out ends a while after its last failure, in proportion to how long the failures lasted: a
-- healthy runner that tried to start meanwhile is late by about as long, and by its own pauses (platform.md §3.4).

alter table probe_tally add column worker text collate "C";
comment on column probe_tally.worker is 'The worker that reported it; null: a program of before.';

-- Null: recorded by a function of before.
alter table brown_out add column began_at timestamptz;
alter table brown_out add column failed_at timestamptz;
alter table brown_out add column ends_at timestamptz;
alter table brown_out add column before_began_at timestamptz;
alter table brown_out add column before_failed_at timestamptz;
alter table brown_out add column before_ends_at timestamptz;
comment on column brown_out.began_at is 'When the latest failures began: none came in the five seconds before.';
comment on column brown_out.failed_at is 'When the last probe failed.';
comment on column brown_out.ends_at is
  'When losses are held no longer, unless more probes fail or the pool''s cool-down is over before.';

comment on column brown_out.before_began_at is 'The same of the failures before these, while they still hold losses.';
comment on column brown_out.before_failed_at is 'The same of the failures before these, while they still hold losses.';
comment on column brown_out.before_ends_at is 'The same of the failures before these, while they still hold losses.';

create function brown_out_over_at(known brown_out, cool_down_ms integer) returns timestamptz
language sql immutable parallel safe
return greatest(
  least(coalesce(known.ends_at, known.seen_at + interval '65 seconds'),
    coalesce(known.failed_at, known.seen_at) + cool_down_ms * interval '1 millisecond'),
  least(known.before_ends_at, known.before_failed_at + cool_down_ms * interval '1 millisecond'));
comment on function brown_out_over_at is 'When losses of the pool are held no longer, as far as is known.';

create function is_between_failures(scheduled_at timestamptz, began_at timestamptz, failed_at timestamptz) returns boolean
language sql immutable parallel safe
-- A runner that was dispatched five seconds before would have started, and one that was dispatched after the failures
-- starts at once.
return scheduled_at between began_at - interval '5 seconds' and failed_at + interval '2 seconds';
comment on function is_between_failures is 'Whether the runner of a dispatch may have tried to start while the platform failed.';

-- While probes fail, every loss is held: each worker that probes records a failure once a second. Afterwards only those
-- whose runner tried to start meanwhile.
create function brown_out_holds_until(known brown_out, cool_down_ms integer, scheduled_at timestamptz) returns timestamptz
language sql immutable parallel safe
return greatest(
  coalesce(known.failed_at, known.seen_at) + interval '3 seconds',
  case when is_between_failures(scheduled_at, coalesce(known.began_at, known.seen_at - interval '1 minute'),
      coalesce(known.failed_at, known.seen_at))
    then least(coalesce(known.ends_at, known.seen_at + interval '65 seconds'),
      coalesce(known.failed_at, known.seen_at) + cool_down_ms * interval '1 millisecond') end,
  case when is_between_failures(scheduled_at, known.before_began_at, known.before_failed_at)
    then least(known.before_ends_at, known.before_failed_at + cool_down_ms * interval '1 millisecond') end);
comment on function brown_out_holds_until is
  'Until when a loss is held by what is known of a brown-out, by when its run was scheduled.';

-- Records a brown-out if there is one, and answers whether the reporter is sick.
create function observe_probes(observed_pool text, reporter text) returns boolean
language plpgsql
set search_path from current
as $$
declare
  moment    timestamptz := clock_timestamp();
  known     brown_out;
  is_sick   boolean;
  is_seen   boolean;
  failed    timestamptz[];
  resumed   timestamptz;
begin
  with reported as materialized (
    -- What is older counts for less, half after each five seconds: a fault that is over is soon forgotten.
    select t.worker, t.counted_at, t.probes, t.failures,
      power(0.5, extract(epoch from moment - t.counted_at)::double precision / 5) as weight
    from probe_tally t
    where t.pool = observed_pool and t.counted_at > moment - interval '30 seconds'
  ), by_worker as (
    select worker, sum(probes) as probes, sum(failures) as failed_count,
      sum(probes * weight) as weighed, sum(failures * weight) as failures
    from reported group by worker
  ), marked as (
    select *, failures * 5 < weighed as seems_healthy from by_worker
  ), compared as (
    -- Fewer than three probes say nothing about a worker.
    select count(*) as workers, count(*) filter (where seems_healthy) as healthy,
      coalesce(sum(failures) filter (where seems_healthy) / sum(weighed) filter (where seems_healthy), 0) as share
    from marked where probes >= 3
  ), judged as (
    select l.*,
      l.probes >= 3 and l.failures * 2 >= l.weighed
        -- Half of the workers seem healthy, and this one fails three times as often as they do.
        and c.healthy * 2 >= c.workers and l.failures >= 3 * c.share * l.weighed as is_sick
    from marked l cross join compared c
  ), of_the_well as (
    select sum(probes) as probes, sum(failed_count) as failed_count, sum(weighed) as weighed, sum(failures) as failures
    from judged where not judged.is_sick
  )
  select
    coalesce((select j.is_sick from judged j where j.worker = reporter), false),
    coalesce(
      (select w.probes >= 10 and w.failed_count >= 3 and w.failures * 5 >= w.weighed and (c.workers = 0 or (c.workers - c.healthy) * 2 > c.workers)
      from of_the_well w cross join compared c), false),
    array(
      select t.counted_at from reported t join judged j on j.worker is not distinct from t.worker
      where not j.is_sick and t.failures * 5 >= t.probes order by t.counted_at)
  into is_sick, is_seen, failed;
  if not is_seen then
    return is_sick;
  end if;

  select * into known from brown_out b where b.pool = observed_pool for update;
  select min(f.at) into resumed from unnest(failed) as f (at) where known.failed_at is null or f.at > known.failed_at;
  -- Five seconds without a failure part two faults. The one before still holds those whose runner it kept.
  if known.failed_at is null or resumed > known.failed_at + interval '5 seconds' then
    if known.ends_at > moment then
      known.before_began_at := known.began_at;
      known.before_failed_at := known.failed_at;
      known.before_ends_at := known.ends_at;
    end if;
    known.began_at := resumed;
  end if;
  known.failed_at := coalesce(greatest(known.failed_at, failed[cardinality(failed)]), moment);
  known.began_at := coalesce(known.began_at, known.failed_at);
  known.ends_at := known.failed_at + interval '5 seconds' + 2 * (known.failed_at - known.began_at);
  if known.before_ends_at <= moment then
    known.before_began_at := null;
    known.before_failed_at := null;
    known.before_ends_at := null;
  end if;
  if known.pool is null then
    -- Where another worker is faster, its record is kept; the next second brings ours.
    insert into brown_out (pool, seen_at, began_at, failed_at, ends_at)
    values (observed_pool, moment, known.began_at, known.failed_at, known.ends_at)
    on conflict (pool) do nothing;
  else
    update brown_out b
    set seen_at = greatest(b.seen_at, moment), began_at = known.began_at, failed_at = known.failed_at,
      ends_at = known.ends_at, before_began_at = known.before_began_at, before_failed_at = known.before_failed_at,
      before_ends_at = known.before_ends_at
    where b.pool = observed_pool;
  end if;
  return is_sick;
end;
$$;
comment on function observe_probes is 'Records a brown-out if most workers see one; answers whether the reporter fails alone, and so is sick.';

create function tally_probes(reporter text, pools text[], probe_counts integer[], failure_counts integer[]) returns text[]
language plpgsql
set search_path from current
as $$
declare
  reported text;
  sick text[] := '{}';
begin
  insert into probe_tally (pool, counted_at, probes, failures, worker)
  select t.pool, clock_timestamp(), t.probes, t.failures, reporter
  from unnest(pools, probe_counts, failure_counts) as t (pool, probes, failures);
  foreach reported in array pools loop
    if observe_probes(reported, reporter) then
      sick := sick || reported;
    end if;
  end loop;
  return sick;
end;
$$;
comment on function tally_probes(text, text[], integer[], integer[]) is
  'Adds one worker''s probes and failures, by pool; answers the pools for which the worker is sick.';

-- For programs of before, which do not give their names.
create or replace function tally_probes(pools text[], probe_counts integer[], failure_counts integer[]) returns void
language sql
set search_path from current
as $$ select tally_probes(null::text, pools, probe_counts, failure_counts); $$;

create function held_back_by(settings pool, held pending, moment timestamptz) returns text
language sql stable
set search_path from current
as $$
  select case
    when settings.paused then 'paused'
    when exists (
      select 1 from brown_out b
      where b.pool = settings.name and moment < brown_out_holds_until(b, settings.cool_down_ms, held.scheduled_at)
    ) then 'brown_out'
  end;
$$;
comment on function held_back_by(pool, pending, timestamptz) is
  'What defers the cold start of a loss now: paused, brown_out or null.';

create function held_until(settings pool, held pending, hold_reason text, moment timestamptz, hold interval)
returns timestamptz
language plpgsql
set search_path from current
as $$
declare
  over_at timestamptz;
begin
  if hold_reason = 'brown_out' then
    select brown_out_holds_until(b, settings.cool_down_ms, held.scheduled_at) into over_at
    from brown_out b where b.pool = settings.name;
    -- When it is over, or meanwhile, whichever is first, and at random: not every loss may ask a failing platform
    -- each second.
    return least(greatest(over_at, moment + hold) + hold * random(), moment + hold * (3 + 4 * random()));
  end if;
  return moment + hold;
end;
$$;
comment on function held_until(pool, pending, text, timestamptz, interval) is 'When a loss that its pool holds back is probed again.';

create or replace function permit_create(
  held_run_id text, held_id uuid, held_fence bigint, hold_ms integer, out answer text, out hold_reason text)
language plpgsql
set search_path from current
as $$
#variable_conflict use_variable
declare
  held     pending;
  settings pool;
  moment   timestamptz;
  began    timestamptz;
  again_at timestamptz;
  hold     interval := hold_ms * interval '1 millisecond';
begin
  select * into held from pending p
  where p.run_id = held_run_id and p.id = held_id and p.fence = held_fence
  for update;
  if not found then
    answer := 'stale';
    return;
  end if;
  if held.create_permitted_at is not null then
    answer := 'granted';
    return;
  end if;

  select * into strict settings from pool p where p.name = held.pool;
  if settings.shadow then
    answer := 'suppressed';
    return;
  end if;

  moment := clock_timestamp();
  hold_reason := held_back_by(settings, held, moment);
  if hold_reason is not null then
    again_at := held_until(settings, held, hold_reason, moment, hold);
  else
    began := window_of(moment, settings.cap_window_ms);
    if settings.cap is distinct from 0 then
      insert into fallback_window as w (pool, starts_at, spent) values (held.pool, began, 1)
      on conflict (pool, starts_at) do update
        set spent = w.spent + 1, awaited = greatest(w.awaited - (held.window_at is not distinct from began)::integer, 0)
        -- Losses that already wait for a window go before new ones.
        where settings.cap is null
          or w.spent < settings.cap - case when held.window_at is null then w.awaited else 0 end;
    end if;
    if settings.cap = 0 or not found then
      hold_reason := 'cap';
      again_at := take_place_in_line(held, settings, moment, hold);
    end if;
  end if;

  if hold_reason is null then
    update pending p set create_permitted_at = moment, hold_reason = null where p.run_id = held_run_id;
    answer := 'granted';
  else
    update pending p
    set probe_at = again_at,
      window_at = case when hold_reason = 'cap' then window_of(again_at, settings.cap_window_ms) else p.window_at end,
      hold_reason = permit_create.hold_reason,
      lease_expires_at = null, fence = null, worker = null
    where p.run_id = held_run_id;
    answer := 'deferred';
  end if;
end;
$$;

create or replace function count_create(
  held_run_id text, held_id uuid, held_fence bigint, requested_workload text, hold_ms integer,
  out answer text, out hold_reason text, out counted integer)
language plpgsql
set search_path from current
as $$
#variable_conflict use_variable
declare
  held     pending;
  settings pool;
  moment   timestamptz;
  again_at timestamptz;
  unused   boolean;
  hold     interval := hold_ms * interval '1 millisecond';
begin
  select * into held from pending p
  where p.run_id = held_run_id and p.id = held_id and p.fence = held_fence and p.create_permitted_at is not null
  for update;
  if not found then
    answer := 'stale';
    return;
  end if;
  select * into strict settings from pool p where p.name = held.pool;
  if settings.shadow then
    answer := 'suppressed';
    counted := held.create_count;
    return;
  end if;

  moment := clock_timestamp();
  hold_reason := held_back_by(settings, held, moment);
  if hold_reason is not null then
    again_at := held_until(settings, held, hold_reason, moment, hold);
  elsif settings.cap = 0 then
    hold_reason := 'cap';
    again_at := take_place_in_line(held, settings, moment, hold);
  end if;
  if hold_reason is null then
    counted := held.create_count + 1;
    update pending p set create_count = counted, workload = requested_workload where p.run_id = held_run_id;
    answer := 'counted';
    return;
  end if;

  unused := held.create_count = 0;
  if unused then
    -- A window that counts nothing has no row.
    delete from fallback_window w
    where w.pool = held.pool and w.starts_at = window_of(held.create_permitted_at, settings.cap_window_ms)
      and w.spent = 1 and w.awaited = 0;
    update fallback_window w set spent = w.spent - 1
    where w.pool = held.pool and w.starts_at = window_of(held.create_permitted_at, settings.cap_window_ms)
      and w.spent > 0;
  end if;
  update pending p
  set probe_at = again_at,
    window_at = null,
    hold_reason = count_create.hold_reason,
    create_permitted_at = case when unused then null else p.create_permitted_at end,
    lease_expires_at = null, fence = null, worker = null
  where p.run_id = held_run_id;
  answer := 'deferred';
end;
$$;

drop function observe_brown_out(text);
drop function held_until(text, timestamptz, interval);
drop function held_back_by(pool, timestamptz);
