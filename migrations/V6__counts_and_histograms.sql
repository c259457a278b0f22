-- Counts that a year of reports can read, and histograms of two latencies.
--
-- A statement that creates or ends verifications appends deltas to outcome_count, as before, and with them the
-- bucket of each latency. Upkeep moves the deltas on, all in one statement, so that every snapshot holds each
-- verification once: into totals, hours, minutes (kept for two days) and latency_count.

-- Sent ahead of the path by a caller, a temporary table would take the place of ours in a function that runs
-- with our rights. Named last, it cannot.
do $$
declare
  ours regprocedure;
begin
  for ours in
    select p.oid from pg_proc p
    where p.pronamespace = current_schema()::regnamespace and p.proconfig::text like '%search_path=%'
  loop
    execute format('alter function %s set search_path = %I, pg_temp', ours, current_schema());
  end loop;
end;
$$;

-- Four buckets an octave: bucket b holds what took longer than 2^((b - 1) / 4) ms and at most 2^(b / 4) ms, so that
-- a bucket's upper end is at most 19 % too high. Bucket 0 holds all up to 1 ms. What lies on an edge belongs below it,
-- whatever the last bit of a logarithm says.
create function latency_bucket(took interval) returns smallint
language sql immutable parallel safe
return least(greatest(
  ceil(ln(greatest(date_part('epoch', took) * 1000, 1)) * 4 / ln(2::double precision) - 1e-9), 0), 200)::smallint;
comment on function latency_bucket is 'The bucket of a duration, four to an octave of milliseconds.';

create function latency_bucket_ms(bucket integer) returns double precision
language sql immutable parallel safe
return power(2::double precision, bucket / 4::double precision);
comment on function latency_bucket_ms is 'The upper end of a bucket, in milliseconds.';

alter table outcome_count add column latencies smallint[];
comment on table outcome_count is
  'Deltas not folded yet: every statement that creates or ends a verification appends its own rows. Ask the views count_minutely and count_hourly.';

-- What is here was written in the last minutes, and is read whole.
drop index outcome_count_unmerged;
drop index outcome_count_minute;
alter table outcome_count set (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
  autovacuum_vacuum_insert_threshold = -1, autovacuum_vacuum_cost_delay = 0);

create table outcome_total (
  outcome text   collate "C" primary key,
  n       bigint not null,
  constraint outcome_total_known check (outcome in
    ('scheduled', 'delivered', 'fallback', 'probe_error', 'cancelled', 'superseded')),
  constraint outcome_total_positive check (n > 0)
);
comment on table outcome_total is 'All that was ever folded, by outcome; with the deltas and pending it makes conservation.';

create table outcome_hour (
  hour               timestamptz not null,
  pool               text        collate "C" not null,
  supervisor         text        collate "C",
  region             text        collate "C",
  deployment_version text        collate "C",
  intent             text        collate "C" not null,
  outcome            text        collate "C" not null,
  reason             text        collate "C",
  fallback_result    text        collate "C",
  late               boolean     not null,
  n                  bigint      not null,
  constraint outcome_hour_once unique nulls not distinct
    (hour, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late),
  constraint outcome_hour_positive check (n > 0)
) with (fillfactor = 80);
comment on table outcome_hour is 'Counts by hour (UTC), kept for ever; written by upkeep alone.';
-- Days are asked for by date. The key serves hours.
create index outcome_hour_day on outcome_hour (((hour at time zone 'utc')::date));

create table outcome_minute (
  minute             timestamptz not null,
  pool               text        collate "C" not null,
  supervisor         text        collate "C",
  region             text        collate "C",
  deployment_version text        collate "C",
  intent             text        collate "C" not null,
  outcome            text        collate "C" not null,
  reason             text        collate "C",
  fallback_result    text        collate "C",
  late               boolean     not null,
  n                  bigint      not null,
  constraint outcome_minute_once unique nulls not distinct
    (minute, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late),
  constraint outcome_minute_positive check (n > 0)
) with (fillfactor = 80);
comment on table outcome_minute is 'The same counts by minute, kept for two days; written by upkeep alone.';

create table latency_count (
  hour   timestamptz not null,
  pool   text        collate "C" not null,
  kind   text        collate "C" not null,
  bucket smallint    not null,
  n      bigint      not null,
  primary key (kind, hour, pool, bucket),
  constraint latency_count_kind_known check (kind in ('connect', 'verdict')),
  constraint latency_count_positive check (n > 0)
) with (fillfactor = 80);
comment on table latency_count is 'Histograms by hour (UTC) and pool, kept for ever; written by upkeep alone.';

create table upkeep_done (
  task    text        collate "C" primary key,
  done_at timestamptz not null
);
comment on table upkeep_done is 'When a rare task of upkeep was last taken up.';

create or replace function supersede(old pending) returns void
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
    minute, pool, supervisor, region, deployment_version, intent, outcome, fallback_result, n, latencies)
  select date_trunc('minute', settled_at), old.pool, old.supervisor, old.region, old.deployment_version,
    old.intent, outcome, fallback_result, 1,
    case when old.lost_at is not null then array[latency_bucket(old.lost_at - old.due_at)] end
  from recorded;
$$;

