//! Which pools a request may name. The database is asked from time to time.

use std::collections::HashSet;
use std::time::Duration;

use super::Api;
use super::problem::{FieldError, Problem};
use crate::domain::ids::PoolName;
use crate::store::SharedError;
use crate::store::shared_read::SharedRead;

/// How long the list is trusted. If a pool is missing in it, the database is asked at once.
const TRUSTED_FOR: Duration = Duration::from_secs(5);

/// The pools as they were read last.
pub(super) type KnownPools = SharedRead<HashSet<String>>;

/// Refuses a batch that names a pool the database does not know, before anything is written.
pub(super) async fn check(
    api: &Api,
    pools: impl Iterator<Item = &PoolName>,
    is_array: bool,
) -> Result<(), Problem> {
    let asked: Vec<&PoolName> = pools.collect();
    let is_known = |names: &HashSet<String>| asked.iter().all(|pool| names.contains(pool.as_str()));
    if api.pools.latest(TRUSTED_FOR).is_some_and(|names| is_known(&names)) {
        return Ok(());
    }
    let read = || {
        let store = api.store.clone();
        async move { Ok(store.pools().await?.into_iter().collect()) }
    };
    let database = |error: SharedError| Problem::database(&error);
    let mut names = api.pools.read(read).await.map_err(database)?;
    if !is_known(&names) {
        // That reading may have begun before the pool was registered.
        names = api.pools.read(read).await.map_err(database)?;
    }
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
