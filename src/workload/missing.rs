//! A backend that this build does not have: its cargo feature was switched off.

#![expect(clippy::unused_async, reason = "the backends that are there wait for answers")]

use crate::config::runner::RunnerEnvConfig;
#[cfg(not(feature = "docker"))]
use crate::domain::ids::SnapshotId;

use super::runner_env::Runner;
use super::{BackendError, CreateError, Created, Order};

/// Replaces a backend of another build. No value of it exists, so no method can be called.
#[derive(Debug, Clone)]
pub(super) enum Missing {}

impl Missing {
    pub(super) async fn create(
        &self,
        _order: &Order<'_>,
        _runner: &Runner<'_>,
        _env: &RunnerEnvConfig,
    ) -> Result<Created, CreateError> {
        match *self {}
    }

    pub(super) async fn check(&self) -> Result<(), BackendError> {
        match *self {}
    }
}

/// What only the Docker backend has.
#[cfg(not(feature = "docker"))]
impl Missing {
    pub(super) async fn prepare(&self, _order: &Order<'_>) -> Result<(), CreateError> {
        match *self {}
    }

    pub(super) async fn discard(&self, _name: &str, _id: &SnapshotId) -> Result<(), BackendError> {
        match *self {}
    }

    pub(super) async fn reap(&self) -> Result<usize, BackendError> {
        match *self {}
    }
}
