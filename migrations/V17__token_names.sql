-- A token's name is its actor in the audit. Until now it could be that of another kind of actor. One that has such a name
-- can still be revoked.

alter table token add constraint token_name_not_reserved
  check (revoked_at is not null
    or (name not in ('environment', 'system') and name not like 'cli:%' and name not like 'sql:%')) not valid;
