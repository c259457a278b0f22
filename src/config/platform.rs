//! How to reach the platform's worker API (platform.md §1.1).

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::environment::{self, Environment};
use super::error::ConfigErrors;
use super::reader::{self, Reader};
use crate::domain::claim::REDRIVE_DEFAULT;

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
    /// `TRIGGER_RUN_REDRIVE_MS`: from the dequeue of a run until the platform takes it back because nothing has
    /// started it, 60 s by default, 10 s to an hour: its `RUN_ENGINE_TIMEOUT_PENDING_EXECUTING` (platform.md §3.3).
    /// Too high and verifications are tried on while the platform acts; too low and they end with time left.
    pub redrive: Duration,
}

impl PlatformConfig {
    /// Reads this concern alone.
    ///
    /// # Errors
    /// Every fault of its variables.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigErrors> {
        reader::read_all(environment, Self::read)
    }

    /// Reads this concern; faults stay with the reader.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let api_url = reader
            .http_url("TRIGGER_API_URL", "set it to the platform's address, as the supervisor has it")
            .and_then(|text| Url::parse(text.strip_suffix('/').unwrap_or(&text)).ok());
        let worker_token = reader
            .secret("TRIGGER_WORKER_TOKEN", "set it to the worker group's token, or to `file://<path>`");
        check_header(reader, "TRIGGER_WORKER_TOKEN", worker_token.as_ref());
        let managed_secret =
            reader.secret("MANAGED_WORKER_SECRET", "set it to the platform's managed worker secret");
        check_header(reader, "MANAGED_WORKER_SECRET", managed_secret.as_ref());
        let instance_name = read_instance_name(reader);
        let redrive_ms = u64::try_from(REDRIVE_DEFAULT.as_millis()).unwrap_or(u64::MAX);
        let redrive = reader.millis("TRIGGER_RUN_REDRIVE_MS", redrive_ms, 10_000..=3_600_000);
        let probe_timeout = reader.millis("WARMPROOF_PROBE_TIMEOUT_MS", 2000, 100..=10_000);
        Some(Self {
            api_url: api_url?,
            worker_token: worker_token?,
            managed_secret: managed_secret?,
            instance_name,
            probe_timeout,
            redrive,
        })
    }
}

/// `TRIGGER_WORKER_INSTANCE_NAME`, or this process's random name; several concerns carry it.
pub(super) fn read_instance_name(reader: &mut Reader<'_>) -> String {
    let variable = "TRIGGER_WORKER_INSTANCE_NAME";
    let name = reader.optional_text(variable);
    let name = name.unwrap_or_else(|| environment::instance_name_default().to_owned());
    // The name is sent in a header and passed to every runner.
    if name.bytes().any(|byte| !matches!(byte, b' '..=b'~')) {
        reader.fault(
            variable,
            "must hold printable ASCII only",
            "set it to the node's name, or leave it out",
        );
    }
    name
}

/// Checks at start that a secret fits into a header, so that the first request does not fail.
pub(super) fn check_header(reader: &mut Reader<'_>, variable: &'static str, secret: Option<&SecretString>) {
    let fits = |secret: &SecretString| secret.expose_secret().bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if !secret.is_none_or(fits) {
        let hint = "check it for a line break or a control character";
        reader.fault(variable, "holds characters other than printable ASCII", hint);
    }
}
