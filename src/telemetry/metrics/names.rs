//! Every metric there is. docs/metrics.md, the dashboard and the alerts are tested against this list.

/// What a metric does over time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values up to each of these upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The kind's word in the documentation.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// Its name, with its unit at the end.
    pub name: &'static str,
    /// What it does over time.
    pub kind: Kind,
    /// Its labels, each of a bounded set of values.
    pub labels: &'static [&'static str],
    /// What it measures.
    pub help: &'static str,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, labels, help }
}

/// From half a millisecond, what a timer is late by, to a minute, when the platform's own redrive has come.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0];
/// Up to the most claims that a worker may hold.
const ROWS: &[f64] = &[0.0, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 10_000.0];

use Kind::{Counter, Gauge, Histogram};

/// Lines that were dropped.
pub const LINES_DROPPED: Metric = metric(
    "warmproof_events_dropped_total",
    Counter,
    &["stream"],
    "Lines dropped because their reader stalled, by stream: events or logs.",
);

/// Upkeep that failed.
pub const UPKEEP_FAILURES: Metric = metric(
    "warmproof_upkeep_failures_total",
    Counter,
    &["part"],
    "Parts of a round of upkeep that failed; each round tries again.",
);
/// Schedule calls.
pub const SCHEDULES: Metric =
    metric("warmproof_schedules_total", Counter, &["pool", "result"], "Answers to schedule calls.");
/// Cancel calls.
pub const CANCELLATIONS: Metric =
    metric("warmproof_cancellations_total", Counter, &["reason", "result"], "Answers to cancel calls.");
/// What ended.
pub const OUTCOMES: Metric = metric(
    "warmproof_outcomes_total",
    Counter,
    &["pool", "outcome", "reason"],
    "Verifications that this worker settled; for a delivered one, the reason says what acted on the run.",
);
/// Results of fallbacks.
pub const FALLBACKS: Metric = metric(
    "warmproof_fallbacks_total",
    Counter,
    &["pool", "result"],
    "Settled verifications whose outcome is fallback, by the result of the fallback.",
);
/// Writes that came too late.
pub const STALE_SETTLES: Metric = metric(
    "warmproof_stale_settles_total",
    Counter,
    &["pool"],
    "Settles that were dropped because another claim has taken the verification since.",
);
/// How late probes were.
pub const DUE_LAG: Metric = metric(
    "warmproof_due_lag_seconds",
    Histogram(SECONDS),
    &["pool"],
    "From the planned time of a claim's first probe to its start.",
);
/// Probes.
pub const PROBE_DURATION: Metric = metric(
    "warmproof_probe_duration_seconds",
    Histogram(SECONDS),
    &["pool", "result"],
    "How long probes took; the result is answered or failed.",
);
/// Probes that learned nothing.
pub const PROBE_FAILURES: Metric = metric(
    "warmproof_probe_failures_total",
    Counter,
    &["pool", "reason"],
    "Probes that failed, by the kind of failure.",
);
/// Claim statements.
pub const CLAIM_DURATION: Metric = metric(
    "warmproof_claim_duration_seconds",
    Histogram(SECONDS),
    &[],
    "How long claim statements took, with the wait for a connection.",
);
/// Rows of a claim.
pub const CLAIM_BATCH: Metric = metric(
    "warmproof_claim_batch_rows",
    Histogram(ROWS),
    &[],
    "How many verifications a claim statement returned.",
);
/// Requests for cold starts.
pub const CREATE_DURATION: Metric = metric(
    "warmproof_create_duration_seconds",
    Histogram(SECONDS),
    &["pool", "result"],
    "How long requests for cold starts took, by their answer.",
);
/// Losses that were held.
pub const LOSSES_HELD: Metric = metric(
    "warmproof_losses_held_total",
    Counter,
    &["pool", "reason"],
    "How often a loss was held, by reason: paused, brown_out, cap or no_place (no room at its worker).",
);
/// Follow-ups.
pub const FOLLOW_UPS: Metric = metric(
    "warmproof_follow_ups_total",
    Counter,
    &["pool", "result"],
    "Follow-ups after created fallbacks, by their result.",
);
/// Connections of callers that were dropped.
pub const CONNECTIONS_DROPPED: Metric = metric(
    "warmproof_http_connections_dropped_total",
    Counter,
    &["reason"],
    "Connections of HTTP callers that were dropped: silent, stuck, too_many, or not_accepted for want of descriptors.",
);
/// Claims in flight.
pub const IN_FLIGHT: Metric =
    metric("warmproof_claims_in_flight", Gauge, &[], "Verifications that this worker holds now.");
