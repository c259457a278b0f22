//! Served: a pool as a worker serves it, with what answers its probes and what makes its workloads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::config::pools::PoolConfig;
use crate::domain::ids::{PoolName, RunId};
use crate::domain::pool::PoolSettings;
use crate::domain::verdict::Observation;
use crate::platform;
use crate::workload::{BuildError, Workload};

/// A pool as a worker serves it.
#[derive(Debug, Clone)]
pub struct Served {
    /// What answers probes of its runs.
    pub probe: Probe,
    /// What makes its workloads.
    pub workload: Workload,
    /// From the dequeue of a run to the platform's redrive (platform.md §3.3).
    pub redrive: Duration,
    /// Its settings, in case the database does not know it yet.
    pub initial: PoolSettings,
}

/// What answers a worker's probes.
#[derive(Debug, Clone)]
pub enum Probe {
    /// The platform's worker API.
    Platform(platform::Client),
    /// A source that the embedding program brings.
    Custom(Arc<dyn ProbeSource>),
}

/// A source of latest snapshots in place of the platform's worker API.
pub trait ProbeSource: fmt::Debug + Send + Sync {
    /// The run's latest snapshot, or why it is not known.
    fn latest_snapshot<'a>(&'a self, run_id: &'a RunId) -> BoxFuture<'a, Observation>;
}

impl From<platform::Client> for Probe {
    fn from(client: platform::Client) -> Self {
        Self::Platform(client)
    }
}

impl Probe {
    pub(super) async fn latest_snapshot(&self, run_id: &RunId) -> Observation {
        match self {
            Self::Platform(client) => client.latest_snapshot(run_id).await,
            Self::Custom(source) => source.latest_snapshot(run_id).await,
        }
    }
}

/// Why a pool could not be set up; a configuration that `config` checked never causes it.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// The platform's client.
    #[error("could not set up the platform's client of pool `{pool}`: {source}")]
    Platform {
        /// Which pool.
        pool: PoolName,
        /// Why.
        source: platform::ClientError,
    },
    /// The backend.
    #[error("could not set up the backend of pool `{pool}`: {source}")]
    Backend {
        /// Which pool.
        pool: PoolName,
        /// Why.
        source: BuildError,
    },
}

impl Served {
    /// Sets up every configured pool; connects to nothing. Pools without their own settings share clients.
    ///
    /// # Errors
    /// [`SetUpError`], where the configuration was not read by `config`.
    pub fn set_up(pools: &[PoolConfig]) -> Result<BTreeMap<PoolName, Self>, SetUpError> {
        let mut served = BTreeMap::new();
        let mut shared: Option<Self> = None;
        for config in pools {
            let pool = || config.name.clone();
            let one = match &shared {
                Some(shared) if !config.own => Self { initial: config.initial.clone(), ..shared.clone() },
                Some(_) | None => Self {
                    probe: platform::Client::new(&config.platform)
                        .map_err(|source| SetUpError::Platform { pool: pool(), source })?
                        .into(),
                    workload: Workload::new(&config.workload)
                        .map_err(|source| SetUpError::Backend { pool: pool(), source })?,
                    redrive: config.platform.redrive,
                    initial: config.initial.clone(),
                },
            };
            if !config.own && shared.is_none() {
                shared = Some(one.clone());
            }
            served.insert(pool(), one);
        }
        Ok(served)
    }
}
