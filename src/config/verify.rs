//! Whether verification is on, and how long to wait before the probe.
//!
//! Off is the default and a complete no-op: no other variable is read or checked, so a
//! supervisor that shares its environment with us starts as before.

use std::fmt;
use std::time::Duration;

use url::Url;

use super::reader::Reader;
use crate::domain::pool::DELAY_MS;

/// Settings that exist only while verification is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Switch<T> {
    /// Verification is on.
    Enabled(T),
    /// Verification is off; nothing is done.
    Disabled {
        /// Why it is off, for one log line.
        reason: DisabledReason,
    },
}

/// Why verification is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisabledReason {
    /// `TRIGGER_WARM_START_VERIFY_ENABLED` is not true.
    NotEnabled,
    /// It is enabled, but without `TRIGGER_WARM_START_URL` there are no warm starts to verify.
    NoWarmStartUrl,
}

/// How a hit is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyConfig {
    /// `TRIGGER_WARM_START_VERIFY_DELAY_MS`: from hit to probe, 10 s by default, 1 s to 60 s.
    ///
    /// Too low and the probe comes before a healthy runner could start; too high and the platform's own
    /// redrive, 60 s after the dequeue, comes first.
    pub delay: Duration,
}

impl VerifyConfig {
    /// Reads the switch and, only if it is on, the delay.
    pub fn read(reader: &mut Reader<'_>) -> Switch<Self> {
        if !reader.flag("TRIGGER_WARM_START_VERIFY_ENABLED", false) {
            return Switch::Disabled { reason: DisabledReason::NotEnabled };
        }
        if reader.optional_text("TRIGGER_WARM_START_URL").is_none() {
            return Switch::Disabled { reason: DisabledReason::NoWarmStartUrl };
        }
        let delay = reader.millis(
            "TRIGGER_WARM_START_VERIFY_DELAY_MS",
            10_000,
            u64::from(*DELAY_MS.start())..=u64::from(*DELAY_MS.end()),
        );
        Switch::Enabled(Self { delay })
    }
}

/// The broker that a supervisor offers runs to: the dispatch address, else the address that runners poll
/// (platform.md §4.1).
pub fn read_broker(reader: &mut Reader<'_>) -> Option<Url> {
    let dispatch = reader.optional_http_url("TRIGGER_WARM_START_DISPATCH_URL");
    let polled = reader.optional_http_url("TRIGGER_WARM_START_URL");
    let broker = dispatch.or(polled).and_then(|broker| broker.parse().ok());
    if broker.is_none() {
        reader.fault("TRIGGER_WARM_START_URL", "is not set", "set it to the warm-start broker's address");
    }
    broker
}

impl fmt::Display for DisabledReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotEnabled => "`TRIGGER_WARM_START_VERIFY_ENABLED` is not `true`",
            Self::NoWarmStartUrl => "`TRIGGER_WARM_START_URL` is not set",
        })
    }
}
