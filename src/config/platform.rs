//! How to reach the platform's worker API (contract §1.1).

use std::time::Duration;

use secrecy::SecretString;
use url::Url;

/// One platform and the credentials of one worker group.
#[derive(Debug, Clone)]
pub struct PlatformConfig {
    /// `TRIGGER_API_URL`: the platform's base, one trailing slash removed.
    pub api_url: Url,
    /// `TRIGGER_WORKER_TOKEN`, or the file that a `file://` value names.
    pub worker_token: SecretString,
    /// `MANAGED_WORKER_SECRET`.
    pub managed_secret: SecretString,
    /// `TRIGGER_WORKER_INSTANCE_NAME`; a random UUID per process when unset.
    pub instance_name: String,
    /// `WARMPROOF_PROBE_TIMEOUT_MS`: how long one probe may take, 2 s by default.
    /// Too high and a hanging platform holds probe slots; too low and slow answers become probe errors.
    pub probe_timeout: Duration,
}
