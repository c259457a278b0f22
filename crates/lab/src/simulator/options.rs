//! The options of a simulation; tests can shorten every duration.

use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// How one simulated poller treats the message it is given (platform.md §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunnerKind {
    /// Announces itself, starts the attempt, completes it and polls again.
    Live,
    /// The same, after [`SimulatorOptions::slow_delay`].
    Slow,
    /// Its socket stays open, and no process ever reads from it.
    SilentlyDead,
    /// Aborts its poll just when the broker writes the answer, and polls again.
    AbortCrossing,
    /// Live, but the broker gives the message to the next poller too.
    Duplicating,
    /// Announces itself and dies before it starts the attempt.
    DiesConnected,
}

impl RunnerKind {
    /// The word in headers and control bodies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Slow => "slow",
            Self::SilentlyDead => "silently_dead",
            Self::AbortCrossing => "abort_crossing",
            Self::Duplicating => "duplicating",
            Self::DiesConnected => "dies_connected",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        serde_json::from_value(text.into()).ok()
    }

    /// Whether a message given to it is lost, so that no runner acts on it.
    pub(super) const fn loses(self) -> bool {
        match self {
            Self::SilentlyDead | Self::AbortCrossing | Self::DiesConnected => true,
            Self::Live | Self::Slow | Self::Duplicating => false,
        }
    }
}

/// What a runner does when its start is refused because another runner has the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Loser {
    /// Polls again at once.
    #[default]
    GivesUp,
    /// Repeats the call as the platform's own runners do: their supervisor's client takes the 409 for
    /// an outage and answers 500, so 30 calls follow in 70 to 80 s (platform.md §3.4).
    AsksOn,
}

/// The share of each kind among the pool's polls; the rest is live.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shares {
    /// See [`RunnerKind::Slow`].
    pub slow: f64,
    /// See [`RunnerKind::SilentlyDead`].
    pub silently_dead: f64,
    /// See [`RunnerKind::AbortCrossing`].
    pub abort_crossing: f64,
    /// See [`RunnerKind::Duplicating`].
    pub duplicating: f64,
    /// See [`RunnerKind::DiesConnected`].
    pub dies_connected: f64,
}

/// All settings of a simulation.
#[derive(Debug, Clone)]
pub struct SimulatorOptions {
    /// The only valid worker token; must begin with `tr_wgt_`.
    pub worker_token: SecretString,
    /// The secret that every worker must also send.
    pub managed_secret: SecretString,
    /// Bearer token of the compute gateway; when unset, creates need no token.
    pub gateway_token: Option<SecretString>,
    /// How long a dequeue blocks on an empty queue.
    pub dequeue_block: Duration,
    /// How long a dequeued run may wait for its start before it is requeued; zero never requeues.
    pub redrive: Duration,
    /// Scales the backoff between a redrive and the next dequeue (1 to 2 s, doubling).
    pub backoff_scale: f64,
    /// The number of the redrive that fails the run instead of requeueing it.
    pub delivery_limit: u32,
    /// How long a cancelled run waits for its runner before it is finished by force; zero waits forever.
    pub cancel_confirm: Duration,
    /// How many runs the simulator queues by itself.
    pub queued_runs: usize,
    /// How many of them per second; all at once if unset.
    pub runs_per_second: Option<f64>,
    /// How many simulated runners poll from the beginning.
    pub runners: usize,
    /// Whether cold runners poll for warm starts after their run.
    pub cold_runners_poll: bool,
    /// The kinds of the pool's polls.
    pub shares: Shares,
    /// How long a slow runner takes before it announces itself.
    pub slow_delay: Duration,
    /// How long a run executes.
    pub execute: Duration,
    /// How long a cold workload takes from its creation to its start call.
    pub boot: Duration,
    /// The broker's `connectionTimeoutMs`: runners abort and repeat a poll after it.
    pub connection_timeout: Duration,
    /// The broker's `keepaliveMs`: a runner without work leaves after it; zero keeps it.
    pub keepalive: Duration,
    /// How often a runner asks again when a start call gets no answer.
    pub start_retries: u32,
    /// Pause before the first repeat; doubles each time, up to ten times as long.
    pub start_retry_delay: Duration,
    /// What a runner does when its start is refused.
    pub loser: Loser,
    /// Seed of kinds, shares and backoff, but never of ids.
    pub seed: u64,
}

impl Default for SimulatorOptions {
    fn default() -> Self {
        Self {
            worker_token: SecretString::from("tr_wgt_simulator0simulator0simulator0simulator"),
            managed_secret: SecretString::from("managed-secret"),
            gateway_token: None,
            dequeue_block: Duration::from_secs(10),
            redrive: Duration::from_mins(1),
            backoff_scale: 1.0,
            delivery_limit: 12,
            cancel_confirm: Duration::from_mins(1),
            queued_runs: 0,
            runs_per_second: None,
            runners: 0,
            cold_runners_poll: true,
            shares: Shares::default(),
            slow_delay: Duration::from_secs(15),
            execute: Duration::from_millis(500),
            boot: Duration::from_secs(1),
            connection_timeout: Duration::from_secs(30),
            keepalive: Duration::ZERO,
            start_retries: 5,
            start_retry_delay: Duration::from_secs(1),
            loser: Loser::default(),
            seed: 0,
        }
    }
}
