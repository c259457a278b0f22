-- What supervisors call: schedule and cancel, in their own transaction if they wish.
-- They are functions, so that SQL callers, the library and the API run the same rules.
--
-- Their plans are pinned to the index: a plan made while the hot table is nearly empty would read it whole
-- and be kept while the table fills. What is pinned looks dear to the planner, which must not compile it. They
-- need READ COMMITTED, where each statement sees what was committed before it; in a caller's older snapshot a
-- run that has ended would be revived.

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

-- Ends one pending row as superseded. Its caller holds the row's lock.
create function supersede(old pending) returns void
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
      clock_timestamp(), old.id, old.run_id, old.snapshot_id, old.pool, old.supervisor, old.region,
      old.deployment_version, old.intent, old.dequeued_at, old.scheduled_at, old.due_at,
      -- A loss stays a loss, whatever follows.
      case when old.lost_at is null then 'superseded' else 'fallback' end,
      case when old.lost_at is null then null else 'superseded' end,
      old.claim_count, old.probe_count, old.create_count, old.connected_at, old.lost_at, old.create_permitted_at,
      old.workload, old.last_error, old.traceparent)
    returning settled_at, outcome, fallback_result
  )
  insert into outcome_count (
    minute, pool, supervisor, region, deployment_version, intent, outcome, fallback_result, n)
  select date_trunc('minute', settled_at), old.pool, old.supervisor, old.region, old.deployment_version,
    old.intent, outcome, fallback_result, 1
  from recorded;
$$;

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
      scheduled_at, due_at, look_at, traceparent, timings, codec, message)
    values (
      new_id, new_run_id, new_snapshot_id, new_pool, new_supervisor, new_region, new_deployment_version,
      new_intent, new_dequeued_at, moment, moment + delay_ms * interval '1 millisecond',
      moment + delay_ms * interval '1 millisecond', new_traceparent, new_timings, new_codec, new_message)
    on conflict (run_id) do nothing
    returning p.id, p.due_at into schedule_one.id, schedule_one.due_at;

    if found then
      -- We hold the run's key now, so every earlier life of this run is visible below. A late retry
      -- must not revive what has ended. Within its first second a revival costs one probe and no more, and
      -- the look is spared.
      if not took_over and (moment - new_dequeued_at) not between interval '0' and interval '1 second' then
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
      perform supersede(old);
      took_over := true;
    end if;
  end loop;
end;
$$;

-- Schedules many dispatches, each run at most once in a call, in the order of run ids so that batches never
-- deadlock. The library comes here with what its own statement for fresh dispatches left out.
-- Answers name their element by the id that was given for it.
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
  answered    integer[] := '{}';
  done        integer[];
  done_ids    uuid[];
begin
  perform require_read_committed();
  loop
    -- A cancel waits for the writer that holds its row and then decides on what that writer left.
    with input as materialized (
      select * from unnest(run_ids, snapshot_ids, reasons) with ordinality as i (run_id, snapshot_id, reason, ordinal)
      where i.ordinal <> all (answered)
      order by run_id collate "C"
    ), gone as (
      delete from pending p using input i
      where p.run_id = i.run_id
        and (i.snapshot_id is null or p.snapshot_id = i.snapshot_id)
        and p.create_permitted_at is null
      returning
        i.ordinal, i.reason as cancel_reason,
        p.id, p.run_id, p.snapshot_id, p.pool, p.supervisor, p.region, p.deployment_version, p.intent,
        p.dequeued_at, p.scheduled_at, p.due_at, p.claim_count, p.probe_count, p.create_count, p.lost_at,
        p.create_permitted_at, p.workload, p.last_error, p.traceparent
    ), judged as (
      select
        case when lost_at is null then 'cancelled' else 'fallback' end as outcome,
        case when lost_at is null then cancel_reason end as reason,
        case when lost_at is null then null when cancel_reason = 'connected' then 'overtaken' else 'cancelled' end as fallback_result,
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
        minute, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, n)
      select date_trunc('minute', moment), pool, supervisor, region, deployment_version, intent, outcome, reason,
        fallback_result, count(*)
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
        and p.create_permitted_at is not null
      returning i.ordinal, p.id
    )
    select array_agg(ordinal::integer), array_agg(id) into done, done_ids from late;

    return query select l.ordinal, 'too_late', l.id from unnest(done, done_ids) as l (ordinal, id);
    answered := answered || coalesce(done, '{}');
    if cardinality(answered) = cardinality(run_ids) then
      return;
    end if;

    -- A superseding schedule may have put a new row in the place of the one we waited for.
    exit when not exists (
      select
      from unnest(run_ids, snapshot_ids) with ordinality as i (run_id, snapshot_id, ordinal)
      join pending p on p.run_id = i.run_id and (i.snapshot_id is null or p.snapshot_id = i.snapshot_id)
      where i.ordinal <> all (answered));
  end loop;

  if exists (
    select from unnest(reasons) with ordinality as i (reason, ordinal)
    where i.reason <> 'connected' and i.ordinal <> all (answered)
  ) then
    -- Somebody is told that there is nothing to cancel. Flush, so that an asynchronous cancel
    -- that took the row before us cannot be undone by a crash after this answer.
    perform pg_logical_emit_message(true, 'warmproof', 'not_found');
  end if;

  return query
  select i.n::integer, 'not_found', null::uuid from unnest(run_ids) with ordinality as i (run_id, n)
  where i.n <> all (answered);
end;
$$;
comment on function cancel_many is 'Cancels a batch of verifications by run, guarded by snapshot where one is given; answers cancelled, too_late or not_found for each.';
