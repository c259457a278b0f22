-- Views: counts, rates, latencies, what is pending, how verifications ended; then the comments of columns.

create view conservation as
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
comment on view conservation is 'Scheduled less pending less ended; unaccounted must be 0 in every snapshot.';

create view count_minutely as
select minute, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late, n
from outcome_minute
union all
select minute, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late, n
from outcome_count;
comment on view count_minutely is 'Counts by minute over the last two days, to the last commit. Several rows may count the same: sum n.';

create view count_hourly as
select hour, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result, late, n
from outcome_hour
union all
select date_trunc('hour', minute, 'UTC'), pool, supervisor, region, deployment_version, intent, outcome, reason,
  fallback_result, late, n
from outcome_count;
comment on view count_hourly is 'Counts by hour (UTC), to the last commit. Several rows may count the same: sum n.';

create view latency_hourly as
select hour, pool, kind, bucket, n
from latency_count
union all
select date_trunc('hour', minute, 'UTC'), pool, case when outcome = 'cancelled' then 'connect' else 'verdict' end,
  bucket, 1
from outcome_count
cross join lateral unnest(latencies) as bucket;
comment on view latency_hourly is 'Histograms by hour (UTC), to the last commit. Several rows may count the same bucket: sum n.';

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
comment on view latency_quantiles is 'Quantiles of both kinds by hour (UTC) and pool: the time within which that share was done, to the next edge of a bucket.';

create view due_lag as
select hour, pool, n, p50_ms, p90_ms, p99_ms, p999_ms, max_ms from latency_quantiles where kind = 'verdict';
comment on view due_lag is
  'How long after due_at the verdict was on disk: the wait for a worker, the probes and the write together.';

create view connect_latency as
select hour, pool, n, p50_ms, p90_ms, p99_ms, p999_ms, max_ms from latency_quantiles where kind = 'connect';
comment on view connect_latency is 'How long after the hit was scheduled a runner''s connect cancelled it.';

-- One text for the three steps, so that they cannot differ.
do $$
declare
  step record;
begin
  for step in
    select * from (values
      ('silent_loss_minutely', 'minute', 'minute', 'count_minutely'),
      ('silent_loss_hourly', 'hour', 'hour', 'count_hourly'),
      ('silent_loss_daily', 'day', '(hour at time zone ''utc'')::date', 'count_hourly')
    ) as s (name, label, instant, source)
  loop
    execute format($view$
      create view %I as
      select
        %I, pool, supervisor, region, deployment_version, intent, scheduled, delivered, connected, requeued, fallback,
        overtaken, probe_error, missed, withdrawn, superseded, late, lost, observed,
        lost::double precision / nullif(observed, 0) as loss_rate,
        wilson_95_low(lost, observed) as loss_rate_low,
        wilson_95_high(lost, observed) as loss_rate_high,
        (lost - overtaken)::double precision / nullif(observed - overtaken, 0) as loss_rate_without_overtaken,
        wilson_95_low(lost - overtaken, observed - overtaken) as loss_rate_without_overtaken_low,
        wilson_95_high(lost - overtaken, observed - overtaken) as loss_rate_without_overtaken_high,
        fallback::double precision / nullif(probed, 0) as fallback_rate,
        wilson_95_low(fallback, probed) as fallback_rate_low,
        wilson_95_high(fallback, probed) as fallback_rate_high
      from (
        select *, (fallback + requeued) as lost, (fallback + requeued + delivered + connected) as observed,
          (fallback + requeued + delivered) as probed
        from (
          select
            %s as %I, pool, supervisor, region, deployment_version, intent,
            coalesce(sum(n) filter (where outcome = 'scheduled'), 0)::bigint as scheduled,
            coalesce(sum(n) filter (where outcome = 'delivered' and reason <> 'requeued' and not late), 0)::bigint as delivered,
            coalesce(sum(n) filter (where outcome = 'cancelled' and reason = 'connected'), 0)::bigint as connected,
            coalesce(sum(n) filter (where outcome = 'delivered' and reason = 'requeued' and not late), 0)::bigint as requeued,
            coalesce(sum(n) filter (where outcome = 'fallback' and not late), 0)::bigint as fallback,
            coalesce(sum(n) filter (where fallback_result = 'overtaken' and not late), 0)::bigint as overtaken,
            coalesce(sum(n) filter (where outcome = 'probe_error'), 0)::bigint as probe_error,
            coalesce(sum(n) filter (where outcome = 'cancelled' and reason = 'miss'), 0)::bigint as missed,
            coalesce(sum(n) filter (where outcome = 'cancelled' and reason = 'operator'), 0)::bigint as withdrawn,
            coalesce(sum(n) filter (where outcome = 'superseded'), 0)::bigint as superseded,
            coalesce(sum(n) filter (where late), 0)::bigint as late
          from %I
          group by 1, 2, 3, 4, 5, 6
        ) as counted
      ) as judged
    $view$, step.name, step.label, step.instant, step.label, step.source);
  end loop;
