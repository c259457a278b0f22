//! Upkeep of the tables: partitions ahead of time, old ones dropped, counts folded, old windows dropped.
//!
//! Any worker or api may run it, one at a time; a process that finds another at work skips it. Each part is a
//! transaction of its own, so that a failed part does not stop the others. Of pending rows it ends only those that
//! no worker will ever claim, and no count is ever lost: everything is counted before it is dropped.

use std::time::Duration;

use sqlx::{Executor, Postgres};

use super::connect::{LockWait, Terms, Tx, Work};
use super::fleet::SILENT_AFTER_SECONDS;
use super::{Store, StoreError};

mod account;
mod rounds;

pub use rounds::keep;

const DOING: &str = "keep the tables up";

/// A change of partitions waits this long for the table: all other statements wait behind it.
const PARTITIONS: Terms = Terms::DURABLE.waiting(LockWait::AtMost(Duration::from_millis(100)));
/// Deltas folded by one statement: a second's work, so that no statement runs into its limit.
const FOLD_MAX: i64 = 50_000;
/// A fold joins its rows with their names, which may be as many: hashed, not compared one by one.
const FOLD: Terms = Terms::PATIENT.planned(&[("enable_hashjoin", "on"), ("enable_nestloop", "off")]);
/// Such statements in a round. The next round folds the rest; counts stay exact.
const FOLDS_MAX: usize = 40;
/// Names of supervisors, regions and deployment versions, of each kind in a pool, that are counted by themselves.
const NAMES_MAX: i64 = 1000;
/// Lines of old hours that are folded to their pool in a round.
const OLD_HOURS_MAX: i32 = 20_000;
/// How long a verification of a pool without a worker is overdue before it ends: as long as a worker may be
/// configured to act on one.
const UNSERVED_AFTER_SECONDS: u32 = 86_400;
/// Such verifications of a pool that end in a round.
const UNSERVED_MAX: i32 = 1000;
/// Days dropped in a round. More wait only after retention was shortened.
const DROPS_MAX: usize = 3;
/// Gathering statistics may take this long; a day later it is tried again.
const ANALYZE: Terms = Terms::PATIENT.within(Duration::from_mins(1));

/// What is kept ready and what is kept at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpkeepTerms {
    /// Daily partitions ready ahead of today.
    pub days_ahead: u32,
    /// Days for which outcomes are kept; whole days older than that are dropped. `None` drops nothing: a
    /// process without this setting must not guess it.
    pub retention_days: Option<u32>,
}

/// What one round of upkeep did.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// Daily partitions created.
    pub partitions_created: i32,
    /// Daily partitions dropped, by name.
    pub partitions_dropped: Vec<String>,
    /// Delta rows folded into totals, hours, minutes and histograms.
    pub counts_folded: i64,
    /// Whether the planner's statistics of all outcomes were gathered.
    pub analyzed: bool,
    /// Parts that another process is working on.
    pub left: Vec<Part>,
    /// Parts that failed; the next round tries them again.
    pub failed: Vec<(Part, StoreError)>,
}

/// One part of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Partitions of days to come.
    Partitions,
    /// Counts folded.
    Counts,
    /// Rows that are of no use any more.
    Leftovers,
    /// Days of outcomes that are older than they are kept.
    Retention,
    /// The planner's statistics.
    Statistics,
    /// The full count of what is pending.
    Account,
}

impl Part {
    /// All parts, in the order of a round.
    pub const ALL: [Self; 6] =
        [Self::Partitions, Self::Counts, Self::Leftovers, Self::Retention, Self::Statistics, Self::Account];

    /// The word in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Partitions => "partitions",
            Self::Counts => "counts",
            Self::Leftovers => "leftovers",
            Self::Retention => "retention",
            Self::Statistics => "statistics",
            Self::Account => "account",
        }
    }
}

impl Upkeep {
    /// Records the result of a part, and returns it.
    fn done<T>(&mut self, part: Part, done: Result<Option<T>, StoreError>) -> Option<T> {
        match done {
            Ok(Some(done)) => return Some(done),
            Ok(None) => self.left.push(part),
            Err(error) => self.failed.push((part, error)),
        }
        None
    }
}

