-- Functions: what supervisors, workers and upkeep call. SQL callers, the library and the API run the same rules.
--
-- `set search_path from current` keeps the migration's path: our schema, then pg_temp. pg_temp comes last, so
-- that a caller's temporary table cannot replace one of ours in a function that runs with our rights.
--
-- schedule_one and cancel_many force their plans to use the index: a plan made while the hot table is nearly
-- empty would read the whole table, and be kept while the table fills. The forced plan seems expensive to the
-- planner, which must not compile it. Both need READ COMMITTED, where each statement sees what was committed
-- before it; in a caller's older snapshot they would revive a run that has ended.

-- Partitions and statistics of outcome ---------------------------------------------------------------------------

create function ensure_outcome_partitions(days_ahead integer) returns integer
-- Partitions belong to the owner of outcome, so that workers need to own nothing.
language plpgsql
security definer
set search_path from current
as $$
declare
  today date := (clock_timestamp() at time zone 'utc')::date;
  day   date;
  made  integer := 0;
begin
  for day in select today + n from generate_series(-1, days_ahead) as n loop
    if to_regclass('outcome_' || to_char(day, 'YYYYMMDD')) is null then
      -- Made on its own and then attached: reads and writes of outcome continue meanwhile.
      execute format(
        'create table %I (like outcome including defaults including constraints)',
        'outcome_' || to_char(day, 'YYYYMMDD'));
      execute format(
        'alter table outcome attach partition %I for values from (%L) to (%L)',
        'outcome_' || to_char(day, 'YYYYMMDD'),
        day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
      made := made + 1;
    end if;
  end loop;
  return made;
end;
$$;
comment on function ensure_outcome_partitions is 'Creates the daily partitions from yesterday to this many days ahead; returns how many were missing.';

-- One at a time: each needs the table for itself for a moment, and the caller limits that with lock_timeout.
create function drop_old_outcomes(keep_days integer) returns text
language plpgsql
security definer
set search_path from current
as $$
declare
  today  date := (clock_timestamp() at time zone 'utc')::date;
  oldest text;
begin
  if keep_days is null or keep_days < 1 then
    raise exception 'keep_days must be at least 1, not %', coalesce(keep_days::text, 'null')
      using errcode = 'invalid_parameter_value';
  end if;
  select c.relname into oldest
  from pg_inherits i join pg_class c on c.oid = i.inhrelid
  where i.inhparent = 'outcome'::regclass
    and c.relname ~ '^outcome_[0-9]{8}$'
    -- The youngest row of that day is older than keep_days.
    and to_date(right(c.relname, 8), 'YYYYMMDD') < today - keep_days
  order by c.relname
  limit 1;
  if oldest is not null then
    execute format('alter table outcome detach partition %I', oldest);
    execute format('drop table %I', oldest);
  end if;
  return oldest;
end;
$$;
comment on function drop_old_outcomes is
  'Drops the oldest daily partition of outcome whose rows are all older than keep_days; returns its name, or null. No count changes.';

-- Only we analyze the parent table: autovacuum sees the partitions alone.
create function analyze_outcomes() returns void
language plpgsql
security definer
set search_path from current
set default_statistics_target = 30
as $$
begin
  if current_setting('server_version_num')::integer >= 180000 then
    execute 'analyze only outcome';
  else
    execute 'analyze outcome';
  end if;
end;
$$;
comment on function analyze_outcomes is 'Gathers the planner''s statistics of outcome as a whole.';

-- What a pending verification is doing -----------------------------------------------------------------------------

-- Each row has one status: the first that fits. Writers, views, API, page and metrics all use this function.
create function pending_status(lease_expires_at timestamptz, probe_at timestamptz, lost_at timestamptz, hold_reason text)
returns text
language sql stable parallel safe
return case
  when lease_expires_at > statement_timestamp() then 'claimed'
  -- Two seconds are longer than a healthy worker ever takes between two claims.
  when probe_at < statement_timestamp() - interval '2 seconds' then 'overdue'
  when hold_reason is not null then 'held'
  when lost_at is not null then 'lost'
  else 'waiting'
end;
comment on function pending_status is
  'claimed: a worker holds it. overdue: unclaimed two seconds past its probe. held: a loss whose cold start is deferred. lost: marked lost. waiting: not due yet.';

-- Rules that several statements share ----------------------------------------------------------------------------

create function ending_of(lost_at timestamptz, otherwise text) returns text
language sql immutable parallel safe
return case when lost_at is null then otherwise else 'fallback' end;
comment on function ending_of is 'The outcome of a verification that ends: fallback once it is marked lost.';

create function loss_cancelled_by(reason text) returns text
language sql immutable parallel safe
return case when reason = 'connected' then 'overtaken' else 'cancelled' end;
comment on function loss_cancelled_by is 'The fallback_result of a loss that is cancelled before its permit.';

-- Reviving a run within the first second costs only a probe, so the search is skipped.
create function is_just_dispatched(dequeued_at timestamptz, moment timestamptz) returns boolean
language sql immutable parallel safe
return moment - dequeued_at between interval '0' and interval '1 second';
comment on function is_just_dispatched is
  'Whether a dispatch is so recent that it cannot be a late retry of one that has ended: outcomes need not be searched.';

-- A platform clock that is far off is ignored; the hit was scheduled right after the dequeue.
create function left_queue_at(dequeued_at timestamptz, scheduled_at timestamptz) returns timestamptz
language sql immutable parallel safe
return case when scheduled_at - dequeued_at between interval '0' and interval '1 minute' then dequeued_at
  else scheduled_at end;
comment on function left_queue_at is
  'When the run left the queue: dequeued_at if it is believable, else scheduled_at. The platform''s redrive counts from it.';

-- Figures of reports --------------------------------------------------------------------------------------------

-- Four buckets an octave: bucket b holds what took longer than 2^((b - 1) / 4) ms and at most 2^(b / 4) ms,
-- so that a bucket's upper end is at most 19 % too high. Bucket 0 holds all up to 1 ms. A duration on an edge
-- belongs to the bucket below it, even when the last bit of the logarithm is off.
create function latency_bucket(took interval) returns smallint
language sql immutable parallel safe
return least(greatest(
  ceil(ln(greatest(date_part('epoch', took) * 1000, 1)) * 4 / ln(2::double precision) - 1e-9), 0), 200)::smallint;
comment on function latency_bucket is 'The bucket of a duration, four to an octave of milliseconds.';

create function latency_bucket_ms(bucket integer) returns double precision
language sql immutable parallel safe
return power(2::double precision, bucket / 4::double precision);
comment on function latency_bucket_ms is 'The upper end of a bucket, in milliseconds.';

-- The 95 % Wilson interval of k in n: where the true share lies, also when n is small. Null when n is 0.
create function wilson_95_low(k bigint, n bigint) returns double precision
language sql immutable parallel safe
return case when n > 0 then case when k = 0 then 0 else
  (k + 1.9207294103470565 - 1.959963984540054 * sqrt(k::double precision * (n - k) / n + 0.9603647051735282))
    / (n + 3.841458820694113) end end;
comment on function wilson_95_low is 'Lower end of the 95 % Wilson interval of k in n.';

create function wilson_95_high(k bigint, n bigint) returns double precision
language sql immutable parallel safe
return 1 - wilson_95_low(n - k, n);
comment on function wilson_95_high is 'Upper end of the 95 % Wilson interval of k in n.';

create function wilson_95(k bigint, n bigint, out low double precision, out high double precision)
language sql immutable parallel safe
return row(wilson_95_low(k, n), wilson_95_high(k, n));
comment on function wilson_95 is 'The 95 % Wilson interval of k in n: where the true share lies, also when n is small.';

-- Schedule and cancel --------------------------------------------------------------------------------------------

create function require_read_committed() returns void
language plpgsql
as $$
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception 'warmproof needs a transaction at READ COMMITTED, this one is at %',
      upper(current_setting('transaction_isolation'))
      using errcode = 'invalid_transaction_state',
        hint = 'begin the transaction with: begin isolation level read committed';
  end if;
end;
$$;
comment on function require_read_committed is 'Refuses callers at another isolation level than READ COMMITTED.';

-- Ends one pending row as superseded. Its caller holds the row's lock.
create function supersede(old pending, moment timestamptz) returns void
language sql
set search_path from current
as $$
  with gone as (
    delete from pending where run_id = old.run_id
  ), recorded as (
    insert into outcome (
      settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
      dequeued_at, scheduled_at, due_at, outcome, fallback_result,
      claim_count, probe_count, create_count, connected_at, lost_at, create_permitted_at, workload, error, traceparent)
    values (
      moment, old.id, old.run_id, old.snapshot_id, old.pool, old.supervisor, old.region,
      old.deployment_version, old.intent, old.dequeued_at, old.scheduled_at, old.due_at,
      ending_of(old.lost_at, 'superseded'),
      case when old.lost_at is null then null else 'superseded' end,
      old.claim_count, old.probe_count, old.create_count, old.connected_at, old.lost_at, old.create_permitted_at,
      old.workload, old.last_error, old.traceparent)
    returning settled_at, outcome, fallback_result
  )
  insert into outcome_count (
    minute, pool, supervisor, region, deployment_version, intent, outcome, fallback_result, n, latencies)
  select date_trunc('minute', settled_at), old.pool, old.supervisor, old.region, old.deployment_version,
    old.intent, outcome, fallback_result, 1,
    case when old.lost_at is not null then array[latency_bucket(old.lost_at - old.due_at)] end
  from recorded;
$$;
comment on function supersede is 'Ends one pending row as superseded; its caller holds the row''s lock.';

-- Schedules one dispatch with every rule of a verification's life:
--   no row for the run                          created (duplicate or outdated when it has ended already)
--   a row at the same snapshot                  duplicate, nothing changes
--   a row at another snapshot, ours is later    superseded: the old one ends, a new one takes its place
--   otherwise                                   outdated, nothing changes
create function schedule_one(
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
          and (o.snapshot_id = new_snapshot_id or o.dequeued_at > new_dequeued_at)
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
      elsif new_dequeued_at <= old.dequeued_at then
        result := 'outdated';
        return;
      end if;
      perform supersede(old, clock_timestamp());
      took_over := true;
    end if;
  end loop;
end;
$$;
comment on function schedule_one is 'Schedules one dispatch with every rule; what schedule and schedule_many call.';

-- Schedules many dispatches, each run at most once in a call, in the order of run ids so that batches never
-- deadlock. The library passes what its own statement for fresh dispatches left out.
-- Each answer names its element by the id given for it.
create function schedule_many(
  ids uuid[], run_ids text[], snapshot_ids text[], pools text[], supervisors text[], regions text[],
  deployment_versions text[], intents text[], dequeued_ats timestamptz[], delays_ms integer[],
  traceparents text[], timings_texts text[], codecs smallint[], messages bytea[], default_delay_ms integer)
returns table (given_id uuid, result text, id uuid, due_at timestamptz)
language plpgsql
set search_path from current
as $$
#variable_conflict use_column
declare
  n integer;
begin
  for n in
    select i.n::integer from unnest(run_ids) with ordinality as i (run_id, n) order by i.run_id collate "C"
  loop
    return query
    select ids[n], s.result, s.id, s.due_at
    from schedule_one(ids[n], run_ids[n], snapshot_ids[n], pools[n], supervisors[n], regions[n],
      deployment_versions[n], intents[n], dequeued_ats[n], delays_ms[n], traceparents[n],
      timings_texts[n], codecs[n], messages[n], default_delay_ms) as s;
  end loop;
end;
$$;
comment on function schedule_many is 'Schedules a batch of dispatches; answers created, superseded, duplicate, outdated or unknown_pool for each given id.';

-- Cancels many verifications by run, each run at most once in a call.
--   before the permit           cancelled: the row ends here
--   the same, a connect in a    noted: stored on the row, the probe happens all the same
--   pool that keeps watching
--   after the permit            too_late: a connect is noted on the row, nothing else changes
--   no row, or another snapshot not_found
create function cancel_many(run_ids text[], snapshot_ids text[], reasons text[])
returns table (ordinal integer, result text, id uuid)
language plpgsql
set search_path from current
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_column
declare
  moment      timestamptz := clock_timestamp();
  watching    text[] := array(select name from pool where on_connect = 'keep_watching');
  answered    integer[] := '{}';
  done        integer[];
  done_ids    uuid[];
  done_results text[];
begin
  perform require_read_committed();
  loop
    -- A cancel waits for the writer that holds its row and then decides by what that writer left.
    with input as materialized (
      select * from unnest(run_ids, snapshot_ids, reasons) with ordinality as i (run_id, snapshot_id, reason, ordinal)
      where i.ordinal <> all (answered)
      order by run_id collate "C"
    ), gone as (
      delete from pending p using input i
      where p.run_id = i.run_id
        and (i.snapshot_id is null or p.snapshot_id = i.snapshot_id)
        and p.create_permitted_at is null
        and (i.reason <> 'connected' or p.pool <> all (watching))
      returning
        i.ordinal, i.reason as cancel_reason,
        p.id, p.run_id, p.snapshot_id, p.pool, p.supervisor, p.region, p.deployment_version, p.intent,
        p.dequeued_at, p.scheduled_at, p.due_at, p.claim_count, p.probe_count, p.create_count, p.lost_at,
        p.create_permitted_at, p.workload, p.last_error, p.traceparent
    ), judged as (
      select
        ending_of(lost_at, 'cancelled') as outcome,
        case when lost_at is null then cancel_reason end as reason,
        case when lost_at is not null then loss_cancelled_by(cancel_reason) end as fallback_result,
        case
          when lost_at is not null then latency_bucket(lost_at - due_at)
          when cancel_reason = 'connected' then latency_bucket(moment - scheduled_at)
        end as bucket,
        gone.*
      from gone
    ), recorded as (
      insert into outcome (
        settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
        dequeued_at, scheduled_at, due_at, outcome, reason, fallback_result,
        claim_count, probe_count, create_count, connected_at, lost_at, create_permitted_at, workload, error, traceparent)
      select moment, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
        dequeued_at, scheduled_at, due_at, outcome, reason, fallback_result,
        claim_count, probe_count, create_count,
        case when cancel_reason = 'connected' then moment end, lost_at, create_permitted_at, workload, last_error, traceparent
      from judged
    ), counted as (
      insert into outcome_count (
        minute, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, n, latencies)
      select date_trunc('minute', moment), pool, supervisor, region, deployment_version, intent, outcome, reason,
        fallback_result, count(*), array_agg(bucket) filter (where bucket is not null)
      from judged
      group by pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result
    )
    select array_agg(ordinal::integer), array_agg(id) into done, done_ids from gone;

    return query select d.ordinal, 'cancelled', d.id from unnest(done, done_ids) as d (ordinal, id);
    answered := answered || coalesce(done, '{}');
    if cardinality(answered) = cardinality(run_ids) then
      return;
    end if;

    with input as materialized (
      select * from unnest(run_ids, snapshot_ids, reasons) with ordinality as i (run_id, snapshot_id, reason, ordinal)
      where i.ordinal <> all (answered)
      order by run_id collate "C"
    ), late as (
      update pending p
      set connected_at = case when i.reason = 'connected' then coalesce(p.connected_at, moment) else p.connected_at end
      from input i
      where p.run_id = i.run_id
        and (i.snapshot_id is null or p.snapshot_id = i.snapshot_id)
        and (p.create_permitted_at is not null or i.reason = 'connected' and p.pool = any (watching))
      returning i.ordinal, p.id, case when p.create_permitted_at is null then 'noted' else 'too_late' end as answer
    )
    select array_agg(ordinal::integer), array_agg(id), array_agg(answer) into done, done_ids, done_results from late;

    return query select l.ordinal, l.answer, l.id from unnest(done, done_ids, done_results) as l (ordinal, id, answer);
    answered := answered || coalesce(done, '{}');
    if cardinality(answered) = cardinality(run_ids) then
      return;
    end if;

    -- A superseding schedule may have replaced the row that we waited for by a new one.
    exit when not exists (
      select 1
      from unnest(run_ids, snapshot_ids) with ordinality as i (run_id, snapshot_id, ordinal)
      join pending p on p.run_id = i.run_id and (i.snapshot_id is null or p.snapshot_id = i.snapshot_id)
      where i.ordinal <> all (answered));
  end loop;

  if exists (
    select 1 from unnest(reasons) with ordinality as i (reason, ordinal)
    where i.reason <> 'connected' and i.ordinal <> all (answered)
  ) then
    -- The caller learns that there is nothing to cancel. Flush, so that after this answer a crash cannot
    -- undo an asynchronous cancel that took the row before us.
    perform pg_logical_emit_message(true, 'warmproof', 'not_found');
  end if;

  return query
  select i.n::integer, 'not_found', null::uuid from unnest(run_ids) with ordinality as i (run_id, n)
  where i.n <> all (answered);
end;
$$;
comment on function cancel_many is 'Cancels a batch of verifications by run, guarded by snapshot where one is given; answers cancelled, noted, too_late or not_found for each.';

-- Permits --------------------------------------------------------------------------------------------------------

-- Brown-outs: while many probes fail, a loss may be a healthy runner whose start is slow.
-- Losses are then held and probed again, until the brown-out and the cool-down after it are over.
-- Whether at least 10 probes of the last 30 s, and a fifth of them, failed to answer; records it if so.
create function observe_brown_out(observed_pool text) returns boolean
language plpgsql
set search_path from current
as $$
declare
  moment timestamptz := clock_timestamp();
  seen   boolean;
begin
  select coalesce(sum(probes), 0) >= 10 and sum(failures) * 5 >= sum(probes) into seen
  from probe_tally
  where pool = observed_pool and counted_at > moment - interval '30 seconds';
  if seen then
    insert into brown_out as b (pool, seen_at) values (observed_pool, moment)
    on conflict (pool) do update set seen_at = greatest(b.seen_at, excluded.seen_at);
  end if;
  return seen;
end;
$$;
comment on function observe_brown_out is 'Whether the pool is in a brown-out now; records it if so.';

-- Adds what one worker saw since its last report, and records a brown-out at once.
create function tally_probes(pools text[], probe_counts integer[], failure_counts integer[]) returns void
language plpgsql
set search_path from current
as $$
declare
  reported text;
begin
  insert into probe_tally (pool, counted_at, probes, failures)
  select t.pool, clock_timestamp(), t.probes, t.failures
  from unnest(pools, probe_counts, failure_counts) as t (pool, probes, failures);
  foreach reported in array pools loop
    perform observe_brown_out(reported);
  end loop;
end;
$$;
comment on function tally_probes is 'Adds one worker''s probes and failures, by pool.';

create function window_of(moment timestamptz, width_ms integer) returns timestamptz
language sql immutable
return to_timestamp(floor(extract(epoch from moment) * 1000 / width_ms) * width_ms / 1000);
comment on function window_of is 'Start of the window of this width that contains a moment.';

-- Answers
--   granted      a create may be requested; asked again, the same permit is granted without a second unit
--   suppressed   the pool is in shadow mode: settle, create nothing
--   deferred     the pool is paused, in a brown-out or its cap is spent: the row waits, its lease is free, it is
--                probed again
--   stale        the row is no longer ours
create function permit_create(
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
  if settings.paused then
    hold_reason := 'paused';
    again_at := moment + hold;
  elsif observe_brown_out(held.pool) or exists (
    select 1 from brown_out b
    where b.pool = held.pool and b.seen_at > moment - settings.cool_down_ms * interval '1 millisecond'
  ) then
    hold_reason := 'brown_out';
    -- Later than other losses, and at random: not every loss may ask a failing platform each second.
    again_at := moment + hold * (3 + 4 * random());
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
comment on function permit_create is 'Spends one unit of the pool''s cap and permits a create for a row marked lost, or answers why not.';

-- When a loss over the cap is probed again: in the first window that has room for it. Close to the redrive
-- the platform itself moves the run on, so a window after the redrive helps nothing: the probe comes right
-- after the redrive instead, and records it.
create function take_place_in_line(held pending, settings pool, moment timestamptz, hold interval) returns timestamptz
language plpgsql
set search_path from current
as $$
declare
  width      interval := settings.cap_window_ms * interval '1 millisecond';
  redrive_at timestamptz := left_queue_at(held.dequeued_at, held.scheduled_at) + interval '60 seconds';
  candidate  timestamptz;
  place      integer;
begin
  if settings.cap = 0 then
    if moment < redrive_at then
      return greatest(redrive_at, moment + hold) + (1 + 2 * random()) * interval '1 second';
    end if;
    return moment + greatest(hold, (30 + 30 * random()) * interval '1 second');
  end if;
  select w.starts_at into candidate from fallback_window w
  where w.pool = held.pool and w.starts_at > moment
  order by w.starts_at desc limit 1;
  candidate := coalesce(candidate, window_of(moment + width, settings.cap_window_ms));
  loop
    if moment < redrive_at and candidate >= redrive_at then
      return redrive_at + (1 + 2 * random()) * interval '1 second';
    end if;
    insert into fallback_window as w (pool, starts_at, spent, awaited) values (held.pool, candidate, 0, 1)
    on conflict (pool, starts_at) do update set awaited = w.awaited + 1 where w.spent + w.awaited < settings.cap
    returning w.awaited into place;
    if found then
      -- Spread over the window, with time left at its end for the probe that comes before the create.
      return candidate + width * (0.7 * (place - 1) / settings.cap);
    end if;
    candidate := candidate + width;
  end loop;
end;
$$;
comment on function take_place_in_line is 'When a loss over its pool''s cap is probed again; reserves room in a window.';

-- A new cap makes the planned windows wrong: losses that wait are probed soon and get a new window. Each
-- statement that changes a pool's cap, its window, its shadow or its cool-down calls this.
create function line_up_again(changed_pool text) returns void
language plpgsql
set search_path from current
as $$
declare
  moment timestamptz := clock_timestamp();
begin
  delete from fallback_window w where w.pool = changed_pool and w.starts_at > moment;
  update pending p
  set window_at = null,
    -- Spread over two seconds, by a hash that is fixed for each run.
    probe_at = least(p.probe_at, moment + (abs(hashtext(p.run_id)::bigint) % 2000) * interval '1 millisecond')
  from (
    select waiting.run_id from pending waiting
    where waiting.pool = changed_pool and waiting.lost_at is not null and waiting.create_permitted_at is null
      and waiting.fence is null
    for update skip locked
  ) as w
  where p.run_id = w.run_id;
end;
$$;
comment on function line_up_again is 'When a pool''s cap changes: losses that wait get a new window.';

-- Plain SQL: docs/sql.md shows examples ---------------------------------------------------------------------------

-- A UUID of version 7. The server has its own function only from version 18 on.
create function fresh_id() returns uuid
language sql volatile
return encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
  placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
  from 1 for 6), 52, 1), 53, 1), 'hex')::uuid;
