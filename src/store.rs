//! All SQL lives below here: one file per verb of a verification's life.
//!
//! The store owns the statements and the connection pool, and nothing else: it
//! never decides what a sighting means and never waits for a network call of
//! another service. Each statement commits by itself, so no transaction is ever
//! open while anybody probes or creates. Every write to a claimed row matches
//! its fence; a write that matches nothing answers `Stale` and is no error.

pub mod audit;
pub mod caller;
pub mod cancel;
pub mod claim;
pub mod coalesce;
pub mod codec;
pub mod connect;
pub mod doctor;
pub mod error;
pub mod fleet;
pub mod gauges;
pub mod lease;
pub mod lookup;
pub mod loss;
pub mod lost;
pub mod migrate;
pub mod pending;
pub mod pool;
pub mod report;
pub mod schedule;
pub mod second_look;
pub mod session;
pub mod settle;
pub mod tally;
pub mod token;
pub mod upkeep;

use sqlx::PgPool;

use crate::config::database::{COALESCE_LANES_DEFAULT, CompressionConfig};

pub use error::StoreError;

/// The database, reached through a small pool of connections.
#[derive(Debug, Clone)]
pub struct Store {
    db: PgPool,
    compression: CompressionConfig,
    lanes: usize,
}

/// How long a worker's statement waits for a row that somebody else holds, for `lock_timeout`. Ordinary
/// writers are through long before; whoever waits longer holds a connection that others need.
const ROW_WAIT: &str = "100ms";

/// How long a statement waits for a row that somebody else holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockWait {
    /// As long as the connection's own settings say.
    Usual,
    /// At most so long; then the statement fails and has written nothing.
    AtMost(std::time::Duration),
}

impl LockWait {
    /// For `lock_timeout`; `None` leaves it as it is.
    fn setting(self) -> Option<String> {
        match self {
            Self::Usual => None,
            Self::AtMost(wait) => Some(format!("{}ms", wait.as_millis())),
        }
    }
}

impl Store {
    /// A store on connections whose `search_path` is Warmproof's schema.
    #[must_use]
    pub fn new(db: PgPool) -> Self {
        Self { db, compression: CompressionConfig::default(), lanes: COALESCE_LANES_DEFAULT as usize }
    }

    /// The same store with another way of storing messages.
    #[must_use]
    pub fn with_compression(self, compression: CompressionConfig) -> Self {
        Self { compression, ..self }
    }

    /// The same store with so many statements of coalesced calls under way at a time.
    #[must_use]
    pub fn with_lanes(self, lanes: u32) -> Self {
        Self { lanes: lanes as usize, ..self }
    }

    /// The connection pool, for callers that bring transactions of their own.
    #[must_use]
    pub fn db(&self) -> &PgPool {
        &self.db
    }

    /// Closes all connections, waiting for those in use.
    pub async fn close(&self) {
        self.db.close().await;
    }
}

/// `i32` for the columns that count, which never come near its end.
fn count(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// Whole milliseconds, as the statements take durations.
fn millis(duration: std::time::Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

/// The positions of a batch in waves in which each run stands once, in the order of the batch.
///
/// One statement may touch a run only once: `on conflict` refuses a second time, and
/// the order of a caller's calls for one run must be kept.
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
    fn a_run_stands_once_in_each_wave_and_keeps_its_order() {
        let runs = ["a", "b", "a", "c", "a", "b"];
        assert_eq!(waves(runs.into_iter()), vec![vec![0, 1, 3], vec![2, 5], vec![4]]);
        assert!(waves(std::iter::empty()).is_empty());
    }
}