/// The connection pool.
pub const DB_CONNECTIONS: Metric = metric(
    "warmproof_db_connections",
    Gauge,
    &["state"],
    "Connections of this process to the database; the state is used or idle.",
);
/// Its size.
pub const DB_CONNECTIONS_MAX: Metric = metric(
    "warmproof_db_connections_max",
    Gauge,
    &[],
    "The most connections that this process may open to the database.",
);
/// The readings below.
pub const READING_OK: Metric = metric(
    "warmproof_reading_ok",
    Gauge,
    &["reading"],
    "1 if the last reading of pools or conservation succeeded; if not, its gauges are NaN.",
);
/// All that is pending.
pub const PENDING: Metric =
    metric("warmproof_pending", Gauge, &["pool"], "Verifications that have not ended.");
/// Of which a worker holds.
pub const CLAIMED: Metric =
    metric("warmproof_pending_claimed", Gauge, &["pool"], "Pending verifications that a worker holds.");
/// Of which no worker claimed in time.
pub const OVERDUE: Metric = metric(
    "warmproof_pending_overdue",
    Gauge,
    &["pool"],
    "Pending verifications that no worker has claimed 2 s after their probe was due.",
);
/// The worst of them.
pub const OVERDUE_LONGEST: Metric = metric(
    "warmproof_pending_overdue_longest_seconds",
    Gauge,
    &["pool"],
    "How long the longest overdue verification has been overdue; 0 if none is.",
);
/// Of which are marked lost.
pub const LOST: Metric = metric(
    "warmproof_pending_lost",
    Gauge,
    &["pool"],
    "Pending verifications that are marked lost and neither claimed nor held nor overdue.",
);
/// Of which are held.
pub const HELD: Metric = metric(
    "warmproof_pending_held",
    Gauge,
    &["pool"],
    "Pending verifications whose cold start is deferred: paused, brown-out, cap or no room.",
);
/// Follow-ups that wait.
pub const FOLLOW_UPS_WAITING: Metric = metric(
    "warmproof_follow_ups_waiting",
    Gauge,
    &["pool"],
    "Follow-ups that are due and were not probed yet. After two minutes one is recorded as unknown.",
);
/// Workers of a pool.
pub const WORKERS: Metric =
    metric("warmproof_workers_running", Gauge, &["pool"], "Running workers that serve the pool.");
/// Whether a pool is paused.
pub const PAUSED: Metric = metric("warmproof_pool_paused", Gauge, &["pool"], "1 while the pool is paused.");
/// Whether a pool is in a brown-out.
pub const BROWN_OUT: Metric = metric(
    "warmproof_brown_out",
    Gauge,
    &["pool"],
    "1 while losses of the pool are held because too many probes fail or have just failed.",
);
/// Whether a worker is sick.
pub const WORKER_SICK: Metric = metric(
    "warmproof_worker_sick",
    Gauge,
    &["pool"],
    "1 while this worker claims nothing of the pool: its own probes fail while those of other workers succeed.",
);
/// Verifications that are unaccounted for.
pub const UNACCOUNTED: Metric = metric(
    "warmproof_unaccounted",
    Gauge,
    &[],
    "Scheduled less pending less ended, in one snapshot; must be 0.",
);

/// All of them, in the order of the documentation.
pub const ALL: [Metric; 33] = [
    SCHEDULES,
    CANCELLATIONS,
    OUTCOMES,
    FALLBACKS,
    STALE_SETTLES,
    LINES_DROPPED,
    UPKEEP_FAILURES,
    DUE_LAG,
    PROBE_DURATION,
    PROBE_FAILURES,
    CLAIM_DURATION,
    CLAIM_BATCH,
    CREATE_DURATION,
    LOSSES_HELD,
    FOLLOW_UPS,
    CONNECTIONS_DROPPED,
    IN_FLIGHT,
    DB_CONNECTIONS,
    DB_CONNECTIONS_MAX,
    WORKER_SICK,
    READING_OK,
    PENDING,
    CLAIMED,
    OVERDUE,
    OVERDUE_LONGEST,
    LOST,
    HELD,
    FOLLOW_UPS_WAITING,
    WORKERS,
    PAUSED,
    BROWN_OUT,
    UNACCOUNTED,
    BUILD_INFO,
];

/// Which version runs.
pub const BUILD_INFO: Metric =
    metric("warmproof_build_info", Gauge, &["version"], "Always 1; the label is the version.");
