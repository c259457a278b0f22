//! Which pools a request may name. The database is asked from time to time.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Api;
use super::problem::{FieldError, Problem};
use crate::domain::ids::PoolName;

/// How long the list is trusted. If a pool is missing in it, the database is asked at once.
const TRUSTED_FOR: Duration = Duration::from_secs(5);

/// The pools as they were read last.
#[derive(Debug, Default)]
pub(super) struct KnownPools(Mutex<Option<(Instant, HashSet<String>)>>);

impl KnownPools {
    fn know(&self, pools: &[&PoolName]) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().is_some_and(|(read_at, names)| {
            read_at.elapsed() < TRUSTED_FOR && pools.iter().all(|pool| names.contains(pool.as_str()))
        })
    }

    fn read(&self, names: Vec<String>) -> HashSet<String> {
        let names: HashSet<String> = names.into_iter().collect();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((Instant::now(), names.clone()));
        names
    }

    /// Makes the next request read the list again.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Refuses a batch that names a pool the database does not know, before anything is written.
pub(super) async fn check(
    api: &Api,
    pools: impl Iterator<Item = &PoolName>,
    is_array: bool,
) -> Result<(), Problem> {
    let asked: Vec<&PoolName> = pools.collect();
    if api.pools.know(&asked) {
        return Ok(());
    }
    let names = api.pools.read(api.store.pools().await.map_err(|error| Problem::database(&error))?);
    let errors: Vec<FieldError> = asked
        .iter()
        .enumerate()
        .filter(|(_, pool)| !names.contains(pool.as_str()))
        .map(|(index, _)| {
            let field = if is_array { format!("/{index}/pool") } else { "/pool".to_owned() };
            FieldError::new(
                field,
                "unknown pool; start a worker that serves it (WARMPROOF_POOLS) or leave it out",
            )
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(errors)) }
}