impl Store {
    /// Runs one round. Skips parts that another process is working on.
    pub async fn upkeep(&self, terms: UpkeepTerms) -> Upkeep {
        let mut round = Upkeep::default();
        let created = self.create_partitions(terms.days_ahead).await;
        round.partitions_created = round.done(Part::Partitions, created).unwrap_or_default();
        let folded = self.fold_counts().await;
        round.counts_folded = round.done(Part::Counts, folded).unwrap_or_default();
        let leftovers = self.drop_leftovers(terms.retention_days).await;
        round.done(Part::Leftovers, leftovers);
        if let Some(days) = terms.retention_days {
            let dropped = self.drop_old_outcomes(days).await;
            round.partitions_dropped = round.done(Part::Retention, dropped).unwrap_or_default();
        }
        let analyzed = self.analyze_outcomes().await;
        round.analyzed = round.done(Part::Statistics, analyzed.map(Some)).unwrap_or_default();
        let account = self.take_account().await;
        round.done(Part::Account, account);
        round
    }

    /// Does not wait: partitions for coming days exist, so a later round is early enough.
    async fn create_partitions(&self, days_ahead: u32) -> Result<Option<i32>, StoreError> {
        self.in_turn(PARTITIONS, move |tx| {
            Box::pin(async move {
                sqlx::query_scalar!(
                    r#"select ensure_outcome_partitions($1) as "made!""#,
                    super::count(days_ahead)
                )
                .fetch_one(tx)
                .await
                .map_err(StoreError::doing(DOING))
            })
        })
        .await
    }

    /// Folds what was counted since the last round, in steps that commit by themselves.
    async fn fold_counts(&self) -> Result<Option<i64>, StoreError> {
        let mut all = 0;
        for _ in 0..FOLDS_MAX {
            let folded = self
                .in_turn(FOLD, |tx| {
                    Box::pin(async move {
                        sqlx::query_file_scalar!("src/store/fold_counts.sql", FOLD_MAX, NAMES_MAX)
                            .fetch_one(tx)
                            .await
                            .map_err(StoreError::doing(DOING))
                    })
                })
                .await?;
            let Some(folded) = folded else { return Ok(None) };
            all += folded;
            if folded < FOLD_MAX {
                break;
            }
        }
        Ok(Some(all))
    }

    /// Drops rows without further use: counts by minute after two days, which the hours hold as well, windows
    /// of caps, tallies, workers that stopped reporting, and follow-ups as old as the outcomes that go.
    async fn drop_leftovers(&self, retention_days: Option<u32>) -> Result<Option<()>, StoreError> {
        self.in_turn(Terms::PATIENT, move |tx| Box::pin(drop_leftovers(tx, retention_days))).await
    }