comment on function fresh_id is 'A time-ordered UUID (version 7).';

-- A name as people write it: not empty, bounded, printable; the same rule as the API's.
create function require_name(field text, value text) returns text
language plpgsql
as $$
begin
  if value = '' or octet_length(value) > 200 or value ~ '[\x01-\x1f\x7f-\x9f]' then
    raise exception '`%` must be 1 to 200 bytes without control characters', field
      using errcode = 'invalid_parameter_value';
  end if;
  return value;
end;
$$;
comment on function require_name is 'The value, or an error that names the field.';

create function require_id(field text, prefix text, value text) returns text
language plpgsql
as $$
begin
  if value is null or octet_length(value) > 200 or value !~ ('^' || prefix || '_[A-Za-z0-9]+$') then
    raise exception '`%` must be `%_` and then only ASCII letters and digits, at most 200 bytes', field, prefix
      using errcode = 'invalid_parameter_value';
  end if;
  return value;
end;
$$;
comment on function require_id is 'The platform''s id, or an error that names the field.';

-- Null only where the value is absent and not required.
create function message_text(message json, required boolean, variadic path text[]) returns text
language plpgsql
as $$
declare
  value json := message #> path;
begin
  if value is null or json_typeof(value) = 'null' then
    if not required then
      return null;
    end if;
    raise exception 'the dequeued message lacks `%`', array_to_string(path, '.')
      using errcode = 'invalid_parameter_value';
  elsif json_typeof(value) <> 'string' then
    raise exception 'the dequeued message has no string as `%`', array_to_string(path, '.')
      using errcode = 'invalid_parameter_value';
  end if;
  return message #>> path;
