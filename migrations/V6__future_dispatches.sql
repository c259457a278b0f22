-- A dispatch that was dequeued in the future, by a clock or a caller that is wrong, would make every later dispatch of
-- its run `outdated`. More than 60 s ahead of the database's clock it is refused; within that, it never keeps out a
-- dispatch whose own time is believable.

create function is_later_dispatch(
  new_dequeued_at timestamptz, moment timestamptz, old_dequeued_at timestamptz, old_scheduled_at timestamptz)
returns boolean
language sql immutable parallel safe
-- Both times are by the platform's clock. Five seconds are a usual skew between it and ours.
return new_dequeued_at > old_dequeued_at
  or old_dequeued_at > old_scheduled_at + interval '5 seconds' and new_dequeued_at <= moment + interval '5 seconds';
comment on function is_later_dispatch is
  'Which of two dispatches of a run is later: by dequeued_at, unless only the older one claims to come from the future.';

create or replace function schedule_one(
  new_id uuid, new_run_id text, new_snapshot_id text, new_pool text, new_supervisor text, new_region text,
  new_deployment_version text, new_intent text, new_dequeued_at timestamptz, new_delay_ms integer,
  new_traceparent text, new_timings text, new_codec smallint, new_message bytea, default_delay_ms integer,
  out result text, out id uuid, out due_at timestamptz)
language plpgsql
set search_path from current
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_column
declare
  moment    timestamptz;
  delay_ms  integer;
  old       pending;
  ended     record;
  took_over boolean := false;
begin
  perform require_read_committed();
  select coalesce(new_delay_ms, p.delay_ms, default_delay_ms) into delay_ms from pool p where p.name = new_pool;
  if not found then
    result := 'unknown_pool';
    return;
  end if;
  if new_dequeued_at > clock_timestamp() + interval '60 seconds' then
    result := 'from_the_future';
    return;
  end if;
  loop
    moment := clock_timestamp();
    insert into pending as p (
      id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at,
      scheduled_at, due_at, probe_at, traceparent, timings, codec, message)
    values (
      new_id, new_run_id, new_snapshot_id, new_pool, new_supervisor, new_region, new_deployment_version,
      new_intent, new_dequeued_at, moment, moment + delay_ms * interval '1 millisecond',
      moment + delay_ms * interval '1 millisecond', new_traceparent, new_timings, new_codec, new_message)
    on conflict (run_id) do nothing
    returning p.id, p.due_at into schedule_one.id, schedule_one.due_at;

    if found then
      -- We hold the run's key now, so every earlier life of this run is visible below. A late retry
      -- must not revive what has ended.
      if not took_over and not is_just_dispatched(new_dequeued_at, moment) then
        select o.id, o.due_at, o.snapshot_id = new_snapshot_id as same into ended
        from outcome o
        where o.run_id = new_run_id
          and (o.snapshot_id = new_snapshot_id or o.dequeued_at > new_dequeued_at
            and not is_later_dispatch(new_dequeued_at, moment, o.dequeued_at, o.scheduled_at))
        order by same desc
        limit 1;
        if found then
          delete from pending p where p.run_id = new_run_id;
          result := case when ended.same then 'duplicate' else 'outdated' end;
          id := ended.id;
          due_at := ended.due_at;
          return;
        end if;
      end if;
      insert into outcome_count (minute, pool, supervisor, region, deployment_version, intent, outcome, n)
      values (date_trunc('minute', moment), new_pool, new_supervisor, new_region, new_deployment_version,
        new_intent, 'scheduled', 1);
      result := case when took_over then 'superseded' else 'created' end;
      return;
    end if;

    select * into old from pending p where p.run_id = new_run_id for update;
    -- Not found: it ended between the two statements; its outcome is visible to the next round.
    if found then
      id := old.id;
      due_at := old.due_at;
      if old.snapshot_id = new_snapshot_id then
        result := 'duplicate';
        return;
      elsif not is_later_dispatch(new_dequeued_at, moment, old.dequeued_at, old.scheduled_at) then
        result := 'outdated';
        return;
      end if;
      perform supersede(old, clock_timestamp());
      took_over := true;
    end if;
  end loop;
end;
$$;

create or replace function schedule(
  message json, pool text default 'default', supervisor text default null, region text default null,
  intent text default 'hit', delay_ms integer default null, timings json default null,
  out result text, out id uuid, out due_at timestamptz)
language plpgsql
security definer
set search_path from current
as $$
#variable_conflict use_variable
declare
  context text;
  answer  record;
begin
  if message is null or json_typeof(message) <> 'object' then
    raise exception 'the dequeued message must be a JSON object' using errcode = 'invalid_parameter_value';
  elsif message::text ~ '(^|[^\\])(\\\\)*\\u0000' then
    raise exception 'the dequeued message holds a NUL (`\u0000`), which the server cannot read'
      using errcode = 'invalid_parameter_value', hint = 'schedule it through the API or the library';
  elsif message_text(message, true, 'version') <> '1' then
    raise exception 'the dequeued message has another `version` than `1`' using errcode = 'invalid_parameter_value';
  elsif intent is null or intent not in ('hit', 'dispatch') then
    raise exception '`intent` must be `hit` or `dispatch`' using errcode = 'invalid_parameter_value';
  elsif delay_ms not between 1000 and 60000 then
    raise exception '`delay_ms` must be from 1000 to 60000, not %', delay_ms using errcode = 'invalid_parameter_value';
  end if;
  if json_typeof(message #> '{run,traceContext,traceparent}') = 'string' then
    context := message_text(message, false, 'run', 'traceContext', 'traceparent');
    if context !~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' or context ~ '^00-0{32}' then
      context := null;
    end if;
  end if;
  select * into answer from schedule_one(
    fresh_id(),
    require_id('run.friendlyId', 'run', message_text(message, true, 'run', 'friendlyId')),
    require_id('snapshot.friendlyId', 'snapshot', message_text(message, true, 'snapshot', 'friendlyId')),
    pool,
    require_name('supervisor', supervisor),
    require_name('region', region),
    require_name('backgroundWorker.version', message_text(message, false, 'backgroundWorker', 'version')),
    intent, message_dequeued_at(message), delay_ms, context, timings::text,
    0::smallint, convert_to(message::text, 'UTF8'), 10000);
  if answer.result = 'unknown_pool' then
    raise exception '`pool`: there is no pool `%`', pool
      using errcode = 'invalid_parameter_value', hint = 'name it in the configuration of a worker or the api first';
  end if;
  if answer.result = 'from_the_future' then
    raise exception '`dequeuedAt` is more than 60 s ahead of the database''s clock'
      using errcode = 'invalid_parameter_value', hint = 'check the clocks of the platform and of the database';
  end if;
  result := answer.result;
  id := answer.id;
  due_at := answer.due_at;
end;
$$;
