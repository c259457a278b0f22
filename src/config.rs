//! Settings: read from the environment once, and checked together.
//!
//! There is one struct per concern, and one aggregate per process that reads what it needs.
//! Nothing else in the program reads the environment. A start with faults reports every
//! fault with its variable and a next step, and never repeats a secret. While verification
//! is off, only its switch is read.
//!
//! Variables that the platform's supervisor reads too have its names and its parsing rules
//! (platform.md §6); ours begin with `WARMPROOF_`. `docs/configuration.md` lists all.

pub mod admin;
pub mod api;
pub mod database;
pub mod docker;
pub mod environment;
pub mod error;
pub mod kubernetes;
pub mod metrics;
mod number;
pub mod platform;
pub mod pools;
pub mod reader;
pub mod runner;
pub mod token;
pub mod verify;
pub mod webhook;
pub mod worker;
pub mod workload;

use admin::AdminConfig;
use api::ApiConfig;
use database::DatabaseConfig;
use environment::Environment;
use error::ConfigErrors;
use metrics::{MetricsConfig, TracesConfig};
use pools::PoolConfig;
use reader::Reader;
use verify::{Switch, VerifyConfig};
use worker::WorkerConfig;

/// What a supervisor needs to schedule and cancel.
#[derive(Debug, Clone)]
pub struct SchedulerSettings {
    /// How a hit is verified.
    pub verify: VerifyConfig,
    /// The database that stores verifications.
    pub database: DatabaseConfig,
}

/// What a command needs that only uses the database.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// The database that stores verifications.
    pub database: DatabaseConfig,
}

impl DatabaseSettings {
    /// Reads it even if verification is off, because the schema is migrated before verification is switched
    /// on.
    ///
    /// # Errors
    /// Every fault.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigErrors> {
        reader::read_all(environment, |reader| Some(Self { database: DatabaseConfig::read(reader)? }))
    }
}

/// What the API's process needs.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// How a hit is verified by default; a request may set its own delay.
    pub verify: VerifyConfig,
    /// The database that stores verifications.
    pub database: DatabaseConfig,
    /// The API itself.
    pub api: ApiConfig,
    /// The admin page; `None` if it is switched off.
    pub admin: Option<AdminConfig>,
    /// What is recorded of it.
    pub metrics: MetricsConfig,
}

/// What a worker's process needs.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// How a hit is verified.
    pub verify: VerifyConfig,
    /// The database that stores verifications.
    pub database: DatabaseConfig,
    /// The worker itself.
    pub worker: WorkerConfig,
    /// The pools it serves; never empty.
    pub pools: Vec<PoolConfig>,
    /// What is recorded of it.
    pub metrics: MetricsConfig,
    /// Where its traces go, if anywhere.
    pub traces: Option<TracesConfig>,
}

impl SchedulerSettings {
    /// Reads all concerns of a scheduling process.
    ///
    /// # Errors
    /// Every fault of every concern.
    pub fn from_environment(environment: &Environment) -> Result<Switch<Self>, ConfigErrors> {
        read_switched(environment, |verify, reader| {
            Some(Self { verify, database: DatabaseConfig::read(reader)? })
        })
    }
}

impl ApiSettings {
    /// Reads all concerns of the API's process.
    ///
    /// # Errors
    /// Every fault of every concern.
    pub fn from_environment(environment: &Environment) -> Result<Switch<Self>, ConfigErrors> {
        read_switched(environment, |verify, reader| {
            let (database, api) = (DatabaseConfig::read(reader), ApiConfig::read(reader));
            let (admin, metrics) = (AdminConfig::read(reader), MetricsConfig::read(reader));
            Some(Self { verify, database: database?, api: api?, admin, metrics })
        })
    }
}

impl WorkerSettings {
    /// Reads all concerns of a worker's process.
    ///
    /// # Errors
    /// Every fault of every concern.
    pub fn from_environment(environment: &Environment) -> Result<Switch<Self>, ConfigErrors> {
        read_switched(environment, Self::read)
    }

    fn read(verify: VerifyConfig, reader: &mut Reader<'_>) -> Option<Self> {
        let database = DatabaseConfig::read(reader);
        let worker = WorkerConfig::read(reader);
        let pools = pools::read(reader);
        let (metrics, traces) = (MetricsConfig::read(reader), TracesConfig::read(reader));
        Some(Self { verify, database: database?, worker: worker?, pools: pools?, metrics, traces })
    }
}

/// Reads the switch first, and the rest only if it is on.
fn read_switched<T>(
    environment: &Environment,
    read: impl FnOnce(VerifyConfig, &mut Reader<'_>) -> Option<T>,
) -> Result<Switch<T>, ConfigErrors> {
    reader::read_all(environment, |reader| match VerifyConfig::read(reader) {
        Switch::Enabled(verify) => read(verify, reader).map(Switch::Enabled),
        Switch::Disabled { reason } => Some(Switch::Disabled { reason }),
    })
}

#[cfg(test)]
mod tests;
