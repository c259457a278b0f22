-- Five roles without login, named after the schema; the first of them becomes the owner of everything in the
-- schema.
do $$
declare
  home  text := current_schema();
  owner text := home || '_owner';
  kind  text;
  thing regclass;
  code  regprocedure;
begin
  foreach kind in array array['owner', 'worker', 'client', 'reader', 'operator'] loop
    if not exists (select 1 from pg_roles where rolname = home || '_' || kind) then
      begin
        execute format('create role %I nologin', home || '_' || kind);
      exception when duplicate_object or unique_violation then
        -- All databases share the roles, and the migration of another one was faster.
        null;
      end;
    end if;
  end loop;
  -- The login that migrates gives everything to the owner, and acts as the owner later.
  if not pg_has_role(current_user, owner, 'usage') then
    execute format('grant %I to %I', owner, current_user);
  end if;

  if (select nspowner::regrole::text from pg_namespace where nspname = home) <> quote_ident(owner) then
    execute format('alter schema %I owner to %I', home, owner);
  end if;
  for thing in
    select c.oid from pg_class c
    where c.relnamespace = home::regnamespace and c.relkind in ('r', 'p', 'v')
      and c.relowner <> owner::regrole
  loop
    execute format('alter table %s owner to %I', thing, owner);
  end loop;
  for code in
    select p.oid from pg_proc p
    where p.pronamespace = home::regnamespace and p.proowner <> owner::regrole
  loop
    execute format('alter routine %s owner to %I', code, owner);
  end loop;
end;
$$;
