//! The worker: how much it takes in flight, how long it holds it, how often it tries.

use std::time::Duration;

use uuid::Uuid;

use crate::domain::backoff::Backoff;
use crate::domain::ids::{NAME_BYTES_MAX, WorkerName};

use super::platform;
use super::reader::Reader;

/// Room that a default worker name keeps for process id and random part, in bytes.
const NAME_SUFFIX_BYTES: usize = 32;

/// Requests for one cold start, where the platform's redrive should have come and the run still waits.
pub const CREATE_ATTEMPTS_LATE: u32 = 3;

/// One worker process.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// `WARMPROOF_WORKER_NAME`: the worker's name in reports.
    ///
    /// Instance name, process id and a random part by default. Two workers of one name are safe, but
    /// reports cannot tell their claims apart.
    pub name: WorkerName,
    /// `WARMPROOF_PROBE_CONCURRENCY`: probes of a pool at a time, 10 by default, 1 to 1000.
    ///
    /// Too low and a burst is probed late; too high and the platform gets the whole burst at once.
    pub probe_concurrency: u32,
    /// `WARMPROOF_FALLBACK_CONCURRENCY`: cold starts of a pool at a time, 10 by default, 1 to 1000.
    ///
    /// Counted apart from probes, as one may take minutes. Too low and losses queue up; too high and an
    /// outage of warm starts floods the backend.
    pub fallback_concurrency: u32,
    /// `WARMPROOF_CLAIMS_IN_FLIGHT_MAX`: claims held at a time, 2000 by default, 1 to 10000.
    ///
    /// Half of them may be cold starts, which can take minutes; the other half is kept for probes.
    /// Too low and the worker idles between claims; too high and one worker holds claims that others could
    /// do.
    pub claims_in_flight_max: u32,
    /// `WARMPROOF_LEASE_MS`: how long a claim holds without renewal, 5 s by default, 2 s to 60 s.
    ///
    /// Too low and a short stall loses claims; too high and the claims of a killed worker wait that long.
    pub lease: Duration,
    /// `WARMPROOF_CLAIM_AHEAD_MS`: how early a verification is claimed, 600 ms by default, 50 ms to 5 s.
    ///
    /// Too low and it is probed late; too high and a cancel in that time comes too late to save a probe.
    pub claim_ahead: Duration,
    /// `WARMPROOF_TICK_MS`: pause between claims, 250 ms by default, 10 ms to 5 s.
    ///
    /// Too low and idle workers load the database; at or above `claim_ahead` probes come late.
    pub tick: Duration,
    /// `WARMPROOF_PROBE_ATTEMPTS`: failed probes before `probe_error`, 1 to 100; the platform's own verifier
    /// makes 1. By default as many as there is time for before the redrive.
    ///
    /// Too low and a fault of seconds ends the verification.
    pub probe_attempts: Option<u32>,
    /// `WARMPROOF_PROBE_BACKOFF_BASE_MS`: wait after the first failed probe, 1 s by default.
    ///
    /// Too low and a failing platform is probed again at once; too high and the redrive comes first.
    pub probe_backoff_base: Duration,
    /// `WARMPROOF_PROBE_BACKOFF_MAX_MS`: longest wait between probes, 8 s by default.
    ///
    /// Too low and the pauses between retries stay short; too high and the redrive comes first.
    pub probe_backoff_max: Duration,
    /// `WARMPROOF_CREATE_ATTEMPTS`: requests for one cold start, 1 to 100. By default as many as there is time
    /// for before the redrive, and [`CREATE_ATTEMPTS_LATE`] where that time is over.
    ///
    /// Too low and a short fault of the backend costs the run the wait for the redrive.
    pub create_attempts: Option<u32>,
    /// `WARMPROOF_CREATE_BACKOFF_BASE_MS`: wait after the first failed create, 1 s by default.
    ///
    /// Too low and the backend's fault is still there; too high and the redrive comes first.
    pub create_backoff_base: Duration,
    /// `WARMPROOF_CREATE_BACKOFF_MAX_MS`: longest wait between creates, 10 s by default.
    ///
    /// Too low and the pauses between retries stay short; too high and the redrive comes first.
    pub create_backoff_max: Duration,
    /// `WARMPROOF_HOLD_RETRY_MS`: how long a held loss waits for its next probe, 1 s by default, 100 ms to 60
    /// s.
    ///
    /// Too low and held losses fill the probe slots; too high and they start late once the hold ends.
    pub hold_retry: Duration,
    /// `WARMPROOF_EXPIRE_AFTER_SECONDS`: a verification overdue by this much ends without a probe; 15 min by
    /// default.
    ///
    /// Too low and a short outage drops verifications; too high and stale images are started after a long
    /// one.
    pub expire_after: Duration,
    /// `WARMPROOF_RETENTION_DAYS`: days for which outcomes are kept, 30 by default, 1 to 3650.
    ///
    /// Too low and the history of a run is deleted too soon; too high and the disk fills. Counts stay for
    /// ever.
    pub retention_days: u32,
    /// `WARMPROOF_SHUTDOWN_GRACE_MS`: how long a stopping worker may finish its claims, 10 s by default.
    ///
    /// Too low and work in flight moves to others; above the orchestrator's own grace the process is killed.
    pub grace: Duration,
    /// `TRIGGER_WIDE_EVENTS_ENABLED`: one line on stdout per settlement, **true** by default.
    ///
    /// The default of the platform's supervisor is false. Here it is true, because events that were not
    /// switched on before an incident cannot explain it.
    pub wide_events: bool,
    /// `TRIGGER_WORKER_INSTANCE_NAME`: the `node_id` of events; a random UUID per process when unset.
    pub node_id: String,
}

