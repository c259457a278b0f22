-- Roles: closes functions to the public. `migrate --roles` makes the roles themselves and grants each its
-- minimum, which needs rights that a migration may lack.

revoke execute on function ensure_outcome_partitions from public;
revoke execute on function drop_old_outcomes from public;
revoke execute on function analyze_outcomes from public;
revoke execute on function schedule from public;
revoke execute on function cancel from public;
