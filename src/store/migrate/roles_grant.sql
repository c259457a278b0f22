-- What each role may do. Everything is taken first, so that this text alone says what is granted.
do $$
declare
  home   text := current_schema();
  worker text := home || '_worker';
  client text := home || '_client';
  reader text := home || '_reader';
  -- Null where the roles were made by a version that had none: `migrate --roles` makes it.
  operator text := (select rolname from pg_roles where rolname = current_schema() || '_operator');
  thing  record;
begin
  execute format('revoke all on schema %I from public', home);
  execute format('grant usage on schema %I to %I, %I, %I', home, worker, client, reader);

  -- Outcomes are appended and never changed. Partitions are used only through outcome.
  for thing in
    select c.relname, c.relkind from pg_class c
    where c.relnamespace = home::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition
      -- Objects of other owners are not ours to grant.
      and c.relowner = (home || '_owner')::regrole
  loop
    execute format('revoke all on %I from public, %I, %I, %I', thing.relname, worker, client, reader);
    if operator is not null then
      execute format('revoke all on %I from %I', thing.relname, operator);
    end if;
    execute format('grant %s on %I to %I',
      case
        when thing.relkind = 'v' or thing.relname = 'refinery_schema_history' then 'select'
        when thing.relname = 'outcome' then 'select, insert'
        else 'select, insert, update, delete'
      end, thing.relname, worker);
    -- A table that a later version brings is closed to readers until it is named here.
    if thing.relkind = 'v' or thing.relname in (
      'pool', 'outcome_count', 'outcome_total', 'outcome_hour', 'outcome_minute', 'latency_count', 'fallback_window',
      'probe_tally', 'brown_out', 'upkeep_done', 'refinery_schema_history', 'worker', 'follow_up',
      'pool_total', 'account', 'counted_name')
    then
      execute format('grant select on %I to %I', thing.relname, reader);
    end if;
  end loop;
  for thing in
    select p.oid::regprocedure as routine from pg_proc p
    where p.pronamespace = home::regnamespace and p.proowner = (home || '_owner')::regrole
  loop
    execute format('revoke all on function %s from %I, %I, %I', thing.routine, worker, client, reader);
    if operator is not null then
      execute format('revoke all on function %s from %I', thing.routine, operator);
    end if;
    execute format('grant execute on function %s to %I', thing.routine, worker);
  end loop;
  -- Two calls with the owner's rights, and no table.
  execute format('grant execute on function schedule, cancel to %I', client);
  if operator is not null then
    execute format('grant usage on schema %I to %I', home, operator);
    -- The function itself checks the right to give the reason `operator`.
    execute format('grant execute on function cancel to %I', operator);
  end if;

  -- Messages carry what runs are given, and a fence is a right: readers get neither.
  for thing in
    select c.relname, string_agg(quote_ident(a.attname), ', ') as columns
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace = home::regnamespace and c.relname in ('pending', 'outcome')
      and a.attname not in ('message', 'timings', 'codec', 'fence')
    group by c.relname
  loop
    execute format('grant select (%s) on %I to %I', thing.columns, thing.relname, reader);
  end loop;
end;
$$;
