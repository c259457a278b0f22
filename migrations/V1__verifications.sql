-- Verifications, their outcomes and their counts.
-- Names are unqualified on purpose: the migration runs with the search_path of the configured schema.

create table pool (
  name          text collate "C" primary key,
  paused        boolean     not null default false,
  shadow        boolean     not null default false,
  delay_ms      integer,
  cap           integer,
  cap_window_ms integer     not null default 1000,
  created_at    timestamptz not null default clock_timestamp(),
  constraint pool_name_bounded      check (octet_length(name) between 1 and 200),
  constraint pool_delay_bounded     check (delay_ms between 1000 and 60000),
  constraint pool_cap_not_negative  check (cap >= 0),
  constraint pool_window_bounded    check (cap_window_ms between 100 and 3600000)
);
comment on table pool is 'Named groups of runners with one backend for cold starts.';
comment on column pool.paused is 'No row of the pool is claimed while true.';
comment on column pool.shadow is 'Losses are recorded and nothing is created while true.';
comment on column pool.delay_ms is 'Milliseconds from schedule to due_at when a call brings none; null: the caller''s default.';
comment on column pool.cap is 'Most fallbacks permitted in one window over all workers; null: no cap.';

insert into pool (name) values ('default');

create table pending (
  id                  uuid        not null,
  run_id              text        collate "C" primary key,
  snapshot_id         text        collate "C" not null,
  pool                text        collate "C" not null,
  supervisor          text        collate "C",
  region              text        collate "C",
  deployment_version  text        collate "C",
  intent              text        collate "C" not null,
  dequeued_at         timestamptz not null,
  scheduled_at        timestamptz not null,
  due_at              timestamptz not null,
  look_at             timestamptz not null,
  lease_expires_at    timestamptz,
  fence               bigint,
  worker              text        collate "C",
  claim_count         integer     not null default 0,
  probe_count         integer     not null default 0,
  probe_failures      integer     not null default 0,
  create_count        integer     not null default 0,
  connected_at        timestamptz,
  lost_at             timestamptz,
  create_permitted_at timestamptz,
  workload            text        collate "C",
  last_error          text,
  traceparent         text        collate "C",
  timings             text,
  codec               smallint    not null,
  message             bytea       not null,
  constraint pending_run_is_a_run           check (run_id like 'run\_%' and octet_length(run_id) <= 200),
  constraint pending_snapshot_is_a_snapshot check (snapshot_id like 'snapshot\_%' and octet_length(snapshot_id) <= 200),
  constraint pending_intent_known           check (intent in ('hit', 'dispatch')),
  constraint pending_delay_bounded          check (due_at between scheduled_at + interval '1 second' and scheduled_at + interval '60 seconds'),
  constraint pending_lease_whole            check (num_nulls(lease_expires_at, fence, worker) in (0, 3)),
  constraint pending_permit_needs_loss      check (create_permitted_at is null or lost_at is not null),
  constraint pending_create_needs_permit    check (create_count = 0 or create_permitted_at is not null),
  constraint pending_counts_not_negative    check (claim_count >= 0 and probe_count >= 0
    and probe_failures >= 0 and create_count >= 0),
  constraint pending_codec_known            check (codec between 0 and 2)
) with (
  -- Room for one new version on the page keeps claims HOT: they touch no indexed column.
  fillfactor = 85,
  -- The table turns over in seconds, so vacuum goes by count and runs at full speed.
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_insert_threshold = -1,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000,
  autovacuum_vacuum_cost_delay = 0
);
comment on table pending is 'Verifications that are promised and not ended; one row per run.';
comment on column pending.due_at is 'The promise: by then somebody looks. Never changes.';
comment on column pending.look_at is 'When to look next.';
comment on column pending.fence is 'A value no other claim ever had; every write to a claimed row matches it.';
comment on column pending.probe_failures is 'Probes since the last sighting that learned nothing; too many of them end in probe_error.';
comment on column pending.lost_at is 'When a probe first saw that nothing had acted. From then on the outcome is fallback.';
comment on column pending.create_permitted_at is 'When a cold start was permitted. A cancel comes too late from then on.';
comment on column pending.create_count is 'Creates requested, counted before each request.';
comment on column pending.workload is 'Name that the next create asks for; null: the name made from the dispatch.';
comment on column pending.codec is 'How message is stored: 0 as it came, 1 LZ4 block behind its length, 2 zstd frame.';
comment on column pending.message is 'The dequeued message as it came, opaque to the server.';

-- The pool leads so that rows of a paused or unserved pool cost a claim nothing.
create index pending_look on pending (pool, look_at);

do $$
begin
  alter table pending alter column message set compression lz4;
exception when feature_not_supported or invalid_parameter_value then
  -- A server built without lz4 keeps its own default.
  null;
end;
$$;

