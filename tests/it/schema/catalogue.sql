-- All that a schema holds, one line an object, independent of the order in which columns were added.
with ours as (
  select c.*
  from pg_class c
  where c.relnamespace = current_schema()::regnamespace and not c.relispartition
)
select concat_ws(' ', 'column', ours.relname || '.' || a.attname, format_type(a.atttypid, a.atttypmod),
    (select collname from pg_collation where oid = a.attcollation), a.attnotnull,
    coalesce(pg_get_expr(d.adbin, d.adrelid), '-'), a.attidentity, a.attcompression,
    '--', coalesce(col_description(ours.oid, a.attnum), '-')) as line
from ours
join pg_attribute a on a.attrelid = ours.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = ours.oid and d.adnum = a.attnum
where ours.relkind in ('r', 'p', 'v')
union all
select concat_ws(' ', 'relation', relname, relkind, coalesce(reloptions::text, '-'), relreplident,
  coalesce(pg_get_partkeydef(oid), '-'), '--', coalesce(obj_description(oid, 'pg_class'), '-'))
from ours
where relkind in ('r', 'p', 'v', 'S')
union all
select concat_ws(' ', 'view', relname, regexp_replace(pg_get_viewdef(oid), '\s+', ' ', 'g'))
from ours
where relkind = 'v'
union all
select concat_ws(' ', 'constraint', ours.relname || '.' || k.conname, pg_get_constraintdef(k.oid), k.convalidated)
from ours
join pg_constraint k on k.conrelid = ours.oid
union all
select concat_ws(' ', 'index', i.indexrelid::regclass, pg_get_indexdef(i.indexrelid), i.indisvalid,
  '--', coalesce(obj_description(i.indexrelid, 'pg_class'), '-'))
from ours
join pg_index i on i.indrelid = ours.oid
union all
select concat_ws(' ', 'function', p.oid::regprocedure, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
  (select lanname from pg_language where oid = p.prolang), p.provolatile, p.proparallel, p.prosecdef,
  coalesce(p.proconfig::text, '-'), coalesce(p.proacl::text, '-'), '--', coalesce(obj_description(p.oid, 'pg_proc'), '-'))
from pg_proc p
where p.pronamespace = current_schema()::regnamespace
union all
select concat_ws(' ', 'body', p.proname,
  regexp_replace(coalesce(pg_get_function_sqlbody(p.oid), p.prosrc), '\s+', ' ', 'g'))
from pg_proc p
where p.pronamespace = current_schema()::regnamespace
union all
select concat_ws(' ', 'trigger', ours.relname || '.' || t.tgname, pg_get_triggerdef(t.oid))
from ours
join pg_trigger t on t.tgrelid = ours.oid and not t.tgisinternal
union all
select concat_ws(' ', 'partitions', c.relkind, count(*))
from pg_class c
where c.relnamespace = current_schema()::regnamespace and c.relispartition
group by c.relkind
