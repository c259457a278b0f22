-- Losses that ask at the same time share a statement: all permits of a window take one row's lock, and one durable
-- commit for each of them made a storm slower than its leases.

create function permit_creates(held_run_ids text[], held_ids uuid[], held_fences bigint[], hold_ms integer)
returns table (ordinal integer, answer text, hold_reason text)
language plpgsql
set search_path from current
as $$
#variable_conflict use_variable
declare
  one record;
begin
  for one in
    select h.run_id, h.id, h.fence, h.n
    from unnest(held_run_ids, held_ids, held_fences) with ordinality as h (run_id, id, fence, n)
    left join pending p on p.run_id = h.run_id
    -- One order of pools, and so of their windows, for every batch.
    order by p.pool, h.run_id collate "C"
  loop
    ordinal := one.n;
    hold_reason := null;
    -- A row that another transaction holds must not hold up the others, and with them the window's row.
    perform 1 from pending p where p.run_id = one.run_id and p.id = one.id and p.fence = one.fence for update skip locked;
    if found then
      select p.answer, p.hold_reason into answer, hold_reason from permit_create(one.run_id, one.id, one.fence, hold_ms) as p;
    elsif exists (
      select 1 from pending p where p.run_id = one.run_id and p.id = one.id and p.fence = one.fence
    ) then
      answer := 'held';
    else
      answer := 'stale';
    end if;
    return next;
  end loop;
end;
$$;
comment on function permit_creates is
  'The answers of permit_create for many rows, each with its ordinal; held: another transaction has the row, ask again.';
