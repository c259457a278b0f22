//! Tally: how many probes failed lately, over all workers; the measure of a brown-out.

use super::connect::{LockWait, Terms};
use super::{Store, StoreError};
use crate::domain::ids::{PoolName, WorkerName};

/// What one worker saw of one pool since its last report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeTally {
    /// The pool.
    pub pool: PoolName,
    /// Probes made; more than 0.
    pub probes: u32,
    /// Those that failed.
    pub failures: u32,
}

impl Store {
    /// Adds to the tallies of `worker`, and so records a brown-out as soon as it shows. Answers the pools whose probes
    /// fail for this worker alone: it is sick.
    ///
    /// Commits asynchronously: a crash may lose a tally, which described only the moments before it.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn tally_probes(
        &self,
        worker: &WorkerName,
        tallies: &[ProbeTally],
    ) -> Result<Vec<PoolName>, StoreError> {
        let pools: Vec<&str> = tallies.iter().map(|tally| tally.pool.as_str()).collect();
        let probes: Vec<i32> = tallies.iter().map(|tally| super::count(tally.probes)).collect();
        let failures: Vec<i32> = tallies.iter().map(|tally| super::count(tally.failures)).collect();
        let sick = sqlx::query_scalar!(
            r#"select tally_probes($1, $2, $3, $4) as "sick!: Vec<String>""#,
            worker.as_str(),
            &pools as &[&str],
            &probes,
            &failures,
        )
        .fetch_one(self.db().on(Terms::RELAXED.waiting(LockWait::Patient)))
        .await
        .map_err(StoreError::doing("tally probes"))?;
        Ok(tallies
            .iter()
            .map(|tally| &tally.pool)
            .filter(|pool| sick.iter().any(|name| name == pool.as_str()))
            .cloned()
            .collect())
    }
}
