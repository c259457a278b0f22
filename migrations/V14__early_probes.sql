-- Probes that an operator asks for before they are due. Until now such a probe judged: it took a healthy run whose runner
-- had not started yet for lost, and started it again.

alter table pending add column early text collate "C";
alter table pending add column observation text;
alter table pending add column observed_at timestamptz;
alter table pending add constraint pending_early_known check (early in ('observe', 'act')) not valid;
comment on column pending.early is
  'An operator asked for a probe before due_at: observe, it changes nothing, or act, it judges as if the verification were due.';
comment on column pending.observation is 'What the last probe that changes nothing saw.';
comment on column pending.observed_at is 'When it saw that.';

alter table outcome add column early boolean not null default false;
comment on column outcome.early is 'An operator asked for the verdict before due_at; it is outside all rates.';
comment on column outcome_count.late is 'Outside all rates: the verdict is late, or an operator asked for it early.';
comment on column outcome_hour.late is 'Outside all rates: the verdict is late, or an operator asked for it early.';
comment on column outcome_minute.late is 'Outside all rates: the verdict is late, or an operator asked for it early.';

create function is_early(early text, judged_at timestamptz, due_at timestamptz) returns boolean
language sql immutable parallel safe
return coalesce(early = 'act' and judged_at < due_at, false);
comment on function is_early is 'Whether a verdict was given before it was due, because an operator asked for it.';

create or replace view pending_now as
select
  id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at, scheduled_at, due_at,
  probe_at, lease_expires_at, worker, claim_count, probe_count, probe_failures, create_count, connected_at, lost_at,
  create_permitted_at, hold_reason, workload, last_error, traceparent,
  pending_status(lease_expires_at, probe_at, lost_at, hold_reason) as status,
  extract(epoch from clock_timestamp() - scheduled_at)::double precision as age_seconds,
  extract(epoch from due_at - clock_timestamp())::double precision as due_in_seconds,
  early, observation, observed_at
from pending;

comment on column pending_now.early is 'An operator asked for a probe before due_at: observe or act.';
comment on column pending_now.observation is 'What the last probe that changes nothing saw.';
comment on column pending_now.observed_at is 'When it saw that.';

create or replace view outcomes as
select
  settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at,
  scheduled_at, due_at, outcome, reason, fallback_result, late, worker, claim_count, probe_count, create_count,
  connected_at, lost_at, create_permitted_at, probe_ms, workload, error, traceparent,
  (outcome = 'fallback' or (outcome = 'delivered' and reason = 'requeued')) and not late and not early as lost,
  case when outcome = 'cancelled' and reason = 'connected'
    then extract(epoch from settled_at - scheduled_at)::double precision * 1000 end as connect_ms,
  case when not early and (lost_at is not null or outcome in ('delivered', 'probe_error'))
    then extract(epoch from coalesce(lost_at, settled_at) - due_at)::double precision * 1000 end as verdict_ms,
  early
from outcome;

comment on column outcomes.early is 'An operator asked for the verdict before due_at; it is outside all rates.';

create or replace view false_positives as
select settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at,
  due_at, lost_at, create_permitted_at, connected_at, create_count, workload,
  extract(epoch from settled_at - due_at)::double precision as seconds_past_due
from outcome
where fallback_result = 'overtaken' and not early;

