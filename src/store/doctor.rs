//! What a doctor asks a database: facts, not judgements.

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use super::{Store, StoreError};

mod server;

pub use server::ServerFacts;

/// Facts about the database, in one reading.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatabaseFacts {
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// Such as 150018.
    pub server_version: i32,
    /// `synchronous_commit` of our sessions.
    pub synchronous_commit: String,
    /// Claimed rows whose lease has been over for a minute: no worker sweeps.
    pub leases_stuck: i64,
    /// Rows of pools that are not paused, unclaimed a minute past their probe.
    pub overdue: i64,
    /// How long the longest transaction that pins dead rows has been open, in seconds.
    pub oldest_transaction_seconds: f64,
    /// Live rows of `pending`, as the statistics have it.
    pub live_rows: i64,
    /// Dead rows of `pending`, as the statistics have it.
    pub dead_rows: i64,
    /// The last day that has a partition of `outcome`.
    pub partitions_until: Option<NaiveDate>,
}

impl Store {
    /// Reads the facts.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn facts(&self) -> Result<DatabaseFacts, StoreError> {
        sqlx::query_as!(
            DatabaseFacts,
            r#"select
                 clock_timestamp() as "now!",
                 current_setting('server_version_num')::int as "server_version!",
                 current_setting('synchronous_commit') as "synchronous_commit!",
                 (select count(*) from pending
                  where lease_expires_at < clock_timestamp() - interval '1 minute') as "leases_stuck!",
                 (select count(*) from pending p join pool on pool.name = p.pool and not pool.paused
                  where p.probe_at < clock_timestamp() - interval '1 minute'
                    and (p.lease_expires_at is null or p.lease_expires_at < clock_timestamp())) as "overdue!",
                 coalesce((select extract(epoch from clock_timestamp() - min(xact_start)) from pg_stat_activity
                  where backend_xmin is not null and pid <> pg_backend_pid()), 0)::float8
                   as "oldest_transaction_seconds!",
                 coalesce((select n_live_tup from pg_stat_user_tables where relid = 'pending'::regclass), 0)
                   as "live_rows!",
                 coalesce((select n_dead_tup from pg_stat_user_tables where relid = 'pending'::regclass), 0)
                   as "dead_rows!",
                 (select max(to_date(right(c.relname, 8), 'YYYYMMDD'))
                  from pg_inherits i join pg_class c on c.oid = i.inhrelid
                  where i.inhparent = 'outcome'::regclass) as partitions_until"#
        )
        .fetch_one(self.patient())
        .await
        .map_err(StoreError::doing("read the database's facts"))
    }
}
