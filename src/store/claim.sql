with wanted as (
  select asked.pool, asked.low, asked.high, asked.quota
  from unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::int[]) as asked (pool, low, high, quota)
  join pool on pool.name = asked.pool and not pool.paused
)
update pending p
set
  lease_expires_at = statement_timestamp() + $6::int * interval '1 millisecond',
  fence = $7,
  worker = $8,
  claim_count = p.claim_count + 1
where p.ctid = any (array(
    select due.place
    from wanted
    cross join lateral (
      select candidate.ctid as place
      from pending candidate
      where candidate.pool = wanted.pool
        -- The low watermark starts the scan past dead rows that a long transaction pins.
        and candidate.probe_at >= coalesce(wanted.low, '-infinity')
        -- Never beyond the horizon, not even when a clock that stepped back leaves the watermark ahead.
        and candidate.probe_at <= least(wanted.high, statement_timestamp() + $5::int * interval '1 millisecond')
        and (candidate.lease_expires_at is null or candidate.lease_expires_at <= statement_timestamp()
          -- No lease is longer than a minute: the clock stepped back since it began. The rest is for a claim that
          -- began a moment after this one.
          or candidate.lease_expires_at > statement_timestamp() + interval '65 seconds')
      order by candidate.probe_at
      limit wanted.quota
      for update skip locked
    ) as due))
returning
  p.id, p.run_id, p.snapshot_id, p.pool, p.supervisor, p.region, p.intent as "intent: Intent",
  left_queue_at(p.dequeued_at, p.scheduled_at) as "left_queue_at!", p.dequeued_at, p.due_at, p.probe_at, statement_timestamp() as "claimed_at!",
  p.claim_count, p.probe_failures, p.create_count, p.prepare_failures, p.early as "early: EarlyProbe", p.lost_at, p.workload, p.traceparent
