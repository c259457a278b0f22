-- Tables: verifications, their outcomes and counts, and what operators set.
-- Names are unqualified: the migration runs with the search_path of the configured schema.

create table pool (
  name                 text        collate "C" primary key,
  paused               boolean     not null default false,
  shadow               boolean     not null default false,
  delay_ms             integer,
  cap                  integer,
  cap_window_ms        integer     not null default 1000,
  on_connect           text        collate "C" not null default 'confirm',
  cool_down_ms       integer     not null default 30000,
  follow_up_after_ms integer     default 30000,
  created_at           timestamptz not null default clock_timestamp(),
  constraint pool_name_bounded        check (octet_length(name) between 1 and 200),
  constraint pool_delay_bounded       check (delay_ms between 1000 and 60000),
  constraint pool_cap_not_negative    check (cap >= 0),
  constraint pool_window_bounded      check (cap_window_ms between 100 and 3600000),
  constraint pool_on_connect_known    check (on_connect in ('confirm', 'keep_watching')),
  constraint pool_cool_down_bounded check (cool_down_ms between 0 and 600000),
  constraint pool_follow_up_bounded check (follow_up_after_ms between 1000 and 600000)
);
comment on table pool is 'Named groups of runners with one backend for cold starts.';
comment on column pool.paused is 'No row of the pool is claimed while true.';
comment on column pool.shadow is 'Losses are recorded and nothing is created while true.';
comment on column pool.delay_ms is 'Milliseconds from schedule to due_at when a call brings none; null: the caller''s default.';
comment on column pool.cap is 'Most fallbacks permitted in one window over all workers; null: no cap.';
comment on column pool.on_connect is
  'confirm: a connect cancels the verification; keep_watching: it is noted, and the probe happens all the same.';
comment on column pool.cool_down_ms is 'Milliseconds after a brown-out during which losses are still held.';
comment on column pool.follow_up_after_ms is 'Milliseconds from a created fallback to its follow-up; null: none.';

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
  probe_at             timestamptz not null,
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
  window_at           timestamptz,
  hold_reason         text        collate "C",
  prepare_failures    integer     not null default 0,
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
  constraint pending_hold_is_of_a_loss       check (hold_reason is null
    or (lost_at is not null and hold_reason in ('cap', 'brown_out', 'paused', 'no_place'))),
  constraint pending_counts_not_negative    check (claim_count >= 0 and probe_count >= 0
    and probe_failures >= 0 and create_count >= 0),
  constraint pending_prepare_failures_not_negative check (prepare_failures >= 0),
  constraint pending_codec_known            check (codec between 0 and 1)
) with (
  -- Room for one new version on the page keeps claims HOT: they touch no indexed column.
  fillfactor = 85,
  -- The table's rows stay for seconds, so vacuum goes by count and runs at full speed.
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_insert_threshold = -1,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000,
  autovacuum_vacuum_cost_delay = 0
);
comment on table pending is 'Verifications that are promised and not ended; one row per run.';
comment on column pending.due_at is 'The promised instant: a worker probes by then. Never changes.';
comment on column pending.probe_at is 'When to probe next.';
comment on column pending.fence is 'A value no other claim ever had; every write to a claimed row matches it.';
comment on column pending.probe_failures is 'Failed probes since the last observation; too many of them end in probe_error.';
comment on column pending.lost_at is 'When a probe first saw that nothing had acted on the run. From then on the outcome is fallback.';
comment on column pending.create_permitted_at is 'When a cold start was permitted. A cancel comes too late from then on.';
comment on column pending.create_count is 'Creates requested, counted before each request.';
comment on column pending.window_at is 'Start of the window in which a loss over the cap is probed again; null: it never waited for one.';
comment on column pending.hold_reason is
  'What defers the cold start of a loss: cap, brown_out or paused (no permit yet), no_place (its worker had no room); null: nothing.';
comment on column pending.prepare_failures is 'Times that a create could not be prepared, for example because its image was missing.';
comment on column pending.workload is 'Name that the next create asks for; null: the name made from the dispatch.';
comment on column pending.codec is 'How message is stored: 0 as it came, 1 zstd frame.';
comment on column pending.message is 'The dequeued message as it came, opaque to the server.';

