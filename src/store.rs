//! All SQL lives below here: one file per verb of a verification's life.
//!
//! The store owns the statements and the connection pool, and nothing else: it
//! never decides what an observation means and never waits for a network call of
//! another service. Each statement commits by itself, so no transaction is ever
//! open during a probe or a create. Every write to a claimed row matches
//! its fence; a write that matches nothing answers `Stale` and is no error.

pub mod audit;
pub mod cancel;
pub mod claim;
pub mod coalesce;
pub mod codec;
pub mod connect;
pub mod doctor;
pub mod early;
pub mod error;
pub mod fall_back;
pub mod fleet;
pub mod follow_up;
pub mod gauges;
mod held;
mod lane_health;
pub mod latest_losses;
pub mod lease;
pub mod lookup;
pub mod migrate;
pub mod pending;
pub mod pool;
pub mod report;
pub mod schedule;
pub mod session;
pub mod settle;
pub mod shared_read;
pub mod tally;
mod text;
pub mod token;
pub mod upkeep;

use std::sync::Arc;

use crate::config::database::{COALESCE_LANES_DEFAULT, CompressionConfig};

pub use error::{Remedy, SharedError, StoreError};

use connect::{Db, On, Terms};
use schedule::Skews;

/// The database, reached through few connections.
#[derive(Debug, Clone)]
pub struct Store {
    db: Db,
    compression: CompressionConfig,
    lanes: usize,
    /// Shared by all clones: they schedule for the same platforms.
    skews: Arc<Skews>,
}

impl Store {
    /// A store on a database whose sessions find Warmproof's schema.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self {
            db,
            compression: CompressionConfig::default(),
            lanes: COALESCE_LANES_DEFAULT as usize,
            skews: Arc::default(),
        }
    }

    /// The same store with another way of storing messages.
    #[must_use]
    pub fn with_compression(self, compression: CompressionConfig) -> Self {
        Self { compression, ..self }
    }

    /// The same store with this many statements of coalesced calls under way at a time.
    #[must_use]
    pub fn with_lanes(self, lanes: u32) -> Self {
        Self { lanes: lanes as usize, ..self }
    }

    /// The database, for a caller's own statements: [`Db::on`] is their executor.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// For one durable statement with a short wait for rows that others hold: the defaults of a session.
    fn durable(&self) -> On<'_> {
        self.db.on(Terms::DURABLE)
    }

    /// For one statement that waits for held rows as long as it may run.
    fn patient(&self) -> On<'_> {
        self.db.on(Terms::PATIENT)
    }

    /// Closes all connections; a statement that has begun gets a moment to end.
    pub async fn close(&self) {
        self.db.close().await;
    }
}

/// As `i32`, for the columns that count; their values never come near its end.
fn count(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// Whole milliseconds, as the statements take durations.
fn millis(duration: std::time::Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

/// Splits the positions of a batch into waves, each run at most once in a wave, in the order of the batch.
///
/// One statement may write a run only once: `on conflict` refuses a second time, and
/// a caller's calls for one run must keep their order.
fn waves<'a>(run_ids: impl Iterator<Item = &'a str>) -> Vec<Vec<usize>> {
    let mut seen = std::collections::HashMap::new();
    let mut waves: Vec<Vec<usize>> = Vec::new();
    for (position, run_id) in run_ids.enumerate() {
        let wave: &mut usize = seen.entry(run_id).and_modify(|wave| *wave += 1).or_insert(0);
        if waves.len() <= *wave {
            waves.push(Vec::new());
        }
        waves[*wave].push(position);
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::waves;

    #[test]
    fn a_run_is_once_in_each_wave_and_keeps_its_order() {
        let runs = ["a", "b", "a", "c", "a", "b"];
        assert_eq!(waves(runs.into_iter()), vec![vec![0, 1, 3], vec![2, 5], vec![4]]);
        assert!(waves(std::iter::empty()).is_empty());
    }
}
