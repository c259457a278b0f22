select
  p.name as pool, p.paused,
  -- Until the first account, and while programs of before fold without the totals, they may be too low.
  greatest(coalesce(folded.pending, 0) + coalesce(delta.n, 0), near.claimed + near.overdue + near.lost + near.held)
    as "pending!",
  near.claimed as "claimed!", near.overdue as "overdue!", near.lost as "lost!", near.held as "held!",
  near.overdue_longest_seconds as "overdue_longest_seconds!",
  (select count(*) from worker w
    where p.name = any (w.pools) and w.seen_at > statement_timestamp() - $1::float8 * interval '1 second') as "workers!",
  (select count(*) from follow_up f
    where f.pool = p.name and f.result is null and f.probe_at <= statement_timestamp()) as "follow_ups_waiting!",
  exists (select 1 from brown_out b
    where b.pool = p.name and brown_out_over_at(b, p.cool_down_ms) > statement_timestamp()) as "brown_out!"
from pool p
left join pool_total folded on folded.pool = p.name
left join (
  select c.pool, sum(case when c.outcome = 'scheduled' then c.n else -c.n end)::bigint as n
  from outcome_count c group by c.pool
) as delta on delta.pool = p.name
cross join lateral (
  select
    count(*) filter (where status = 'claimed') as claimed,
    count(*) filter (where status = 'overdue') as overdue,
    count(*) filter (where status = 'lost') as lost,
    count(*) filter (where status = 'held') as held,
    coalesce(extract(epoch from statement_timestamp() - min(probe_at) filter (where status = 'overdue')), 0)
      ::double precision as overdue_longest_seconds
  from (
    select probe_at, pending_status(lease_expires_at, probe_at, lost_at, hold_reason) as status
    from (
      -- A worker claims what is due soon; what is due later only waits, unless it is lost.
      (select due.lease_expires_at, due.probe_at, due.lost_at, due.hold_reason
       from pending due
       where due.pool = p.name and due.probe_at <= statement_timestamp() + $2::float8 * interval '1 second'
         and due.lost_at is null
       order by due.probe_at
       limit $3)
      union all
      (select lost.lease_expires_at, lost.probe_at, lost.lost_at, lost.hold_reason
       from pending lost
       where lost.pool = p.name and lost.lost_at is not null
       limit $3)
    ) as read
  ) as judged
) as near
order by p.name
