-- Counts do not grow for ever with the names that callers give. Until now each random name of a supervisor added its own
-- lines for every hour, kept for ever.

create table counted_name (
  pool    text collate "C" not null,
  kind    text collate "C" not null,
  name    text collate "C" not null,
  seen_on date             not null,
  primary key (pool, kind, name),
  constraint counted_name_kind_known check (kind in ('supervisor', 'region', 'deployment_version'))
);
comment on table counted_name is
  'Names that counts are kept for: a bounded number in each pool. All others are counted as `other`. A name not seen for as long as outcomes are kept makes room.';
comment on column counted_name.pool is 'The pool.';
comment on column counted_name.kind is 'Whose name it is: supervisor, region or deployment_version.';
comment on column counted_name.name is 'The name.';
comment on column counted_name.seen_on is 'The last day (UTC) on which it was counted.';

-- Names that are counted already keep their lines, until they are as old as outcomes are kept.
insert into counted_name (pool, kind, name, seen_on)
select h.pool, v.kind, v.name, max(h.hour)::date
from outcome_hour h
cross join lateral (values
  ('supervisor', h.supervisor), ('region', h.region), ('deployment_version', h.deployment_version)) as v (kind, name)
where v.name is not null
group by h.pool, v.kind, v.name;

create index outcome_hour_named on outcome_hour (hour)
  where supervisor is not null or region is not null or deployment_version is not null;
comment on index outcome_hour_named is 'Hours that are to be folded to their pool when outcomes are as old as they are kept.';

create function fold_old_hours(keep_days integer, most integer) returns integer
language sql
set search_path from current
as $$
  with old as (
    delete from outcome_hour
    where ctid = any (array(
      select h.ctid from outcome_hour h
      where h.hour < statement_timestamp() - keep_days * interval '1 day'
        and (h.supervisor is not null or h.region is not null or h.deployment_version is not null)
      order by h.hour
      limit most))
    returning *
  ), folded as (
    insert into outcome_hour as h (hour, pool, intent, outcome, reason, fallback_result, late, n)
    select hour, pool, intent, outcome, reason, fallback_result, late, sum(n)
    from old
    group by hour, pool, intent, outcome, reason, fallback_result, late
    on conflict on constraint outcome_hour_once do update set n = h.n + excluded.n
  )
  select count(*)::integer from old
$$;
comment on function fold_old_hours is
  'Folds lines of hours as old as outcomes are kept to their pool, without names; at most so many. Returns how many.';