create table outcome (
  settled_at          timestamptz not null,
  id                  uuid        not null,
  run_id              text        collate "C" not null,
  snapshot_id         text        collate "C" not null,
  pool                text        collate "C" not null,
  supervisor          text        collate "C",
  region              text        collate "C",
  deployment_version  text        collate "C",
  intent              text        collate "C" not null,
  dequeued_at         timestamptz not null,
  scheduled_at        timestamptz not null,
  due_at              timestamptz not null,
  outcome             text        collate "C" not null,
  reason              text        collate "C",
  fallback_result     text        collate "C",
  late                boolean     not null default false,
  fence               bigint,
  worker              text        collate "C",
  claim_count         integer     not null,
  probe_count         integer     not null,
  create_count        integer     not null,
  connected_at        timestamptz,
  lost_at             timestamptz,
  create_permitted_at timestamptz,
  probe_ms            integer,
  workload            text        collate "C",
  error               text,
  traceparent         text        collate "C",
  constraint outcome_known check (outcome in ('delivered', 'fallback', 'probe_error', 'cancelled', 'superseded')),
  constraint outcome_reason_fits check (case outcome
    when 'delivered' then reason is not null and reason in ('started', 'finished', 'cancelled', 'requeued', 'unknown')
    when 'cancelled' then reason is not null and reason in ('connected', 'miss', 'operator')
    else reason is null end),
  -- A row once marked lost ends as a fallback and as nothing else, and only such a row does.
  constraint outcome_loss_is_fallback check ((outcome = 'fallback') = (lost_at is not null)),
  constraint outcome_fallback_has_result check ((outcome = 'fallback') = (fallback_result is not null)),
  constraint outcome_fallback_result_known check (fallback_result in
    ('created', 'existed', 'overtaken', 'requeued', 'failed', 'suppressed', 'cancelled', 'superseded')),
  constraint outcome_created_was_requested check (fallback_result not in ('created', 'existed') or create_count > 0),
  constraint outcome_create_needs_permit check (create_count = 0 or create_permitted_at is not null),
  constraint outcome_probe_error_has_error check (outcome <> 'probe_error' or error is not null),
  -- Only a settle carries a fence; a cancel and a supersede never do.
  constraint outcome_fence_is_a_settle check ((fence is null) = (worker is null)
    and (outcome in ('delivered', 'probe_error', 'fallback') or fence is null)
    and (outcome not in ('delivered', 'probe_error') or fence is not null))
) partition by range (settled_at);
comment on table outcome is 'How each verification ended; append-only, one partition a day (UTC).';
comment on column outcome.reason is 'What acted on the run (delivered) or who cancelled (cancelled).';
comment on column outcome.late is 'Seen later than 55 s after dequeue, when it may show the redriven dispatch; outside the rates.';
comment on column outcome.fence is 'The fence of the claim that settled; null for a cancel or a supersede.';

create index outcome_run on outcome (run_id);
-- Both follow the order of insertion, so a few pages of BRIN find an id or an hour.
create index outcome_settled on outcome using brin (settled_at) with (pages_per_range = 32);
create index outcome_id on outcome using brin (id) with (pages_per_range = 32);

create function ensure_outcome_partitions(days_ahead integer) returns integer
language plpgsql
set search_path from current
as $$
declare
  today date := (clock_timestamp() at time zone 'utc')::date;
  day   date;
  made  integer := 0;
begin
  for day in select today + n from generate_series(-1, days_ahead) as n loop
    if to_regclass('outcome_' || to_char(day, 'YYYYMMDD')) is null then
      -- Made apart and then attached: readers and writers of outcome go on meanwhile.
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
comment on function ensure_outcome_partitions is 'Creates the daily partitions from yesterday to so many days ahead; returns how many were missing.';

select ensure_outcome_partitions(14);

create table outcome_count (
  minute             timestamptz not null,
  pool               text        collate "C" not null,
  supervisor         text        collate "C",
  region             text        collate "C",
  deployment_version text        collate "C",
  intent             text        collate "C" not null,
  outcome            text        collate "C" not null,
  reason             text        collate "C",
  fallback_result    text        collate "C",
  late               boolean     not null default false,
  n                  bigint      not null,
  merged             boolean     not null default false,
  constraint outcome_count_known check (outcome in
    ('scheduled', 'delivered', 'fallback', 'probe_error', 'cancelled', 'superseded')),
  constraint outcome_count_positive check (n > 0)
);
comment on table outcome_count is
  'Deltas: every statement that creates or ends a verification appends its own rows, which are merged later. Sum n.';
-- Rows stand in the order of time, near enough, and every single schedule adds one: a few pages of BRIN serve.
create index outcome_count_minute on outcome_count using brin (minute) with (pages_per_range = 16);
create index outcome_count_unmerged on outcome_count (minute) where not merged;

create table fallback_window (
  pool      text        collate "C" not null,
  starts_at timestamptz not null,
  spent     integer     not null,
  primary key (pool, starts_at),
  constraint fallback_window_positive check (spent > 0)
);
comment on table fallback_window is 'Fallbacks permitted per pool and window, over all workers.';

create view conservation as
select
  counted.scheduled,
  (select count(*) from pending)::bigint as pending,
  counted.ended,
  (counted.scheduled - counted.ended - (select count(*) from pending))::bigint as unaccounted
from (
  select
    coalesce(sum(n) filter (where outcome = 'scheduled'), 0)::bigint as scheduled,
    coalesce(sum(n) filter (where outcome <> 'scheduled'), 0)::bigint as ended
  from outcome_count
) as counted;
comment on view conservation is 'Scheduled less pending less ended; unaccounted must be 0 in every snapshot.';
