-- Pools in an operator's hand: who serves them, what a connect means, and a line for losses over the cap.

alter table pool
  add column on_connect text collate "C" not null default 'confirm'
    constraint pool_on_connect_known check (on_connect in ('confirm', 'keep_watching'));
comment on column pool.on_connect is
  'confirm: a connect cancels the verification; keep_watching: it is noted, and the look happens all the same.';

alter table pending
  add column window_at        timestamptz,
  add column prepare_failures integer not null default 0
    constraint pending_prepare_failures_not_negative check (prepare_failures >= 0);
comment on column pending.window_at is 'Start of the window for which a loss over the cap stands in line; null: it never stood in one.';
comment on column pending.prepare_failures is 'Times that a create could not be prepared, such as for want of an image.';

create table worker (
  name       text        collate "C" primary key,
  version    text        not null,
  started_at timestamptz not null default clock_timestamp(),
  seen_at    timestamptz not null default clock_timestamp(),
  in_hand    integer     not null,
  pools      text[]      collate "C" not null,
  backends   text[]      collate "C" not null,
  problems   text[]      not null,
  constraint worker_name_bounded check (octet_length(name) between 1 and 200),
  -- One element a pool; a problem that is null is none.
  constraint worker_pools_whole check (cardinality(backends) = cardinality(pools) and cardinality(problems) = cardinality(pools))
);
comment on table worker is 'Workers that are running, or were until lately. Nothing is decided by it: claims rest on leases alone.';
comment on column worker.problems is 'What keeps the worker from cold-starting in a pool, in the order of pools; null: nothing known.';

-- Losses over the cap stand in line: each waits for the first window that is not yet awaited by as many as fit.
-- `awaited` only spaces their looks and keeps newcomers from going first; what is permitted is `spent`, never above the cap.
alter table fallback_window
  add column awaited integer not null default 0,
  drop constraint fallback_window_positive,
  add constraint fallback_window_counts_something check (spent >= 0 and awaited >= 0 and spent + awaited > 0);
comment on column fallback_window.awaited is 'Losses that stand in line for this window and have not come back yet.';

create function window_of(moment timestamptz, width_ms integer) returns timestamptz
language sql immutable
return to_timestamp(floor(extract(epoch from moment) * 1000 / width_ms) * width_ms / 1000);
comment on function window_of is 'Start of the window of so many milliseconds that holds a moment.';

-- Answers
--   granted      a create may be requested; asked again, the same permit is granted without a second unit
--   suppressed   the pool is in shadow mode: settle, create nothing
--   held         the pool is paused, in a brown-out or its cap is spent: the row waits, its lease is free, it is
--                probed again
--   stale        the row is no longer ours
create or replace function permit_create(
  held_run_id text, held_id uuid, held_fence bigint, hold_ms integer, out answer text, out hold_reason text)
language plpgsql
set search_path from current
as $$
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
    select from brown_out b
    where b.pool = held.pool and b.seen_at > moment - settings.settle_down_ms * interval '1 millisecond'
  ) then
    hold_reason := 'brown_out';
    -- Rarer than others and spread out: an ailing platform must not be asked each second by every loss.
    again_at := moment + hold * (3 + 4 * random());
  else
    began := window_of(moment, settings.cap_window_ms);
    if settings.cap is distinct from 0 then
      insert into fallback_window as w (pool, starts_at, spent) values (held.pool, began, 1)
      on conflict (pool, starts_at) do update
        set spent = w.spent + 1, awaited = greatest(w.awaited - (held.window_at is not distinct from began)::integer, 0)
        -- Whoever stands in line goes before those who come anew.
        where settings.cap is null
          or w.spent < settings.cap - case when held.window_at is null then w.awaited else 0 end;
    end if;
    if settings.cap = 0 or not found then
      hold_reason := 'cap';
      again_at := stand_in_line(held, settings, moment, hold);
    end if;
  end if;

  if hold_reason is null then
    update pending p set create_permitted_at = moment where p.run_id = held_run_id;
    answer := 'granted';
  else
    update pending p
    set look_at = again_at,
      window_at = case when hold_reason = 'cap' then window_of(again_at, settings.cap_window_ms) else p.window_at end,
      last_error = 'held: ' || hold_reason,
      lease_expires_at = null, fence = null, worker = null
    where p.run_id = held_run_id;
    answer := 'held';
  end if;
end;
$$;

-- When a loss over the cap is looked at again: in the first window that is not yet awaited by as many as fit.
-- Near its redrive the platform itself moves the run on, so a place behind that is worth nothing: the look
-- comes right after the redrive instead, and records it.
create function stand_in_line(held pending, settings pool, moment timestamptz, hold interval) returns timestamptz
language plpgsql
set search_path from current
as $$
declare
  width      interval := settings.cap_window_ms * interval '1 millisecond';
  -- A platform clock that is far off says nothing; the hit was scheduled right after the dequeue.
  redrive_at timestamptz := interval '60 seconds' + case
    when held.scheduled_at - held.dequeued_at between interval '0' and interval '1 minute' then held.dequeued_at
    else held.scheduled_at end;
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
      -- Spread over the window, with room at its end for the probe that comes first.
      return candidate + width * (0.7 * (place - 1) / settings.cap);
    end if;
    candidate := candidate + width;
  end loop;
end;
$$;
comment on function stand_in_line is 'When a loss over its pool''s cap is looked at again; takes a place in line.';

-- A new cap makes a new line: whoever stands in the old one is looked at soon and lines up again.
create function line_up_again() returns trigger
language plpgsql
set search_path from current
as $$
begin
  delete from fallback_window w where w.pool = new.name and w.starts_at > clock_timestamp();
  update pending p
  set window_at = null, look_at = least(p.look_at, clock_timestamp() + random() * interval '2 seconds')
  from (
    select waiting.run_id from pending waiting
    where waiting.pool = new.name and waiting.lost_at is not null and waiting.create_permitted_at is null
      and waiting.fence is null
    for update skip locked
  ) as w
  where p.run_id = w.run_id;
  return null;
end;
$$;
create trigger pool_cap_changed after update of cap, cap_window_ms, shadow, settle_down_ms on pool
for each row when (
  (old.cap, old.cap_window_ms, old.shadow, old.settle_down_ms)
    is distinct from (new.cap, new.cap_window_ms, new.shadow, new.settle_down_ms))
execute function line_up_again();

-- Cancels many verifications by run, each run at most once in a call.
--   before the permit           cancelled: the row ends here
--   the same, a connect in a    noted: stored on the row, the look happens all the same
--   pool that keeps watching
--   after the permit            too_late: a connect is noted on the row, nothing else changes
--   no row, or another snapshot not_found
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
        and (i.reason <> 'connected' or p.pool <> all (watching))
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
        and (p.create_permitted_at is not null or i.reason = 'connected' and p.pool = any (watching))
      returning i.ordinal, p.id, case when p.create_permitted_at is null then 'noted' else 'too_late' end as answer
    )
    select array_agg(ordinal::integer), array_agg(id), array_agg(answer) into done, done_ids, done_results from late;

    return query select l.ordinal, l.answer, l.id from unnest(done, done_ids, done_results) as l (ordinal, id, answer);
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
comment on function cancel_many is 'Cancels a batch of verifications by run, guarded by snapshot where one is given; answers cancelled, noted, too_late or not_found for each.';