create or replace view conservation as
select
  counted.scheduled,
  waiting.n as pending,
  counted.ended,
  (counted.scheduled - counted.ended - waiting.n)::bigint as unaccounted
from (
  select
    coalesce(sum(n) filter (where outcome = 'scheduled'), 0)::bigint as scheduled,
    coalesce(sum(n) filter (where outcome <> 'scheduled'), 0)::bigint as ended
  from (select outcome, n from outcome_total union all select outcome, n from outcome_count) as every_count
) as counted
cross join (select count(*) as n from pending) as waiting;

-- As before, with the latency of each row beside the count.
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

-- Partitions belong to the owner of outcome, so that workers need not own anything.
alter function ensure_outcome_partitions security definer;
revoke execute on function ensure_outcome_partitions from public;

-- One at a time: each needs the table for itself for an instant, which its caller bounds by lock_timeout.
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
    -- The youngest row of that day is older than so many days.
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
revoke execute on function drop_old_outcomes from public;
comment on function drop_old_outcomes is
  'Drops the oldest daily partition of outcome whose rows are all older than so many days; returns its name, or null. No count changes.';

-- Nobody but us analyzes a parent: autovacuum sees the partitions only.
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
revoke execute on function analyze_outcomes from public;
comment on function analyze_outcomes is 'Gathers the planner''s statistics of outcome as a whole.';

-- The 95 % Wilson interval of k in n: where the true share lies, also when n is small. Null when n is 0.
create function wilson_95_low(k bigint, n bigint) returns double precision
language sql immutable parallel safe
return case when n > 0 then case when k = 0 then 0 else
  (k + 1.9207294103470565 - 1.959963984540054 * sqrt(k::double precision * (n - k) / n + 0.9603647051735282))
    / (n + 3.841458820694113) end end;
comment on function wilson_95_low is 'Lower end of the 95 % Wilson interval of k in n.';

create function wilson_95_high(k bigint, n bigint) returns double precision
language sql immutable parallel safe
return case when n > 0 then case when k = n then 1 else
  (k + 1.9207294103470565 + 1.959963984540054 * sqrt(k::double precision * (n - k) / n + 0.9603647051735282))
    / (n + 3.841458820694113) end end;
comment on function wilson_95_high is 'Upper end of the 95 % Wilson interval of k in n.';

create function wilson_95(k bigint, n bigint, out low double precision, out high double precision)
language sql immutable parallel safe
return row(wilson_95_low(k, n), wilson_95_high(k, n));
comment on function wilson_95 is 'The 95 % Wilson interval of k in n: where the true share lies, also when n is small.';

create view count_minutely as
select minute, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late, n
from outcome_minute
union all
select minute, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late, n
from outcome_count;
comment on view count_minutely is 'Counts by minute over the last two days, to the last commit. Several rows may speak of the same: sum n.';

create view count_hourly as
select hour, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late, n
from outcome_hour
union all
select date_trunc('hour', minute, 'UTC'), pool, supervisor, region, deployment_version, intent, outcome, reason,
  fallback_result, late, n
from outcome_count;
comment on view count_hourly is 'Counts by hour (UTC), to the last commit. Several rows may speak of the same: sum n.';

create view latency_hourly as
select hour, pool, kind, bucket, n
from latency_count
union all
select date_trunc('hour', minute, 'UTC'), pool, case when outcome = 'cancelled' then 'connect' else 'verdict' end,
  bucket, 1
from outcome_count
cross join lateral unnest(latencies) as bucket;
comment on view latency_hourly is 'Histograms by hour (UTC), to the last commit. Several rows may speak of the same bucket: sum n.';

create view latency_quantiles as
select
  hour, pool, kind, sum(n)::bigint as n,
  latency_bucket_ms(min(bucket) filter (where up_to >= 0.5 * total)) as p50_ms,
  latency_bucket_ms(min(bucket) filter (where up_to >= 0.9 * total)) as p90_ms,
  latency_bucket_ms(min(bucket) filter (where up_to >= 0.99 * total)) as p99_ms,
  latency_bucket_ms(min(bucket) filter (where up_to >= 0.999 * total)) as p999_ms,
  latency_bucket_ms(max(bucket)) as max_ms
from (
  select hour, pool, kind, bucket, n,
    sum(n) over (partition by hour, pool, kind order by bucket) as up_to,
    sum(n) over (partition by hour, pool, kind) as total
  from (
    select hour, pool, kind, bucket, sum(n) as n from latency_hourly group by hour, pool, kind, bucket
  ) as histogram
) as running
group by hour, pool, kind;
comment on view latency_quantiles is 'Quantiles of both kinds by hour (UTC) and pool: so much took at most so long, to the next edge of a bucket.';

create view due_lag as
select hour, pool, n, p50_ms, p90_ms, p99_ms, p999_ms, max_ms from latency_quantiles where kind = 'verdict';
comment on view due_lag is
  'How long after due_at the verdict was on disk: the wait for a worker, the probes and the write together.';

create view connect_latency as
select hour, pool, n, p50_ms, p90_ms, p99_ms, p999_ms, max_ms from latency_quantiles where kind = 'connect';
comment on view connect_latency is 'How long after the hit was scheduled a runner''s connect cancelled it.';
