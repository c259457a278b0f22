-- Permission to cold-start a run that was marked lost, and what holds it back.
--
-- Brown-outs: while many probes fail, a loss may be a healthy runner whose start is slow.
-- Losses are then held and looked at again, until things have settled down.

alter table pool add column settle_down_ms integer not null default 30000
  constraint pool_settle_down_bounded check (settle_down_ms between 0 and 600000);
comment on column pool.settle_down_ms is 'Milliseconds after a brown-out during which losses are still held.';

create table probe_tally (
  pool       text        collate "C" not null,
  counted_at timestamptz not null,
  probes     integer     not null,
  failures   integer     not null,
  constraint probe_tally_sane check (probes > 0 and failures between 0 and probes)
);
comment on table probe_tally is 'Probes and failed probes by pool, a row for each worker and second; kept for minutes.';
create index probe_tally_recent on probe_tally (pool, counted_at);

create table brown_out (
  pool    text        collate "C" primary key,
  seen_at timestamptz not null
);
comment on table brown_out is 'When a pool was last seen in a brown-out.';

-- Whether at least 10 probes of the last 30 s, and a fifth of them, failed to answer; notes it if so.
create function observe_brown_out(observed_pool text) returns boolean
language plpgsql
set search_path from current
as $$
declare
  moment timestamptz := clock_timestamp();
  seen   boolean;
begin
  select coalesce(sum(probes), 0) >= 10 and sum(failures) * 5 >= sum(probes) into seen
  from probe_tally
  where pool = observed_pool and counted_at > moment - interval '30 seconds';
  if seen then
    insert into brown_out as b (pool, seen_at) values (observed_pool, moment)
    on conflict (pool) do update set seen_at = greatest(b.seen_at, excluded.seen_at);
  end if;
  return seen;
end;
$$;
comment on function observe_brown_out is 'Whether the pool is in a brown-out now; notes it if so.';

-- Adds what one worker saw since it last told, and notes a brown-out at once.
create function tally_probes(pools text[], probe_counts integer[], failure_counts integer[]) returns void
language plpgsql
set search_path from current
as $$
declare
  told text;
begin
  insert into probe_tally (pool, counted_at, probes, failures)
  select t.pool, clock_timestamp(), t.probes, t.failures
  from unnest(pools, probe_counts, failure_counts) as t (pool, probes, failures);
  foreach told in array pools loop
    perform observe_brown_out(told);
  end loop;
end;
$$;
comment on function tally_probes is 'Adds one worker''s probes and failures, by pool.';

-- Answers
--   granted      a create may be requested; asked again, the same permit is granted without a second unit
--   suppressed   the pool is in shadow mode: settle, create nothing
--   held         the pool is paused, in a brown-out or its cap is spent: the row waits, its lease is free, it is
--                probed again
--   stale        the row is no longer ours
create function permit_create(
  held_run_id text, held_id uuid, held_fence bigint, hold_ms integer, out answer text, out hold_reason text)
language plpgsql
set search_path from current
as $$
declare
  held     pending;
  settings pool;
  moment   timestamptz;
  began    timestamptz;
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
  elsif observe_brown_out(held.pool) or exists (
    select from brown_out b
    where b.pool = held.pool and b.seen_at > moment - settings.settle_down_ms * interval '1 millisecond'
  ) then
    hold_reason := 'brown_out';
    -- Rarer than a cap's hold and spread out: an ailing platform must not be asked each second by every loss.
    hold := hold * (3 + 4 * random());
  elsif settings.cap = 0 then
    hold_reason := 'cap';
  else
    began := to_timestamp(
      floor(extract(epoch from moment) * 1000 / settings.cap_window_ms) * settings.cap_window_ms / 1000);
    insert into fallback_window as w (pool, starts_at, spent) values (held.pool, began, 1)
    on conflict (pool, starts_at) do update set spent = w.spent + 1
      where settings.cap is null or w.spent < settings.cap;
    if not found then
      hold_reason := 'cap';
    end if;
  end if;

  if hold_reason is null then
    update pending p set create_permitted_at = moment where p.run_id = held_run_id;
    answer := 'granted';
  else
    update pending p
    set look_at = moment + hold,
      last_error = 'held: ' || hold_reason,
      lease_expires_at = null, fence = null, worker = null
    where p.run_id = held_run_id;
    answer := 'held';
  end if;
end;
$$;
comment on function permit_create is 'Spends one unit of the pool''s cap and permits a create for a row marked lost, or says why not.';