end;
$$;
comment on function message_text is 'One string of a dequeued message, or an error that names its field.';

-- As the platform's client reads it: RFC 3339, or milliseconds since 1970.
create function message_dequeued_at(message json) returns timestamptz
language plpgsql
set datestyle = 'ISO, YMD'
as $$
declare
  value text := message ->> 'dequeuedAt';
begin
  if json_typeof(message -> 'dequeuedAt') = 'number' and value ~ '^-?[0-9]{1,14}$' then
    return timestamptz '1970-01-01 00:00:00+00' + value::bigint * interval '1 millisecond';
  elsif json_typeof(message -> 'dequeuedAt') = 'string'
    and value ~* '^\d{4}-\d\d-\d\d[t ]\d\d:\d\d:\d\d(\.\d+)?(z|[+-]\d\d:\d\d)$' then
    -- Cut off, not rounded, as everywhere else here.
    return regexp_replace(value, '(\.\d{6})\d+', '\1')::timestamptz;
  end if;
  raise invalid_datetime_format;
exception when data_exception then
  raise exception 'the dequeued message needs an RFC 3339 instant such as `2026-08-21T18:27:52.114Z` as `dequeuedAt`'
    using errcode = 'invalid_parameter_value';
end;
$$;
comment on function message_dequeued_at is 'When a dequeued message left the queue, or an error that names the field.';

