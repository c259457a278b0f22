//! Upkeep of the tables: partitions ahead of time, old ones dropped, counts folded, old windows dropped.
//!
//! Any worker may do it and one at a time does; whoever finds it being done leaves it.
//! Pending rows are never touched, and no count is ever lost: what is dropped has been counted.

use sqlx::{Postgres, Transaction};

use super::{Store, StoreError};

const DOING: &str = "keep the tables up";

/// How long a change of partitions waits for the table: everybody else waits behind it.
const PARTITION_WAIT: &str = "100ms";
/// Deltas folded by one statement: a second's work, so that no statement runs into its limit.
const FOLD_MAX: i64 = 50_000;
/// Such statements in a round. What is left is folded by the next; counts are exact all the same.
const FOLDS_MAX: usize = 40;
/// Days dropped in a round. More wait only after retention was shortened.
const DROPS_MAX: usize = 3;
/// How long gathering statistics may take; a day later it is tried again.
const ANALYZE_WAIT: &str = "60s";

/// What is kept ready and what is kept at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpkeepTerms {
    /// Daily partitions ready ahead of today.
    pub days_ahead: u32,
    /// Days for which outcomes are kept; whole days older than that are dropped.
    pub retention_days: u32,
}

/// What one round of upkeep did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// Daily partitions created.
    pub partitions_created: i32,
    /// Daily partitions dropped, by name.
    pub partitions_dropped: Vec<String>,
    /// Delta rows folded into totals, hours, minutes and histograms.
    pub counts_folded: i64,
    /// Whether the planner's statistics of all outcomes were gathered.
    pub analyzed: bool,
}

impl Store {
    /// Runs one round, unless another worker is at it: then `None`.
    ///
    /// # Errors
    /// The database could not be reached; the next round does it.
    pub async fn upkeep(&self, terms: UpkeepTerms) -> Result<Option<Upkeep>, StoreError> {
        let Some(partitions_created) = self.create_partitions(terms.days_ahead).await? else {
            return Ok(None);
        };
        let Some(counts_folded) = self.fold_counts().await? else { return Ok(None) };
        if self.drop_passing(terms.retention_days).await?.is_none() {
            return Ok(None);
        }
        let partitions_dropped = self.drop_old_outcomes(terms.retention_days).await?;
        let analyzed = self.analyze_outcomes().await?;
        Ok(Some(Upkeep { partitions_created, partitions_dropped, counts_folded, analyzed }))
    }

    /// In a transaction of its own, and without waiting: with days in hand, a later round will do.
    async fn create_partitions(&self, days_ahead: u32) -> Result<Option<i32>, StoreError> {
        let failed = StoreError::doing(DOING);
        let Some(mut tx) = self.take_turn().await? else { return Ok(None) };
        wait_at_most(&mut tx, PARTITION_WAIT).await?;
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

    /// Folds what was counted since the last round, in steps that commit by themselves.
    async fn fold_counts(&self) -> Result<Option<i64>, StoreError> {
        let failed = StoreError::doing(DOING);
        let mut all = 0;
        for _ in 0..FOLDS_MAX {
            let Some(mut tx) = self.take_turn().await? else { return Ok(None) };
            let folded = sqlx::query_file_scalar!("src/store/fold_counts.sql", FOLD_MAX)
                .fetch_one(&mut *tx)
                .await
                .map_err(&failed)?;
            tx.commit().await.map_err(&failed)?;
            all += folded;
            if folded < FOLD_MAX {
                break;
            }
        }
        Ok(Some(all))
    }

    /// Drops what is of no use any more: counts by minute after two days, which stand in the hours as well,
    /// windows of caps, tallies, workers that fell silent, and second looks as old as the outcomes that go.
    async fn drop_passing(&self, retention_days: u32) -> Result<Option<()>, StoreError> {
        let failed = StoreError::doing(DOING);
        let Some(mut tx) = self.take_turn().await? else { return Ok(None) };
        sqlx::query!("delete from outcome_minute where minute < clock_timestamp() - interval '2 days'")
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        sqlx::query!("delete from fallback_window where starts_at < clock_timestamp() - interval '1 day'")
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        sqlx::query!("delete from probe_tally where counted_at < clock_timestamp() - interval '10 minutes'")
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        sqlx::query!("delete from worker where seen_at < clock_timestamp() - interval '1 day'")
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        sqlx::query!(
            "delete from second_look where settled_at < clock_timestamp() - $1 * interval '1 day'",
            f64::from(retention_days)
        )
        .execute(&mut *tx)
        .await
        .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(Some(()))
    }

    /// Drops whole days of outcomes, each in a transaction of its own. A day that somebody reads for
    /// long waits for another round.
    async fn drop_old_outcomes(&self, retention_days: u32) -> Result<Vec<String>, StoreError> {
        let mut dropped = Vec::new();
        for _ in 0..DROPS_MAX {
            match self.drop_oldest_day(retention_days).await {
                Ok(Some(day)) => dropped.push(day),
                Ok(None) => break,
                Err(error) if error.is_lock_timeout() => {
                    tracing::debug!(%error, "a day of outcomes is in use and is dropped later");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(dropped)
    }

    async fn drop_oldest_day(&self, retention_days: u32) -> Result<Option<String>, StoreError> {
        let failed = StoreError::doing(DOING);
        let Some(mut tx) = self.take_turn().await? else { return Ok(None) };
        wait_at_most(&mut tx, PARTITION_WAIT).await?;
        let day = sqlx::query_scalar!(r#"select drop_old_outcomes($1) as day"#, super::count(retention_days))
            .fetch_one(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(day)
    }

    /// Once a day: autovacuum gathers statistics of the partitions, and never of the table they make up.
    ///
    /// Outside of the turn, because it may take a while. Whoever notes it first does it.
    async fn analyze_outcomes(&self) -> Result<bool, StoreError> {
        let failed = StoreError::doing(DOING);
        let ours = sqlx::query!(
            "insert into upkeep_done as d (task, done_at) values ('analyze outcome', clock_timestamp())
             on conflict (task) do update set done_at = excluded.done_at
             where d.done_at < excluded.done_at - interval '1 day'"
        )
        .execute(self.db())
        .await
        .map_err(&failed)?
        .rows_affected();
        if ours == 0 {
            return Ok(false);
        }
        let mut tx = self.db().begin().await.map_err(&failed)?;
        sqlx::query!("select set_config('statement_timeout', $1, true) as wait", ANALYZE_WAIT)
            .fetch_one(&mut *tx)
            .await
            .map_err(&failed)?;
        sqlx::query!("select analyze_outcomes()::text as done").fetch_one(&mut *tx).await.map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(true)
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

/// Bounds how long the statements of a transaction wait for a lock.
async fn wait_at_most(tx: &mut Transaction<'_, Postgres>, wait: &str) -> Result<(), StoreError> {
    sqlx::query!("select set_config('lock_timeout', $1, true) as wait", wait)
        .fetch_one(&mut **tx)
        .await
        .map_err(StoreError::doing(DOING))?;
    Ok(())
}
