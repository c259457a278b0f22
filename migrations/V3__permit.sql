-- Permission to cold-start a run that was marked lost.

-- Answers
--   granted      a create may be requested; asked again, the same permit is granted without a second unit
--   suppressed   the pool is in shadow mode: settle, create nothing
--   held         the pool is paused or its cap is spent: the row waits, its lease is free, it is probed again
--   stale        the row is no longer ours
create function permit_create(
  held_run_id text, held_id uuid, held_fence bigint, hold_ms integer, out answer text, out hold_reason text)
language plpgsql
set search_path from current
as $$
declare
  held    pending;
  settings pool;
  moment  timestamptz;
  began   timestamptz;
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
    set look_at = moment + hold_ms * interval '1 millisecond',
      last_error = 'held: ' || hold_reason,
      lease_expires_at = null, fence = null, worker = null
    where p.run_id = held_run_id;
    answer := 'held';
  end if;
end;
$$;
comment on function permit_create is 'Spends one unit of the pool''s cap and permits a create for a row marked lost, or says why not.';
