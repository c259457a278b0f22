//! What an operator decides about a pool.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bounds of a delay from schedule to `due_at`, in milliseconds (platform.md §6).
pub const DELAY_MS: RangeInclusive<u32> = 1000..=60_000;
/// Bounds of a cap: fallbacks in one window.
pub const CAP: RangeInclusive<u32> = 0..=1_000_000;
/// Bounds of a cap's window, in milliseconds.
pub const CAP_WINDOW_MS: RangeInclusive<u32> = 100..=3_600_000;
/// Bounds of the time for which losses are held after a brown-out, in milliseconds.
pub const COOL_DOWN_MS: RangeInclusive<u32> = 0..=600_000;
/// Bounds of the time from a created fallback to its follow-up, in milliseconds.
pub const FOLLOW_UP_AFTER_MS: RangeInclusive<u32> = 1000..=600_000;

/// What a connect of a runner means in a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum OnConnect {
    /// The runner is alive: the verification is cancelled.
    #[default]
    Confirm,
    /// The connect is noted and the probe happens all the same: the runner may die before its start.
    KeepWatching,
}

impl OnConnect {
    /// The word in SQL, API and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Confirm => "confirm",
            Self::KeepWatching => "keep_watching",
        }
    }
}

/// A pool's settings, as the database keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolSettings {
    /// No row of the pool is claimed while true.
    pub paused: bool,
    /// Losses are recorded and nothing is created while true.
    pub shadow: bool,
    /// From schedule to probe when a call brings none, 1000 to 60000 ms; `None`: the caller's default.
    pub delay_ms: Option<u32>,
    /// Most fallbacks permitted in one window over all workers; `None`: no cap; 0: none.
    pub cap: Option<u32>,
    /// The window of the cap, 100 ms to an hour.
    pub cap_window_ms: u32,
    /// What a connect means.
    pub on_connect: OnConnect,
    /// How long losses are held after a brown-out, 0 to 600000 ms.
    pub cool_down_ms: u32,
    /// From a created fallback to its follow-up, 1000 to 600000 ms; `None`: none.
    pub follow_up_after_ms: Option<u32>,
}

impl Default for PoolSettings {
    /// The settings of a pool for which none were set.
    fn default() -> Self {
        Self {
            paused: false,
            shadow: false,
            delay_ms: None,
            cap: None,
            cap_window_ms: 1000,
            on_connect: OnConnect::Confirm,
            cool_down_ms: 30_000,
            follow_up_after_ms: Some(30_000),
        }
    }
}