-- Runs with the owner's rights and reads no table of the caller's: a client needs the right to
-- this call and no other.
create function schedule(
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
  result := answer.result;
  id := answer.id;
  due_at := answer.due_at;
end;
$$;
comment on function schedule is
  'Promises to verify one dispatch, in your own transaction (READ COMMITTED). Answers created, superseded, duplicate or outdated, the verification''s id and when it is due. Without delay_ms the pool''s delay, else 10 s.';

create function cancel(
  run_id text, snapshot_id text default null, reason text default 'connected', out result text, out id uuid)
language plpgsql
security definer
set search_path from current
as $$
#variable_conflict use_variable
declare
  answer record;
begin
  if reason is null or reason not in ('connected', 'miss', 'operator') then
    raise exception '`reason` must be `connected`, `miss` or `operator`' using errcode = 'invalid_parameter_value';
  elsif snapshot_id is not null then
    perform require_id('snapshot_id', 'snapshot', snapshot_id);
  end if;
  select * into strict answer from cancel_many(array[require_id('run_id', 'run', run_id)], array[snapshot_id], array[reason]);
  result := answer.result;
  id := answer.id;
end;
$$;
comment on function cancel is
  'Ends a run''s verification, in your own transaction (READ COMMITTED); with a snapshot id only that dispatch''s. Answers cancelled, noted (the pool keeps watching), too_late or not_found, and the verification''s id.';

select ensure_outcome_partitions(14);
