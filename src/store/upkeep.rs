//! Upkeep of the tables: partitions ahead of time, counts merged, old windows dropped.
//!
//! Any worker may do it and one at a time does; whoever finds it being done leaves it.
//! Pending rows are never touched.

use sqlx::{Postgres, Transaction};

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
        let Some(partitions_created) = self.create_partitions(days_ahead).await? else { return Ok(None) };
        let Some(counts_merged) = self.tidy_up().await? else { return Ok(None) };
        Ok(Some(Upkeep { partitions_created, counts_merged }))
    }

    /// In a transaction of its own, and without waiting: with days in hand, a later round will do.
    async fn create_partitions(&self, days_ahead: u32) -> Result<Option<i32>, StoreError> {
        let failed = StoreError::doing(DOING);
        let Some(mut tx) = self.take_turn().await? else { return Ok(None) };
        sqlx::query!("select set_config('lock_timeout', '100ms', true) as wait")
            .fetch_one(&mut *tx)
            .await
            .map_err(&failed)?;
        let created = sqlx::query_scalar!(
            r#"select ensure_outcome_partitions($1) as "made!""#,
            super::count(days_ahead)
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(Some(created))
    }

    /// Merges counts and drops what is of no use any more.
    async fn tidy_up(&self) -> Result<Option<u64>, StoreError> {
        let failed = StoreError::doing(DOING);
        let Some(mut tx) = self.take_turn().await? else { return Ok(None) };
        let merged = sqlx::query!(
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
        Ok(Some(merged))
    }

    /// A transaction in which nobody else keeps the tables up; released with it, so nothing
    /// depends on a session.
    async fn take_turn(&self) -> Result<Option<Transaction<'_, Postgres>>, StoreError> {
        let failed = StoreError::doing(DOING);
        let mut tx = self.db().begin().await.map_err(&failed)?;
        let ours = sqlx::query_scalar!(
            r#"select pg_try_advisory_xact_lock(hashtext('warmproof upkeep'), hashtext(current_schema())) as "ours!""#
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(&failed)?;
        Ok(ours.then_some(tx))
    }
}
