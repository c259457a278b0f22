-- A lease that ends later than any lease may is over: the clock stepped back since it began, at a failover for example.
-- The claim statement has the same rule.

create or replace function pending_status(
  lease_expires_at timestamptz, probe_at timestamptz, lost_at timestamptz, hold_reason text)
returns text
language sql stable parallel safe
return case
  when lease_expires_at > statement_timestamp() and lease_expires_at <= statement_timestamp() + interval '65 seconds'
    then 'claimed'
  -- Two seconds are longer than a healthy worker ever takes between two claims.
  when probe_at < statement_timestamp() - interval '2 seconds' then 'overdue'
  when hold_reason is not null then 'held'
  when lost_at is not null then 'lost'
  else 'waiting'
end;