-- The pool is the first column, so that rows of a paused or unserved pool cost a claim nothing.
create index pending_probe on pending (pool, probe_at);

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
  -- A row that was marked lost ends as a fallback, and no other row does.
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
comment on column outcome.reason is 'What acted on the run (delivered) or why it was cancelled (cancelled).';
comment on column outcome.late is 'Seen later than 55 s after dequeue, when it may show the redriven dispatch; outside the rates.';
comment on column outcome.fence is 'The fence of the claim that settled; null for a cancel or a supersede.';

create index outcome_run on outcome (run_id);
-- Both follow the order of insertion, so a few pages of BRIN find an id or an hour.
create index outcome_settled on outcome using brin (settled_at) with (pages_per_range = 32);
create index outcome_id on outcome using brin (id) with (pages_per_range = 32);
-- The index gives the latest losses of one pool. An index by time alone would make a reader of a pool with
-- few losses read every loss of every other pool. Few outcomes are losses, so the index stays small.
create index outcome_lost on outcome (pool, settled_at) where outcome = 'fallback' or reason = 'requeued';
comment on index outcome_lost is 'The latest losses of each pool; a merge over the pools gives all of them.';

-- No check: each statement that writes a row reads and plans every check again, and every schedule, cancel
-- and settle writes here (3 % of a single schedule). outcome_total has the checks, and refuses bad deltas
-- when they are folded.
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
  latencies          smallint[]
) with (
  -- Rows here were written in the last minutes, and are always read as a whole.
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
  autovacuum_vacuum_insert_threshold = -1, autovacuum_vacuum_cost_delay = 0);
comment on table outcome_count is
  'Deltas not folded yet: every statement that creates or ends a verification appends its own rows. Read the views count_minutely and count_hourly.';
-- A publication for all tables refuses every update and delete of a table without a replica identity, and
-- upkeep needs both. This table has no key of columns that are never null, so its identity is the whole row.
-- That costs nothing unless the log is decoded: old rows are written to it only with `wal_level = logical`.
alter table outcome_count replica identity full;

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
-- Reports ask for days by date. The key serves hours.
create index outcome_hour_day on outcome_hour (((hour at time zone 'utc')::date));
alter table outcome_hour replica identity full;

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
alter table outcome_minute replica identity full;

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
comment on table upkeep_done is 'When a rare task of upkeep last began.';

create table fallback_window (
  pool      text        collate "C" not null,
  starts_at timestamptz not null,
  spent     integer     not null,
  awaited   integer     not null default 0,
  primary key (pool, starts_at),
  constraint fallback_window_counts_something check (spent >= 0 and awaited >= 0 and spent + awaited > 0)
);
comment on table fallback_window is 'Fallbacks permitted per pool and window, over all workers.';
-- A loss over the cap waits for the first window that has room for it. `awaited` only spreads the probes of
-- these losses and keeps new losses from overtaking them; `spent` counts what is permitted, and is never
-- above the cap.
comment on column fallback_window.awaited is 'Losses that wait for this window and were not probed in it yet.';

create table probe_tally (
  pool       text        collate "C" not null,
  counted_at timestamptz not null,
  probes     integer     not null,
  failures   integer     not null,
  constraint probe_tally_sane check (probes > 0 and failures between 0 and probes)
);
comment on table probe_tally is 'Probes and failed probes by pool, a row for each worker and second; kept for minutes.';
create index probe_tally_recent on probe_tally (pool, counted_at);
alter table probe_tally replica identity full;

create table brown_out (
  pool    text        collate "C" primary key,
  seen_at timestamptz not null
);
comment on table brown_out is 'When a pool was last seen in a brown-out.';

create table worker (
  name       text        collate "C" primary key,
  version    text        not null,
  started_at timestamptz not null default clock_timestamp(),
  seen_at    timestamptz not null default clock_timestamp(),
  in_flight    integer     not null,
  pools      text[]      collate "C" not null,
  backends   text[]      collate "C" not null,
  problems   text[]      not null,
  constraint worker_name_bounded check (octet_length(name) between 1 and 200),
  -- One element for each pool; null means no problem.
  constraint worker_pools_whole check (cardinality(backends) = cardinality(pools) and cardinality(problems) = cardinality(pools))
);
comment on table worker is 'Workers that run, or ran until lately. Nothing is decided by it: claims depend on leases alone.';
comment on column worker.problems is 'What prevents the worker from cold-starting in a pool, in the order of pools; null: nothing known.';