    /// Drops whole days of outcomes, each in a transaction of its own. A day that a long read uses waits for
    /// another round.
    async fn drop_old_outcomes(&self, retention_days: u32) -> Result<Option<Vec<String>>, StoreError> {
        let mut dropped = Vec::new();
        for _ in 0..DROPS_MAX {
            match self.drop_oldest_day(retention_days).await {
                Ok(Some(Some(day))) => dropped.push(day),
                Ok(Some(None)) => break,
                Ok(None) => return Ok(None),
                Err(error) if error.is_lock_timeout() => {
                    tracing::debug!(%error, "a day of outcomes is in use and is dropped later");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(dropped))
    }

    async fn drop_oldest_day(&self, retention_days: u32) -> Result<Option<Option<String>>, StoreError> {
        self.in_turn(PARTITIONS, move |tx| {
            Box::pin(async move {
                sqlx::query_scalar!(r#"select drop_old_outcomes($1) as day"#, super::count(retention_days))
                    .fetch_one(tx)
                    .await
                    .map_err(StoreError::doing(DOING))
            })
        })
        .await
    }

    /// Once a day: autovacuum gathers statistics of the partitions, and never of their parent table.
    ///
    /// Outside the turn, because it may take a while. The first process that records the start does it.
    async fn analyze_outcomes(&self) -> Result<bool, StoreError> {
        let ours = begins(self.patient(), "analyze outcome", Duration::from_hours(24)).await?;
        if ours {
            sqlx::query!("select analyze_outcomes()::text as done")
                .fetch_one(self.db().on(ANALYZE))
                .await
                .map_err(StoreError::doing(DOING))?;
        }
        Ok(ours)
    }

    /// A transaction in which no other process keeps the tables up; `None` if another one does. The turn ends
    /// with the transaction, so nothing depends on a session.
    async fn in_turn<T, W>(&self, terms: Terms, work: W) -> Result<Option<T>, StoreError>
    where
        T: Send + 'static,
        W: for<'t> FnOnce(&'t mut Tx) -> Work<'t, T> + Send + 'static,
    {
        // Boxed: a round awaits many of these, one after the other.
        Box::pin(self.db().transaction(DOING, terms, move |tx| {
            Box::pin(async move {
                let ours = sqlx::query_scalar!(
                    r#"select pg_try_advisory_xact_lock(hashtext('warmproof upkeep'), hashtext(current_schema())) as "ours!""#
                )
                .fetch_one(&mut *tx)
                .await
                .map_err(StoreError::doing(DOING))?;
                if ours { work(tx).await.map(Some) } else { Ok(None) }
            })
        }))
        .await
    }
}

/// Records that a rare task begins, unless it began less than `every` ago; answers whether it is ours.
async fn begins<'c>(
    executor: impl Executor<'c, Database = Postgres>,
    task: &str,
    every: Duration,
) -> Result<bool, StoreError> {
    let begun = sqlx::query!(
        "insert into upkeep_done as d (task, done_at) values ($1, statement_timestamp())
         on conflict (task) do update set done_at = excluded.done_at
         where d.done_at < excluded.done_at - $2 * interval '1 second'",
        task,
        every.as_secs_f64(),
    )
    .execute(executor)
    .await
    .map_err(StoreError::doing(DOING))?;
    Ok(begun.rows_affected() > 0)
}

async fn drop_leftovers(tx: &mut Tx, retention_days: Option<u32>) -> Result<(), StoreError> {
    let failed = StoreError::doing(DOING);
    let expired = sqlx::query_scalar!(
        r#"select expire_unserved($1 * interval '1 second', $2 * interval '1 second', $3) as "expired!""#,
        f64::from(SILENT_AFTER_SECONDS),
        f64::from(UNSERVED_AFTER_SECONDS),
        UNSERVED_MAX,
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(&failed)?;
    if expired > 0 {
        tracing::warn!(expired, "verifications ended that no running worker serves");
    }
    sqlx::query!("delete from outcome_minute where minute < statement_timestamp() - interval '2 days'")
        .execute(&mut *tx)
        .await
        .map_err(&failed)?;
    sqlx::query!("delete from fallback_window where starts_at < statement_timestamp() - interval '1 day'")
        .execute(&mut *tx)
        .await
        .map_err(&failed)?;
    sqlx::query!("delete from probe_tally where counted_at < statement_timestamp() - interval '10 minutes'")
        .execute(&mut *tx)
        .await
        .map_err(&failed)?;
    sqlx::query!("delete from worker where seen_at < statement_timestamp() - interval '1 day'")
        .execute(&mut *tx)
        .await
        .map_err(&failed)?;
    if let Some(days) = retention_days {
        sqlx::query!("select fold_old_hours($1, $2)", super::count(days), OLD_HOURS_MAX)
            .fetch_one(&mut *tx)
            .await
            .map_err(&failed)?;
        sqlx::query!(
            "delete from counted_name where seen_on < (statement_timestamp() - $1 * interval '1 day')::date",
            f64::from(days)
        )
        .execute(&mut *tx)
        .await
        .map_err(&failed)?;
        sqlx::query!(
            "delete from follow_up where settled_at < statement_timestamp() - $1 * interval '1 day'",
            f64::from(days)
        )
        .execute(&mut *tx)
        .await
        .map_err(&failed)?;
    }
    Ok(())
}
