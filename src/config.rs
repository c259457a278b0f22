//! Settings, read from the environment once, checked all at once.
//!
//! One struct per concern; one aggregate per process that reads what it needs.
//! Nothing else in the program reads the environment. A start with faults reports
//! every one of them, each with its variable and a next step, and never repeats
//! a secret. While verification is off, nothing but its switch is read.
//!
//! Names and parsing rules of variables that upstream's supervisor reads too are
//! upstream's (contract §6); ours begin with `WARMPROOF_`. `docs/configuration.md`
//! lists them all.

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
pub mod postgres;
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
use platform::PlatformConfig;
use pools::PoolConfig;
use reader::Reader;
use url::Url;
use verify::{Switch, VerifyConfig};
use worker::WorkerConfig;
use workload::WorkloadConfig;

/// What a supervisor needs to schedule and cancel.
#[derive(Debug, Clone)]
pub struct SchedulerSettings {
    /// How a hit is verified.
    pub verify: VerifyConfig,
    /// Where promises are kept.
    pub database: DatabaseConfig,
}

/// What a command needs that only looks after the database.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// Where promises are kept.
    pub database: DatabaseConfig,
}

impl DatabaseSettings {
    /// Reads it whether verification is on or not: a schema is brought up to date before it is used.
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
    /// How a hit is verified, unless a request says otherwise.
    pub verify: VerifyConfig,
    /// Where promises are kept.
    pub database: DatabaseConfig,
    /// The API itself.
    pub api: ApiConfig,
    /// The page beside it; `None`: it is switched off.
    pub admin: Option<AdminConfig>,
    /// What is recorded of it.
    pub metrics: MetricsConfig,
}

/// What a worker's process needs.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// How a hit is verified.
    pub verify: VerifyConfig,
    /// Where promises are kept.
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

/// What a supervising process needs: all that a supervisor has, and what a scheduling process has.
#[derive(Debug, Clone)]
pub struct SuperviseSettings {
    /// Whom to dequeue from.
    pub platform: PlatformConfig,
    /// `TRIGGER_WARM_START_DISPATCH_URL`, else `TRIGGER_WARM_START_URL`: whom to offer runs to.
    pub broker: Url,
    /// How to start a run cold.
    pub workload: WorkloadConfig,
    /// Off, or where promises are kept.
    pub scheduler: Switch<SchedulerSettings>,
}

impl SuperviseSettings {
    /// Reads all concerns of a supervising process. A supervisor works with verification off, too.
    ///
    /// # Errors
    /// Every fault of every concern.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigErrors> {
        let scheduler = SchedulerSettings::from_environment(environment)?;
        reader::read_all(environment, |reader| {
            let platform = PlatformConfig::read(reader);
            let workload = WorkloadConfig::read(reader);
            let broker = verify::read_broker(reader);
            Some(Self { platform: platform?, workload: workload?, broker: broker?, scheduler })
        })
    }
}

/// Reads the switch first; the rest is read only behind it.
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
