-- A publication for all tables (`create publication … for all tables`) refuses every update and delete of a table
-- that does not say which of its rows is meant, and with it upkeep. These have no key of columns that are all there.
-- It costs nothing unless the log is decoded: old rows are written to it only with `wal_level = logical`.
alter table outcome_count replica identity full;
alter table outcome_hour replica identity full;
alter table outcome_minute replica identity full;
alter table probe_tally replica identity full;
