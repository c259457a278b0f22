-- Sessions of the admin page. They stand here, so that any api process knows them and none remembers any.

create table session (
  hash        bytea       primary key,
  token_proof bytea       not null,
  created_at  timestamptz not null default clock_timestamp(),
  expires_at  timestamptz not null,
  constraint session_hash_sha256  check (octet_length(hash) = 32),
  constraint session_proof_sha256 check (octet_length(token_proof) = 32),
  constraint session_ends check (expires_at > created_at)
);
-- For the sweep of what has expired, at each sign-in.
create index session_expires_at on session (expires_at);
comment on table session is 'Who is signed in to the admin page. Neither the cookie nor the token can be told from a row.';
comment on column session.hash is 'SHA-256 of the cookie.';
comment on column session.token_proof is
  'SHA-256 of the cookie and the token''s hash together: what the session may is what that token may, as long as it is good.';
comment on column session.created_at is 'When somebody signed in.';
comment on column session.expires_at is 'Until when the session is good, should its token be.';

-- Wider than before, so no row needs to be looked at; programs of the release before write a part of it.
alter table audit drop constraint audit_action_known;
alter table audit add constraint audit_action_known check (action in
  ('pool.change', 'cancel', 'cancel.filter', 'look_now', 'token.create', 'token.revoke', 'sign_in', 'sign_out',
   'message.show')) not valid;

-- Losses are few among outcomes, and the latest of them are what people look for first.
create index outcome_lost on outcome (settled_at) where outcome = 'fallback' or reason = 'requeued';