end;
$$;
comment on view silent_loss_minutely is 'Silent losses by minute over the last two days, from counts.';
comment on view silent_loss_hourly is 'Silent losses by hour (UTC), from counts.';
comment on view silent_loss_daily is 'Silent losses by day (UTC), from counts.';

create view pending_now as
select
  id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at, scheduled_at, due_at,
  probe_at, lease_expires_at, worker, claim_count, probe_count, probe_failures, create_count, connected_at, lost_at,
  create_permitted_at, hold_reason, workload, last_error, traceparent,
  pending_status(lease_expires_at, probe_at, lost_at, hold_reason) as status,
  extract(epoch from clock_timestamp() - scheduled_at)::double precision as age_seconds,
  extract(epoch from due_at - clock_timestamp())::double precision as due_in_seconds
from pending;
comment on view pending_now is 'Verifications that have not ended, with their status, without the message.';

create view pending_counts as
select
  pool, count(*) as pending,
  count(*) filter (where status = 'waiting') as waiting,
  count(*) filter (where status = 'claimed') as claimed,
  count(*) filter (where status = 'lost') as lost,
  count(*) filter (where status = 'held') as held,
  count(*) filter (where status = 'overdue') as overdue,
  coalesce(extract(epoch from statement_timestamp() - min(probe_at) filter (where status = 'overdue')), 0)
    ::double precision as overdue_longest_seconds,
  min(due_at) as oldest_due_at
from (
  select pool, probe_at, due_at, pending_status(lease_expires_at, probe_at, lost_at, hold_reason) as status from pending
) as row_by_row
group by pool;
comment on view pending_counts is 'How many verifications of each pool have which status; they add up to pending.';

create view outcomes as
select
  settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at,
  scheduled_at, due_at, outcome, reason, fallback_result, late, worker, claim_count, probe_count, create_count,
  connected_at, lost_at, create_permitted_at, probe_ms, workload, error, traceparent,
  (outcome = 'fallback' or (outcome = 'delivered' and reason = 'requeued')) and not late as lost,
  case when outcome = 'cancelled' and reason = 'connected'
    then extract(epoch from settled_at - scheduled_at)::double precision * 1000 end as connect_ms,
  case when lost_at is not null or outcome in ('delivered', 'probe_error')
    then extract(epoch from coalesce(lost_at, settled_at) - due_at)::double precision * 1000 end as verdict_ms
from outcome;
comment on view outcomes is 'How verifications ended. Always bound settled_at, or ask by run_id: there may be very many.';

create view false_positives as
select settled_at, id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at,
  due_at, lost_at, create_permitted_at, connected_at, create_count, workload,
  extract(epoch from settled_at - due_at)::double precision as seconds_past_due
from outcome
where fallback_result = 'overtaken';
comment on view false_positives is
  'Fallbacks that the original runner overtook: it was slow, not dead. Many of them mean that the delay is too short. Bound settled_at.';

create view pools as
select
  p.name, p.paused, p.shadow, p.delay_ms, p.cap, p.cap_window_ms, p.cool_down_ms, p.created_at,
  coalesce(c.pending, 0) as pending, coalesce(c.waiting, 0) as waiting, coalesce(c.claimed, 0) as claimed,
  coalesce(c.lost, 0) as lost, coalesce(c.held, 0) as held, coalesce(c.overdue, 0) as overdue, c.oldest_due_at,
  b.seen_at as brown_out_seen_at
from pool p
left join pending_counts c on c.pool = p.name
left join brown_out b on b.pool = p.name;
comment on view pools is 'Pools, their settings, and what is pending in each.';

do $$
begin
  if to_regclass('refinery_schema_history') is not null then
    comment on table refinery_schema_history is 'Migrations that were applied.';
    comment on column refinery_schema_history.version is 'Number of the migration.';
    comment on column refinery_schema_history.name is 'Name of the migration.';
    comment on column refinery_schema_history.applied_on is 'When it was applied, RFC 3339.';
    comment on column refinery_schema_history.checksum is 'Of its name and text.';
  end if;
end;
$$;

-- A word means the same wherever it occurs, so it is explained once; a column that has a comment already
-- keeps it.
do $$
declare
  place record;