create table follow_up (
  verification_id uuid        primary key,
  run_id          text        collate "C" not null,
  snapshot_id     text        collate "C" not null,
  pool            text        collate "C" not null,
  dequeued_at     timestamptz not null,
  settled_at      timestamptz not null,
  probe_at         timestamptz not null,
  probe_count      integer     not null default 0,
  probed_at       timestamptz,
  result          text        collate "C",
  late            boolean,
  error           text,
  constraint follow_up_result_known check (result in ('confirmed', 'not_started', 'unknown')),
  constraint follow_up_recorded_whole check ((result is null) = (probed_at is null) and (result is null) = (late is null))
);
comment on table follow_up is 'One row for each created fallback: whether its run had started at the follow-up.';
comment on column follow_up.probe_at is 'When to probe next. The worker that takes it moves it forward, so that another worker repeats a lost probe.';
comment on column follow_up.result is 'confirmed: the run moved on; not_started: it did not, or the platform''s redrive took it; unknown: every probe failed.';
comment on column follow_up.late is 'Seen later than 55 s after dequeue, when it may show the redriven dispatch.';

create index follow_up_due on follow_up (pool, probe_at) where result is null;
create index follow_up_settled on follow_up using brin (settled_at) with (pages_per_range = 32);

create table token (
  id         uuid        primary key,
  name       text        collate "C" not null unique,
  hash       bytea       not null unique,
  scopes     text[]      collate "C" not null,
  created_at timestamptz not null default clock_timestamp(),
  created_by text        not null,
  revoked_at timestamptz,
  constraint token_name_bounded  check (octet_length(name) between 1 and 200),
  constraint token_hash_sha256   check (octet_length(hash) = 32),
  constraint token_scopes_known  check (cardinality(scopes) > 0 and scopes <@ array['schedule', 'read', 'operate'])
);
comment on table token is 'Bearer tokens of the API. The token itself is shown once, when it is made, and is never stored.';
comment on column token.hash is 'SHA-256 of the token.';
comment on column token.scopes is 'schedule: schedule and cancel; read: read everything but messages; operate: change pools, cancel as operator, probe now, see messages.';

create table audit (
  id     bigint      generated always as identity primary key,
  at     timestamptz not null default clock_timestamp(),
  actor  text        not null,
  action text        collate "C" not null,
  target text,
  detail jsonb       not null default '{}',
  constraint audit_action_known check (action in
    ('pool.change', 'cancel', 'cancel.filter', 'probe_now', 'token.create', 'token.revoke', 'sign_in', 'sign_out',
     'message.show'))
);
comment on table audit is 'What operators did, written in the transaction that did it.';
comment on column audit.actor is 'Name of the token, or `cli:` and the account that ran the command.';
comment on column token.id is 'The token''s own id.';
comment on column token.name is 'The token''s name; the actor in audit.';
comment on column token.created_at is 'When it was made.';
comment on column token.created_by is 'The operator that made it.';
comment on column token.revoked_at is 'When it was revoked; null: it is good.';
comment on column audit.id is 'A number in the order of the actions.';
comment on column audit.at is 'When it was done.';
comment on column audit.action is 'What was done.';
comment on column audit.target is 'The pool, run or token.';
comment on column audit.detail is 'The details of the action.';

create table session (
  hash        bytea       primary key,
  token_proof bytea       not null,
  created_at  timestamptz not null default clock_timestamp(),
  expires_at  timestamptz not null,
  constraint session_hash_sha256  check (octet_length(hash) = 32),
  constraint session_proof_sha256 check (octet_length(token_proof) = 32),
  constraint session_ends check (expires_at > created_at)
);
-- For deleting expired sessions at each sign-in.
create index session_expires_at on session (expires_at);
comment on table session is 'Sessions of the admin page. A row reveals neither the cookie nor the token.';
comment on column session.hash is 'SHA-256 of the cookie.';
comment on column session.token_proof is
  'SHA-256 of the cookie and the token''s hash together: the session has the rights of that token, as long as it is good.';
comment on column session.created_at is 'When the operator signed in.';
comment on column session.expires_at is 'Until when the session is good, if its token is.';
