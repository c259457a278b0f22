-- Controls act until the request for a cold start is sent, and a late loss stays late however it ends.
--
-- A row with a permit may wait for a place, an image or a retry. Until now only the permit asked whether the pool is
-- paused, in shadow mode, in a brown-out or capped at 0; now the count before each request asks again. An operator's
-- cancel ends a row that has a permit and was never requested.

alter table audit drop constraint audit_action_known;
-- `not valid`: rows of the past satisfy the narrower rule already.
alter table audit add constraint audit_action_known check (action in
  ('pool.change', 'pool.stop', 'cancel', 'cancel.filter', 'probe_now', 'token.create', 'token.revoke', 'sign_in',
   'sign_out', 'message.show')) not valid;

-- Rules that several statements share ----------------------------------------------------------------------------

create function held_back_by(settings pool, moment timestamptz) returns text
language plpgsql
set search_path from current
as $$
begin
  if settings.paused then
    return 'paused';
  elsif observe_brown_out(settings.name) or exists (
    select 1 from brown_out b
    where b.pool = settings.name and b.seen_at > moment - settings.cool_down_ms * interval '1 millisecond'
  ) then
    return 'brown_out';
  end if;
  return null;
end;
$$;
comment on function held_back_by is 'What defers every cold start of a pool now: paused, brown_out or null; records a brown-out that it sees.';

create function held_until(hold_reason text, moment timestamptz, hold interval) returns timestamptz
language sql volatile
-- In a brown-out later than otherwise, and at random: not every loss may ask a failing platform each second.
return moment + case when hold_reason = 'brown_out' then hold * (3 + 4 * random()) else hold end;
comment on function held_until is 'When a loss that its pool holds back is probed again.';

create function is_cancellable(create_permitted_at timestamptz, create_count integer, reason text) returns boolean
language sql immutable parallel safe
return create_permitted_at is null or reason = 'operator' and create_count = 0;
comment on function is_cancellable is
  'Whether a cancel ends a row: before its permit, and for an operator until a cold start was requested.';

create function is_late_loss(lost_at timestamptz, dequeued_at timestamptz) returns boolean
language sql immutable parallel safe
return coalesce(lost_at > dequeued_at + interval '55 seconds', false);
comment on function is_late_loss is
  'Whether a loss was marked so late that the platform''s redrive may have come before: five seconds before it, or later.';

-- Permit and count ---------------------------------------------------------------------------------------------------

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
  hold_reason := held_back_by(settings, moment);
  if hold_reason is not null then
    again_at := held_until(hold_reason, moment, hold);
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

-- Counts a create before it is requested: the last step that an operator can stop. Answers
--   counted      request it now
--   suppressed   the pool is in shadow mode: settle, create nothing
--   deferred     the pool is paused, in a brown-out or its cap is 0: the row waits, its lease is free. A permit that no
--                request has used is taken back, and its unit of the cap with it
--   stale        the row is no longer ours, or has no permit
create function count_create(
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
  hold_reason := held_back_by(settings, moment);
  if hold_reason is not null then
    again_at := held_until(hold_reason, moment, hold);
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
comment on function count_create is 'Counts a create of a permitted row right before it is requested, or answers why none may be.';

-- Ends without a settle ------------------------------------------------------------------------------------------------

create or replace function supersede(old pending, moment timestamptz) returns void
language sql
set search_path from current
as $$
  with gone as (
    delete from pending where run_id = old.run_id
  ), recorded as (
    insert into outcome (
      settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
      dequeued_at, scheduled_at, due_at, outcome, fallback_result, late,
      claim_count, probe_count, create_count, connected_at, lost_at, create_permitted_at, workload, error, traceparent)
    values (
      moment, old.id, old.run_id, old.snapshot_id, old.pool, old.supervisor, old.region,
      old.deployment_version, old.intent, old.dequeued_at, old.scheduled_at, old.due_at,
      ending_of(old.lost_at, 'superseded'),
      case when old.lost_at is null then null else 'superseded' end,
      is_late_loss(old.lost_at, old.dequeued_at),
      old.claim_count, old.probe_count, old.create_count, old.connected_at, old.lost_at, old.create_permitted_at,
      old.workload, old.last_error, old.traceparent)
    returning settled_at, outcome, fallback_result, late
  )
  insert into outcome_count (
    minute, pool, supervisor, region, deployment_version, intent, outcome, fallback_result, late, n, latencies)
  select date_trunc('minute', settled_at), old.pool, old.supervisor, old.region, old.deployment_version,
    old.intent, outcome, fallback_result, late, 1,
    case when old.lost_at is not null then array[latency_bucket(old.lost_at - old.due_at)] end
  from recorded;
$$;

create or replace function cancel_many(run_ids text[], snapshot_ids text[], reasons text[])
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
        and is_cancellable(p.create_permitted_at, p.create_count, i.reason)
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
        is_late_loss(lost_at, dequeued_at) as late,
        case
          when lost_at is not null then latency_bucket(lost_at - due_at)
          when cancel_reason = 'connected' then latency_bucket(moment - scheduled_at)
        end as bucket,
        gone.*
      from gone
    ), recorded as (
      insert into outcome (
        settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
        dequeued_at, scheduled_at, due_at, outcome, reason, fallback_result, late,
        claim_count, probe_count, create_count, connected_at, lost_at, create_permitted_at, workload, error, traceparent)
      select moment, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
        dequeued_at, scheduled_at, due_at, outcome, reason, fallback_result, late,
        claim_count, probe_count, create_count,
        case when cancel_reason = 'connected' then moment end, lost_at, create_permitted_at, workload, last_error, traceparent
      from judged
    ), counted as (
      insert into outcome_count (
        minute, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late, n, latencies)
      select date_trunc('minute', moment), pool, supervisor, region, deployment_version, intent, outcome, reason,
        fallback_result, late, count(*), array_agg(bucket) filter (where bucket is not null)
      from judged
      group by pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late
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
        and (not is_cancellable(p.create_permitted_at, p.create_count, i.reason)
          or i.reason = 'connected' and p.pool = any (watching))
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
