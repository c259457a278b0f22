//! The simulated platform's own clock.
//!
//! A real platform stamps snapshots and messages by its own clock, so the simulator
//! has one too. Only this module reads the time of day.

use std::time::Instant;

use chrono::{DateTime, Utc};

/// Wall time for messages on the wire, and milliseconds since the beginning for the ledger.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    began: Instant,
    pub(super) started_at: DateTime<Utc>,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "simulates the platform, which has its own clock")]
    pub(super) fn start() -> Self {
        Self { began: Instant::now(), started_at: Utc::now() }
    }

    /// Changes of the machine's clock do not affect it, so that snapshots stay in order.
    pub(super) fn now(&self) -> DateTime<Utc> {
        self.started_at + self.began.elapsed()
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
