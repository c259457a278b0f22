//! What a supervising process needs: the settings of a supervisor and of a scheduling process.

use url::Url;
use warmproof::config::environment::Environment;
use warmproof::config::error::ConfigErrors;
use warmproof::config::platform::PlatformConfig;
use warmproof::config::verify::{self, Switch};
use warmproof::config::workload::WorkloadConfig;
use warmproof::config::{SchedulerSettings, reader};

/// The settings of a supervising process.
#[derive(Debug, Clone)]
pub struct SuperviseSettings {
    /// The platform to dequeue from.
    pub platform: PlatformConfig,
    /// `TRIGGER_WARM_START_DISPATCH_URL`, else `TRIGGER_WARM_START_URL`: the broker to offer runs to.
    pub broker: Url,
    /// How to start a run cold.
    pub workload: WorkloadConfig,
    /// Off, or the settings of a scheduling process.
    pub scheduler: Switch<SchedulerSettings>,
}

impl SuperviseSettings {
    /// Reads all concerns of a supervising process. A supervisor also works with verification off.
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