impl WorkerConfig {
    /// How long a claim holds without renewal, unless configured otherwise.
    pub const LEASE_DEFAULT: Duration = Duration::from_secs(5);

    /// Reads this concern; faults stay with the reader.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let node_id = platform::read_instance_name(reader);
        let name = read_name(reader, &node_id);
        let lease_default_ms = u64::try_from(Self::LEASE_DEFAULT.as_millis()).unwrap_or(u64::MAX);
        let config = Self {
            name: name?,
            probe_concurrency: reader.count("WARMPROOF_PROBE_CONCURRENCY", 10, 1..=1000),
            fallback_concurrency: reader.count("WARMPROOF_FALLBACK_CONCURRENCY", 10, 1..=1000),
            claims_in_flight_max: reader.count("WARMPROOF_CLAIMS_IN_FLIGHT_MAX", 2000, 1..=10_000),
            lease: reader.millis("WARMPROOF_LEASE_MS", lease_default_ms, 2000..=60_000),
            claim_ahead: reader.millis("WARMPROOF_CLAIM_AHEAD_MS", 600, 50..=5000),
            tick: reader.millis("WARMPROOF_TICK_MS", 250, 10..=5000),
            probe_attempts: reader.optional_count("WARMPROOF_PROBE_ATTEMPTS", 1..=100),
            probe_backoff_base: reader.millis("WARMPROOF_PROBE_BACKOFF_BASE_MS", 1000, 10..=60_000),
            probe_backoff_max: reader.millis("WARMPROOF_PROBE_BACKOFF_MAX_MS", 8000, 10..=60_000),
            create_attempts: reader.optional_count("WARMPROOF_CREATE_ATTEMPTS", 1..=100),
            create_backoff_base: reader.millis("WARMPROOF_CREATE_BACKOFF_BASE_MS", 1000, 10..=60_000),
            create_backoff_max: reader.millis("WARMPROOF_CREATE_BACKOFF_MAX_MS", 10_000, 10..=60_000),
            hold_retry: reader.millis("WARMPROOF_HOLD_RETRY_MS", 1000, 100..=60_000),
            expire_after: Duration::from_secs(reader.whole(
                "WARMPROOF_EXPIRE_AFTER_SECONDS",
                900,
                60..=86_400,
            )),
            retention_days: reader.count("WARMPROOF_RETENTION_DAYS", 30, 1..=3650),
            grace: reader.millis("WARMPROOF_SHUTDOWN_GRACE_MS", 10_000, 0..=300_000),
            wide_events: reader.flag("TRIGGER_WIDE_EVENTS_ENABLED", true),
            node_id,
        };
        config.check_together(reader);
        Some(config)
    }

    /// How many of the claims in flight may be cold starts. The rest is kept for probes, no matter how long
    /// cold starts take.
    pub fn fallbacks_in_flight_max(&self) -> usize {
        (self.claims_in_flight_max as usize / 2).max(1)
    }

    /// How much room in flight a full worker waits for before it claims again, while more is due than it can
    /// take. Each claim steps over all claimed rows, so many small claims would cost more than the probes.
    /// The value is less than what fallbacks leave free, and small enough that no probe waits for a claim.
    pub fn room_while_full(&self) -> usize {
        let spare = self.claims_in_flight_max.saturating_sub(self.probe_concurrency);
        (self.claims_in_flight_max / 4).min(spare).max(1) as usize
    }

    /// With this many probes of a pool due and waiting for a place, a worker claims no more of its rows: other workers may
    /// have free places. It is enough that no place is idle while the next claim runs.
    pub fn probes_waiting_max(&self) -> usize {
        4 * self.probe_concurrency as usize
    }

    /// Whether one more may be made after so many of `attempts`, the bound that an operator may have set.
    pub fn is_left(attempts: Option<u32>, made: u32) -> bool {
        attempts.is_none_or(|attempts| made < attempts)
    }

    /// The wait after a failed probe.
    pub fn probe_backoff(&self) -> Backoff {
        Backoff { base: self.probe_backoff_base, max: self.probe_backoff_max }
    }

    /// The wait after a failed create.
    pub fn create_backoff(&self) -> Backoff {
        Backoff { base: self.create_backoff_base, max: self.create_backoff_max }
    }

    /// Values that are each valid may still contradict each other.
    fn check_together(&self, reader: &mut Reader<'_>) {
        if self.tick >= self.claim_ahead {
            let problem =
                format!("must be shorter than `WARMPROOF_CLAIM_AHEAD_MS` ({})", ms(self.claim_ahead));
            reader.fault("WARMPROOF_TICK_MS", problem, "shorten the tick, or claim further ahead");
        }
        if self.claim_ahead >= self.lease {
            let problem = format!("must be shorter than `WARMPROOF_LEASE_MS` ({})", ms(self.lease));
            let hint = "a lease must last longer than the wait for the due time";
            reader.fault("WARMPROOF_CLAIM_AHEAD_MS", problem, hint);
        }
        if self.claims_in_flight_max < self.probe_concurrency {
            let problem =
                format!("must be at least `WARMPROOF_PROBE_CONCURRENCY` ({})", self.probe_concurrency);
            reader.fault(
                "WARMPROOF_CLAIMS_IN_FLIGHT_MAX",
                problem,
                "each probe needs a claim; allow more claims",
            );
        }
        if self.probe_backoff_base > self.probe_backoff_max {
            let problem = format!(
                "must be at least `WARMPROOF_PROBE_BACKOFF_BASE_MS` ({})",
                ms(self.probe_backoff_base)
            );
            reader.fault("WARMPROOF_PROBE_BACKOFF_MAX_MS", problem, "raise it, or lower the base");
        }
        if self.create_backoff_base > self.create_backoff_max {
            let problem = format!(
                "must be at least `WARMPROOF_CREATE_BACKOFF_BASE_MS` ({})",
                ms(self.create_backoff_base)
            );
            reader.fault("WARMPROOF_CREATE_BACKOFF_MAX_MS", problem, "raise it, or lower the base");
        }
    }
}

fn ms(duration: Duration) -> u128 {
    duration.as_millis()
}

fn read_name(reader: &mut Reader<'_>, node_id: &str) -> Option<WorkerName> {
    let variable = "WARMPROOF_WORKER_NAME";
    let name = reader.optional_text(variable).unwrap_or_else(|| default_name(node_id));
    match WorkerName::parse(name) {
        Ok(name) => Some(name),
        Err(error) => {
            reader.fault(variable, error.to_string(), "use a short printable name, or leave it out");
            None
        }
    }
}

/// A name no other process has: process ids repeat between containers, and a node may run several.
fn default_name(node_id: &str) -> String {
    // An instance name with odd characters is reported as a fault of its own variable, not of ours too.
    let printable = node_id.chars().filter(|c| matches!(c, ' '..='~'));
    let node: String = printable.take(NAME_BYTES_MAX - NAME_SUFFIX_BYTES).collect();
    let random = Uuid::new_v4().simple().to_string();
    format!("{node}-{}-{}", std::process::id(), &random[..6])
}
