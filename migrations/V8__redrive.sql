-- When the platform takes back a run that nothing has started is a setting of the platform, and so of each pool. Late
-- losses, and the line of those that wait for the cap, follow it; until now a minute was assumed.

alter table pool add column redrive_ms integer not null default 60000;
alter table pool add constraint pool_redrive_bounded check (redrive_ms between 10000 and 3600000);
comment on column pool.redrive_ms is
  'Milliseconds from the dequeue of a run until the platform takes it back because nothing has started it; its workers set it.';

create function redrive_of(named_pool text) returns interval
language sql stable
set search_path from current
as $$ select coalesce((select redrive_ms from pool where name = named_pool), 60000) * interval '1 millisecond'; $$;
comment on function redrive_of is 'How long after a dequeue the platform takes a run of this pool back.';

create function is_late_loss(lost_at timestamptz, dequeued_at timestamptz, redrive interval) returns boolean
language sql immutable parallel safe
return coalesce(lost_at > dequeued_at + redrive - interval '5 seconds', false);
comment on function is_late_loss(timestamptz, timestamptz, interval) is
  'Whether a loss was marked so late that the platform''s redrive may have come before: five seconds before it, or later.';

create or replace function take_place_in_line(held pending, settings pool, moment timestamptz, hold interval) returns timestamptz
language plpgsql
set search_path from current
as $$
declare
  width      interval := settings.cap_window_ms * interval '1 millisecond';
  redrive_at timestamptz := left_queue_at(held.dequeued_at, held.scheduled_at) + settings.redrive_ms * interval '1 millisecond';
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
      is_late_loss(old.lost_at, old.dequeued_at, redrive_of(old.pool)),
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
        is_late_loss(lost_at, dequeued_at, redrive_of(pool)) as late,
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

-- For programs of before.
create or replace function is_late_loss(lost_at timestamptz, dequeued_at timestamptz) returns boolean
language sql immutable parallel safe
return is_late_loss(lost_at, dequeued_at, interval '60 seconds');
