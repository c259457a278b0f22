-- Operators: tokens with scopes, and a record of what was done with them.

create table token (
  id         uuid        primary key,
  name       text        collate "C" not null unique,
  hash       bytea       not null unique,
  scopes     text[]      collate "C" not null,
  created_at timestamptz not null default clock_timestamp(),
  created_by text        not null,
  revoked_at timestamptz,
  constraint token_name_bounded  check (octet_length(name) between 1 and 200),
  constraint token_hash_sha256   check (octet_length(hash) = 32),
  constraint token_scopes_known  check (cardinality(scopes) > 0 and scopes <@ array['schedule', 'read', 'operate'])
);
comment on table token is 'Bearer tokens of the API. The token itself is shown once, when it is made, and is nowhere stored.';
comment on column token.hash is 'SHA-256 of the token.';
comment on column token.scopes is 'schedule: schedule and cancel; read: look; operate: change pools, cancel as operator, look now.';

create table audit (
  id     bigint      generated always as identity primary key,
  at     timestamptz not null default clock_timestamp(),
  actor  text        not null,
  action text        collate "C" not null,
  target text,
  detail jsonb       not null default '{}',
  constraint audit_action_known check (action in
    ('pool.change', 'cancel', 'cancel.filter', 'look_now', 'token.create', 'token.revoke'))
);
comment on table audit is 'What operators did, written in the transaction that did it.';
comment on column audit.actor is 'Name of the token, or `cli:` and the account that ran the command.';