begin
  for place in
    with meaning (word, text) as (values
      ('id', 'The verification: a time-ordered UUID (version 7).'),
      ('run_id', 'The run''s friendly id.'),
      ('snapshot_id', 'The dispatched snapshot''s friendly id. Compared for equality only.'),
      ('pool', 'The pool: runners with one backend for cold starts.'),
      ('name', 'The pool''s name.'),
      ('supervisor', 'The supervisor that dispatched; null when it gave no name.'),
      ('region', 'Where that supervisor runs; null when it gave no region.'),
      ('deployment_version', 'Version of the deployment, from the message.'),
      ('intent', 'hit: the broker reported a hit. dispatch: written before the broker was asked.'),
      ('dequeued_at', 'When the run left the queue, by the platform''s clock.'),
      ('scheduled_at', 'When the promise was made, by the database''s clock.'),
      ('due_at', 'The promised instant: a worker probes by then. Never changes.'),
      ('probe_at', 'When to probe next.'),
      ('lease_expires_at', 'Until when its worker holds it; null: free.'),
      ('worker', 'The worker that holds or settled it, for human readers; only the fence gives rights.'),
      ('claim_count', 'Claims made.'),
      ('probe_count', 'Probes made.'),
      ('probe_failures', 'Failed probes since the last observation; too many of them end in probe_error.'),
      ('create_count', 'Creates requested, counted before each request.'),
      ('connected_at', 'When the runner''s connect was reported.'),
      ('lost_at', 'When a probe first saw that nothing had acted on the run. From then on the outcome is fallback.'),
      ('create_permitted_at', 'When a cold start was permitted. A cancel comes too late from then on.'),
      ('workload', 'Name of the workload requested last.'),
      ('last_error', 'The last error.'),
      ('error', 'The last error.'),
      ('traceparent', 'The run''s trace context, W3C version 00.'),
      ('timings', 'The supervisor''s timings, as they came.'),
      ('settled_at', 'When it ended, by the database''s clock; the table is partitioned by it.'),
      ('outcome', 'delivered, fallback, probe_error, cancelled or superseded; in counts also scheduled.'),
      ('reason', 'What acted on the run (delivered), or why it was cancelled (cancelled): connected, miss, operator.'),
      ('fallback_result', 'What came of a fallback: created, existed, overtaken, requeued, failed, suppressed, cancelled or superseded.'),
      ('late', 'Seen later than 55 s after dequeue, when it may show the redriven dispatch; outside the rates.'),
      ('fence', 'The right to write to a claimed row: a value no other claim ever had.'),
      ('probe_ms', 'How long the last probe took, in milliseconds.'),
      ('n', 'How many.'),
      ('minute', 'The minute it happened: of the schedule for scheduled, of the end for the rest.'),
      ('hour', 'The hour (UTC) it happened: of the schedule for scheduled, of the end for the rest.'),
      ('day', 'The day (UTC) it happened: of the schedule for scheduled, of the end for the rest.'),
      ('latencies', 'Buckets, one for each verification that has a time: of a connect from scheduled_at to the cancel; of a loss from due_at to lost_at; of another settle from due_at to its end.'),
      ('kind', 'connect: from schedule to connect. verdict: from due_at to the verdict on disk.'),
      ('bucket', 'Four to an octave: longer than 2^((bucket - 1) / 4) ms and at most 2^(bucket / 4) ms; 0: at most 1 ms.'),
      ('p50_ms', 'Half took at most this many milliseconds.'),
      ('p90_ms', '90 % took at most this many milliseconds.'),
      ('p99_ms', '99 % took at most this many milliseconds.'),
      ('p999_ms', '99.9 % took at most this many milliseconds.'),
      ('max_ms', 'All took at most this many milliseconds.'),
      ('task', 'Which task.'),
      ('done_at', 'When it last began.'),
      ('paused', 'No row of the pool is claimed while true.'),
      ('shadow', 'Losses are recorded and nothing is created while true.'),
      ('delay_ms', 'Milliseconds from schedule to due_at when a call brings none; null: the caller''s default.'),
      ('cap', 'Most fallbacks permitted in one window over all workers; null: no cap.'),
      ('cap_window_ms', 'Length of the cap''s window in milliseconds.'),
      ('cool_down_ms', 'Milliseconds after a brown-out during which losses are still held.'),
      ('created_at', 'When the database first learned of the pool.'),
      ('starts_at', 'When the window begins.'),
      ('spent', 'Fallbacks permitted in it.'),
      ('counted_at', 'When the worker reported it.'),
      ('probes', 'Probes made.'),
      ('failures', 'Those of them that failed.'),
      ('seen_at', 'When it was last seen.'),
      ('brown_out_seen_at', 'When the pool was last seen in a brown-out; null: never.'),
      ('on_connect', 'What a runner''s connect does: cancel, or keep_watching.'),
      ('follow_up_after_ms', 'Milliseconds from a created fallback to its follow-up; null: none.'),
      ('version', 'Version of the program.'),
      ('started_at', 'When it started.'),
      ('in_flight', 'Claims it holds.'),
      ('pools', 'The pools it serves.'),
      ('backends', 'Their backends, in the order of pools.'),
      ('verification_id', 'The verification whose fallback was created.'),
      ('probe_count', 'Probes made.'),
      ('probed_at', 'When it was last probed; null: not yet.'),
      ('result', 'What the follow-up saw; null: not known yet.'),
      ('status', 'claimed: a worker holds it. overdue: unclaimed two seconds past its probe. held: a loss whose cold start is deferred. lost: marked lost. waiting: not due yet.'),
      ('hold_reason', 'What defers the cold start of a loss: cap, brown_out, paused or no_place; null: nothing.'),
      ('overdue_longest_seconds', 'How long the one that is overdue longest is; 0: none is.'),
      ('age_seconds', 'Since it was scheduled.'),
      ('due_in_seconds', 'Until due_at; negative when that is past.'),
      ('pending', 'Verifications that have not ended.'),
      ('claimed', 'Those of them that have this status: a worker holds them.'),
      ('waiting', 'Those of them that have this status: not due yet.'),
      ('held', 'Those of them that have this status: their cold start is deferred.'),
      ('overdue', 'Those of them that have this status: unclaimed two seconds past their probe.'),
      ('oldest_due_at', 'The earliest due_at of them.'),
      ('ended', 'Verifications that ever ended.'),
      ('unaccounted', 'Scheduled less pending less ended. Must be 0.'),
      ('scheduled', 'Verifications scheduled.'),
      ('delivered', 'The run had moved on before the probe, and not by the redrive; late ones left out.'),
      ('connected', 'Cancelled because the runner connected.'),
      ('requeued', 'The redrive had taken the run back before the probe: lost; late ones left out.'),
      ('fallback', 'Marked lost, with any result of the fallback; late ones left out.'),
      ('overtaken', 'Fallbacks that the original runner overtook; late ones left out.'),
      ('probe_error', 'Ended without an observation.'),
      ('missed', 'Cancelled because the broker said no.'),
      ('withdrawn', 'Cancelled by an operator.'),
      ('superseded', 'A newer dispatch of the run replaced it.'),
      ('lost', 'Lost silently: fallback and delivered by requeued, unless late.'),
      ('observed', 'Lost, delivered and connected: what the rate is of.'),
      ('loss_rate', 'Silent-loss rate: lost / observed; null when nothing was observed.'),
      ('loss_rate_low', 'Lower end of its 95 % Wilson interval.'),
      ('loss_rate_high', 'Upper end of its 95 % Wilson interval.'),
      ('loss_rate_without_overtaken', 'The same rate with overtaken fallbacks left out altogether.'),
      ('loss_rate_without_overtaken_low', 'Lower end of its 95 % Wilson interval.'),
      ('loss_rate_without_overtaken_high', 'Upper end of its 95 % Wilson interval.'),
      ('fallback_rate', 'The rate as the platform''s own verifier has it: fallback / (fallback + delivered + requeued).'),
      ('fallback_rate_low', 'Lower end of its 95 % Wilson interval.'),
      ('fallback_rate_high', 'Upper end of its 95 % Wilson interval.'),
      ('connect_ms', 'Milliseconds from schedule to connect, where the connect cancelled it.'),
      ('verdict_ms', 'Milliseconds from due_at to the verdict on disk, where there was a verdict.'),
      ('seconds_past_due', 'From due_at to the end.')
    )
    select c.oid::regclass as relation, a.attname as word, m.text
    from pg_class c
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    join meaning m on m.word = a.attname
    where c.relnamespace = current_schema()::regnamespace
      and c.relkind in ('r', 'p', 'v') and not c.relispartition
      and col_description(c.oid, a.attnum) is null
  loop
    execute format('comment on column %s.%I is %L', place.relation, place.word, place.text);
  end loop;
end;
$$;
comment on column silent_loss_minutely.minute is 'The minute, of the schedule for scheduled and of the end for the rest.';
comment on column outcomes.lost is 'Whether it counts as lost silently.';
comment on column pending_counts.lost is 'Those of them that have this status: marked lost, neither claimed nor held.';
comment on column pools.lost is 'Those of them that have this status: marked lost, neither claimed nor held.';
