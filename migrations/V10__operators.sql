-- An operator's cancel by SQL is for operators, and the audit has it, as it has those of the API, the page and the command.

create function is_operator() returns boolean
language sql stable
set search_path from current
as $$
  -- `role` is what the caller has set; inside a function with the owner's rights, current_user is the owner.
  with caller as (select case current_setting('role') when 'none' then session_user::text else current_setting('role') end as name)
  select pg_has_role(c.name, n.nspowner, 'member')
    or exists (
      select 1 from pg_roles r where r.rolname = n.nspname || '_operator' and pg_has_role(c.name, r.oid, 'member'))
  from caller c cross join pg_namespace n
  where n.nspname = current_schema();
$$;
comment on function is_operator is 'Whether the caller is a member of the operator''s role, or of the owner''s.';

create or replace function cancel(
  run_id text, snapshot_id text default null, reason text default 'connected', out result text, out id uuid)
language plpgsql
security definer
set search_path from current
as $$
#variable_conflict use_variable
declare
  answer record;
begin
  if reason is null or reason not in ('connected', 'miss', 'operator') then
    raise exception '`reason` must be `connected`, `miss` or `operator`' using errcode = 'invalid_parameter_value';
  elsif reason = 'operator' and not is_operator() then
    raise exception '`reason` `operator` is for members of the role %', quote_ident(current_schema() || '_operator')
      using errcode = 'insufficient_privilege', hint = 'supervisors cancel with `connected` or `miss`';
  elsif snapshot_id is not null then
    perform require_id('snapshot_id', 'snapshot', snapshot_id);
  end if;
  select * into strict answer from cancel_many(array[require_id('run_id', 'run', run_id)], array[snapshot_id], array[reason]);
  if reason = 'operator' then
    insert into audit (actor, action, target, detail)
    values ('sql:' || session_user, 'cancel', run_id, jsonb_build_object('result', answer.result, 'id', answer.id));
  end if;
  result := answer.result;
  id := answer.id;
end;
$$;

comment on column audit.actor is
  'Name of the token, or `cli:` and the account that ran the command, or `sql:` and the login that called.';
