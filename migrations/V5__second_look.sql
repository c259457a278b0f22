-- The second look: did the workload that a fallback made start the run?

alter table pool
  add column second_look_after_ms integer default 30000
    constraint pool_second_look_bounded check (second_look_after_ms between 1000 and 600000);
comment on column pool.second_look_after_ms is 'Milliseconds from a created fallback to its second look; null: none.';

create table second_look (
  verification_id uuid        primary key,
  run_id          text        collate "C" not null,
  snapshot_id     text        collate "C" not null,
  pool            text        collate "C" not null,
  dequeued_at     timestamptz not null,
  settled_at      timestamptz not null,
  look_at         timestamptz not null,
  look_count      integer     not null default 0,
  looked_at       timestamptz,
  result          text        collate "C",
  late            boolean,
  error           text,
  constraint second_look_result_known check (result in ('confirmed', 'not_started', 'unknown')),
  constraint second_look_told_whole check ((result is null) = (looked_at is null) and (result is null) = (late is null))
);
comment on table second_look is 'One row a fallback that was created: whether its run had started when somebody looked once more.';
comment on column second_look.look_at is 'When to look next; moved on by whoever takes it, so that a look that is lost is made by another.';
comment on column second_look.result is 'confirmed: the run moved on; not_started: it did not, or the platform''s redrive took it; unknown: no look learned it.';
comment on column second_look.late is 'Seen later than 55 s after dequeue, when it may show the redriven dispatch.';

create index second_look_due on second_look (pool, look_at) where result is null;
create index second_look_settled on second_look using brin (settled_at) with (pages_per_range = 32);
