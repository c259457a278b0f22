//! Upkeep of the tables: partitions ahead of time, counts merged, old windows dropped.
//!
//! Any worker may do it and one at a time does; whoever finds it being done leaves it.
//! Pending rows are never touched.

use super::{Store, StoreError};

const DOING: &str = "keep the tables up";

/// What one round of upkeep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// Daily partitions created.
    pub partitions_created: i32,
    /// Delta rows folded into merged ones.
    pub counts_merged: u64,
}

impl Store {
    /// Runs one round, unless another worker is at it: then `None`.
    ///
    /// # Errors
    /// The database could not be reached; the next round does it.
    pub async fn upkeep(&self, days_ahead: u32) -> Result<Option<Upkeep>, StoreError> {
        let failed = StoreError::doing(DOING);
        let mut tx = self.db().begin().await.map_err(&failed)?;
        // Released with the transaction, so nothing depends on a session.
        let ours = sqlx::query_scalar!(
            r#"select pg_try_advisory_xact_lock(hashtext('warmproof upkeep'), hashtext(current_schema())) as "ours!""#
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(&failed)?;
        if !ours {
            return Ok(None);
        }
        let partitions_created = sqlx::query_scalar!(
            r#"select ensure_outcome_partitions($1) as "made!""#,
            super::count(days_ahead)
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(&failed)?;
        let counts_merged = sqlx::query!(
            "with folded as (
               delete from outcome_count
               where not merged and minute < date_trunc('minute', clock_timestamp()) - interval '2 minutes'
               returning *
             )
             insert into outcome_count (
               minute, pool, supervisor, region, deployment_version, intent, outcome, reason, fallback_result,
               late, n, merged)
             select minute, pool, supervisor, region, deployment_version, intent, outcome, reason,
               fallback_result, late, sum(n), true
             from folded
             group by minute, pool, supervisor, region, deployment_version, intent, outcome, reason,
               fallback_result, late"
        )
        .execute(&mut *tx)
        .await
        .map_err(&failed)?
        .rows_affected();
        sqlx::query!("delete from fallback_window where starts_at < clock_timestamp() - interval '1 day'")
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        sqlx::query!("delete from probe_tally where counted_at < clock_timestamp() - interval '10 minutes'")
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(Some(Upkeep { partitions_created, counts_merged }))
    }
}
