//! What a doctor asks about the server: settings, and objects of others, that prevent keeping a promise.

use serde::Serialize;

use crate::store::{Store, StoreError};

/// Facts about the server, in one reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerFacts {
    /// Whether writes are refused: a standby, or a role or database that is read-only.
    pub read_only: bool,
    /// Whether this connection is encrypted, as far as the server sees it.
    pub encrypted: bool,
    /// `synchronous_standby_names`; empty: commits wait for no standby.
    pub synchronous_standby_names: String,
    /// Connected standbys that commits wait for; `None` if this role may not see them.
    pub synchronous_standbys: Option<i64>,
    /// Our tables without a replica identity that a publication requires.
    pub without_identity: Vec<String>,
    /// Tables of ours with row-level security.
    pub row_security: Vec<String>,
    /// Prepared transactions that have been open for a minute or longer.
    pub prepared_transactions: Vec<String>,
    /// Replication slots without a consumer, which keep dead rows from being removed.
    pub slots: Vec<String>,
    /// Schemas of this database with tables of ours.
    pub schemas: Vec<String>,
}

impl Store {
    /// Reads the facts about the server. Works where our own tables are not there.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn server_facts(&self) -> Result<ServerFacts, StoreError> {
        sqlx::query_as!(
            ServerFacts,
            r#"select
                 current_setting('transaction_read_only') = 'on' as "read_only!",
                 coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false) as "encrypted!",
                 current_setting('synchronous_standby_names') as "synchronous_standby_names!",
                 case when pg_has_role('pg_read_all_stats', 'usage') then
                   (select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum'))
                   end as synchronous_standbys,
                 array(select c.relname::text from pg_class c
                   where c.relnamespace = to_regnamespace(current_schema()) and c.relkind = 'r'
                     and exists (select 1 from pg_publication where puballtables and (pubupdate or pubdelete))
                     and (c.relreplident = 'n' or (c.relreplident = 'd' and not exists (
                       select 1 from pg_index i where i.indrelid = c.oid and i.indisprimary)))
                     -- Outcomes are appended and dropped by whole tables.
                     and not c.relispartition
                   order by 1) as "without_identity!",
                 array(select c.relname::text from pg_class c
                   where c.relnamespace = to_regnamespace(current_schema()) and c.relrowsecurity
                   order by 1) as "row_security!",
                 array(select gid from pg_prepared_xacts
                   where prepared < clock_timestamp() - interval '1 minute' order by prepared) as "prepared_transactions!",
                 array(select slot_name::text from pg_replication_slots
                   where not active and xmin is not null order by 1) as "slots!",
                 array(select n.nspname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
                   where c.relname = 'refinery_schema_history' order by 1) as "schemas!""#
        )
        .fetch_one(self.patient())
        .await
        .map_err(StoreError::doing("read the server's facts"))
    }
}