create or replace function supersede(old pending, moment timestamptz) returns void
language sql
set search_path from current
as $$
  with gone as (
    delete from pending where run_id = old.run_id
  ), recorded as (
    insert into outcome (
      settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
      dequeued_at, scheduled_at, due_at, outcome, fallback_result, late, early,
      claim_count, probe_count, create_count, connected_at, lost_at, create_permitted_at, workload, error, traceparent)
    values (
      moment, old.id, old.run_id, old.snapshot_id, old.pool, old.supervisor, old.region,
      old.deployment_version, old.intent, old.dequeued_at, old.scheduled_at, old.due_at,
      ending_of(old.lost_at, 'superseded'),
      case when old.lost_at is null then null else 'superseded' end,
      is_late_loss(old.lost_at, old.dequeued_at, redrive_of(old.pool)),
      is_early(old.early, old.lost_at, old.due_at),
      old.claim_count, old.probe_count, old.create_count, old.connected_at, old.lost_at, old.create_permitted_at,
      old.workload, old.last_error, old.traceparent)
    returning settled_at, outcome, fallback_result, late, early
  )
  insert into outcome_count (
    minute, pool, supervisor, region, deployment_version, intent, outcome, fallback_result, late, n, latencies)
  select date_trunc('minute', settled_at), old.pool, old.supervisor, old.region, old.deployment_version,
    old.intent, outcome, fallback_result, late or early, 1,
    case when old.lost_at is not null and not early then array[latency_bucket(old.lost_at - old.due_at)] end
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
        p.create_permitted_at, p.workload, p.last_error, p.traceparent,
        is_early(p.early, p.lost_at, p.due_at) as early
    ), judged as (
      select
        ending_of(lost_at, 'cancelled') as outcome,
        case when lost_at is null then cancel_reason end as reason,
        case when lost_at is not null then loss_cancelled_by(cancel_reason) end as fallback_result,
        is_late_loss(lost_at, dequeued_at, redrive_of(pool)) as late,
        case
          when early then null
          when lost_at is not null then latency_bucket(lost_at - due_at)
          when cancel_reason = 'connected' then latency_bucket(moment - scheduled_at)
        end as bucket,
        gone.*
      from gone
    ), recorded as (
      insert into outcome (
        settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
        dequeued_at, scheduled_at, due_at, outcome, reason, fallback_result, late, early,
        claim_count, probe_count, create_count, connected_at, lost_at, create_permitted_at, workload, error, traceparent)
      select moment, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
        dequeued_at, scheduled_at, due_at, outcome, reason, fallback_result, late, early,
        claim_count, probe_count, create_count,
        case when cancel_reason = 'connected' then moment end, lost_at, create_permitted_at, workload, last_error, traceparent
      from judged
    ), counted as (
      insert into outcome_count (
        minute, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late, n, latencies)
      select date_trunc('minute', moment), pool, supervisor, region, deployment_version, intent, outcome, reason,
        fallback_result, late or early, count(*), array_agg(bucket) filter (where bucket is not null)
      from judged
      group by pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late or early
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

create or replace function expire_unserved(silent interval, expire_after interval, most integer) returns integer
language sql
set search_path from current
as $$
  with recursive named (pool) as (
    -- The pools of all pending rows, one step of the index for each.
    select min(p.pool) from pending p
    union all
    select (select min(p.pool) from pending p where p.pool > n.pool) from named n where n.pool is not null
  ), unserved as materialized (
    select n.pool from named n
    where n.pool is not null
      and not exists (
        select 1 from worker w where n.pool = any (w.pools) and w.seen_at > statement_timestamp() - silent)
  ), gone as (
    delete from pending p
    where p.run_id = any (array(
      select overdue.run_id
      from unserved u
      cross join lateral (
        select c.run_id from pending c
        where c.pool = u.pool and c.probe_at < statement_timestamp() - expire_after
          and c.due_at < statement_timestamp() - expire_after
          and (c.lease_expires_at is null or c.lease_expires_at <= statement_timestamp())
        order by c.probe_at
        limit most
        for update skip locked
      ) as overdue))
    returning p.*
  ), judged as (
    select gone.*,
      ending_of(lost_at, 'probe_error') as outcome,
      case when lost_at is not null then 'failed' end as fallback_result,
      is_late_loss(lost_at, dequeued_at, redrive_of(pool)) as late,
      is_early(early, lost_at, due_at) as is_early
    from gone
  ), recorded as (
    insert into outcome (
      settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
      dequeued_at, scheduled_at, due_at, outcome, fallback_result, late, early, fence, worker,
      claim_count, probe_count, create_count, connected_at, lost_at, create_permitted_at, workload, error, traceparent)
    select statement_timestamp(), id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
      -- No claim settled it; an outcome of this kind has a fence and a worker.
      dequeued_at, scheduled_at, due_at, outcome, fallback_result, late, is_early, 1, 'upkeep',
      claim_count, probe_count, create_count, connected_at, lost_at, create_permitted_at, workload,
      'expired: no running worker serves the pool', traceparent
    from judged
    returning *
  ), counted as (
    insert into outcome_count (
      minute, pool, supervisor, region, deployment_version, intent, outcome, fallback_result, late, n, latencies)
    select date_trunc('minute', settled_at), pool, supervisor, region, deployment_version, intent, outcome,
      fallback_result, late or early, count(*),
      array_agg(latency_bucket(coalesce(lost_at, settled_at) - due_at)) filter (where not early)
    from recorded
    group by date_trunc('minute', settled_at), pool, supervisor, region, deployment_version, intent, outcome,
      fallback_result, late or early
  )
  select count(*)::integer from recorded;
$$;
