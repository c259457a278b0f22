-- A worker is compared with the others over the same time. Until now their successes from before a brown-out counted as
-- well: if one worker reported the first failures, it called itself sick.

create function fails_alone(observed_pool text, observed_worker text, moment timestamptz) returns boolean
language sql stable
set search_path from current
as $$
  -- The last seconds show a worker that has just fallen sick, the whole window one that probes seldom.
  select exists (
    select 1
    from (values (interval '8 seconds'), (interval '30 seconds')) as span (length)
    cross join lateral (
      -- A report covers about a second, so the first that shows failures also covers what was before them.
      select greatest(min(t.counted_at) + interval '1 second', moment - span.length) as at
      from probe_tally t
      where t.pool = observed_pool and t.worker = observed_worker and t.failures > 0
        and t.counted_at > moment - interval '30 seconds'
    ) as since
    cross join lateral (
      select
        max(w.probes) filter (where w.worker = observed_worker) as probes,
        max(w.failures) filter (where w.worker = observed_worker) as failures,
        count(*) as workers,
        count(*) filter (where w.failures * 5 < w.probes) as healthy,
        sum(w.probes) filter (where w.failures * 5 < w.probes) as healthy_probes,
        sum(w.failures) filter (where w.failures * 5 < w.probes) as healthy_failures
      from (
        select t.worker, sum(t.probes)::double precision as probes, sum(t.failures)::double precision as failures
        from probe_tally t
        where t.pool = observed_pool and t.counted_at > since.at
        -- Fewer than three probes say nothing about a worker.
        group by t.worker having sum(t.probes) >= 3
      ) as w
    ) as c
    cross join lateral (
      select (c.failures + c.healthy_failures) / (c.probes + c.healthy_probes) as share
    ) as pooled
    -- Half of the workers seem healthy, and this one fails three times as often as they do. By chance that is rare: the
    -- shares are more than three standard errors of their difference apart.
    where c.failures * 2 >= c.probes and c.healthy * 2 >= c.workers
      and c.failures * c.healthy_probes >= 3 * c.healthy_failures * c.probes
      and power(c.failures / c.probes - c.healthy_failures / c.healthy_probes, 2)
        > 12 * pooled.share * (1 - pooled.share) * (1 / c.probes + 1 / c.healthy_probes))
$$;
comment on function fails_alone is
  'Whether a worker''s probes of a pool fail, since they began to, while those of other workers succeed.';

-- Records a brown-out if there is one, and answers whether the reporter is sick.
create or replace function observe_probes(observed_pool text, reporter text) returns boolean
language plpgsql
set search_path from current
as $$
declare
  moment    timestamptz := clock_timestamp();
  known     brown_out;
  is_sick   boolean;
  is_seen   boolean;
  failed    timestamptz[];
  resumed   timestamptz;
begin
  with reported as materialized (
    -- What is older counts for less, half after each five seconds: a fault that is over is soon forgotten.
    select t.worker, t.counted_at, t.probes, t.failures,
      power(0.5, extract(epoch from moment - t.counted_at)::double precision / 5) as weight
    from probe_tally t
    where t.pool = observed_pool and t.counted_at > moment - interval '30 seconds'
  ), by_worker as (
    select worker, sum(probes) as probes, sum(failures) as failed_count,
      sum(probes * weight) as weighed, sum(failures * weight) as failures
    from reported group by worker
  ), judged as (
    select l.*, l.failures * 5 < l.weighed as seems_healthy,
      l.failures * 2 >= l.weighed and fails_alone(observed_pool, l.worker, moment) as is_sick
    from by_worker l
  ), compared as (
    -- Fewer than three probes say nothing about a worker.
    select count(*) as workers, count(*) filter (where seems_healthy) as healthy from judged where probes >= 3
  ), of_the_well as (
    select sum(probes) as probes, sum(failed_count) as failed_count, sum(weighed) as weighed, sum(failures) as failures
    from judged where not judged.is_sick
  )
  select
    coalesce((select j.is_sick from judged j where j.worker = reporter), false),
    coalesce(
      (select w.probes >= 10 and w.failed_count >= 3 and w.failures * 5 >= w.weighed and (c.workers = 0 or (c.workers - c.healthy) * 2 > c.workers)
      from of_the_well w cross join compared c), false),
    array(
      select t.counted_at from reported t join judged j on j.worker is not distinct from t.worker
      where not j.is_sick and t.failures * 5 >= t.probes order by t.counted_at)
  into is_sick, is_seen, failed;
  if not is_seen then
    return is_sick;
  end if;

  select * into known from brown_out b where b.pool = observed_pool for update;
  select min(f.at) into resumed from unnest(failed) as f (at) where known.failed_at is null or f.at > known.failed_at;
  -- Five seconds without a failure part two faults. The one before still holds those whose runner it kept.
  if known.failed_at is null or resumed > known.failed_at + interval '5 seconds' then
    if known.ends_at > moment then
      known.before_began_at := known.began_at;
      known.before_failed_at := known.failed_at;
      known.before_ends_at := known.ends_at;
    end if;
    known.began_at := resumed;
  end if;
  known.failed_at := coalesce(greatest(known.failed_at, failed[cardinality(failed)]), moment);
  known.began_at := coalesce(known.began_at, known.failed_at);
  known.ends_at := known.failed_at + interval '5 seconds' + 2 * (known.failed_at - known.began_at);
  if known.before_ends_at <= moment then
    known.before_began_at := null;
    known.before_failed_at := null;
    known.before_ends_at := null;
  end if;
  if known.pool is null then
    -- Where another worker is faster, its record is kept; the next second brings ours.
    insert into brown_out (pool, seen_at, began_at, failed_at, ends_at)
    values (observed_pool, moment, known.began_at, known.failed_at, known.ends_at)
    on conflict (pool) do nothing;
  else
    update brown_out b
    set seen_at = greatest(b.seen_at, moment), began_at = known.began_at, failed_at = known.failed_at,
      ends_at = known.ends_at, before_began_at = known.before_began_at, before_failed_at = known.before_failed_at,
      before_ends_at = known.before_ends_at
    where b.pool = observed_pool;
  end if;
  return is_sick;
end;
$$;
