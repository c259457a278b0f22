//! A claim: a verification, the fence that proves the right to write it, and its lease.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::Rng;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ids::{PoolName, RegionName, RunId, SnapshotId, SupervisorName, VerificationId};
use super::verification::Intent;

/// A fencing token: a value no other claim ever had.
///
/// Random, because claims commit asynchronously and a crash of the database
/// could issue the same number of a counter twice (design.md §3, claim).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence(i64);

impl Fence {
    /// A new fence from 63 random bits.
    pub fn fresh(rng: &mut impl Rng) -> Self {
        Self(rng.random_range(1..=i64::MAX))
    }

    /// The value the row carries.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fence({:x})", self.0)
    }
}

/// The row that a fenced write is about, and the fence that permits it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClaimKey {
    /// The run, the row's key.
    pub run_id: RunId,
    /// The verification; a superseding one has another.
    pub id: VerificationId,
    /// The right to write.
    pub fence: Fence,
}

/// A probe that an operator asked for before it was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum EarlyProbe {
    /// It reports what it sees and changes nothing: a runner that is not dead may not have started yet.
    Observe,
    /// It judges as if the verification were due. The outcome is outside all rates.
    Act,
}

impl EarlyProbe {
    /// The word in SQL, API and events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Act => "act",
        }
    }
}

/// One claimed verification, as the claim statement returned it.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Row and fence.
    pub key: ClaimKey,
    /// The dispatched snapshot.
    pub snapshot_id: SnapshotId,
    /// The pool, already one that this worker serves.
    pub pool: PoolName,
    /// For reports and events.
    pub supervisor: Option<SupervisorName>,
    /// For reports and events.
    pub region: Option<RegionName>,
    /// Why it was scheduled.
    pub intent: Intent,
    /// By the platform's clock.
    pub dequeued_at: DateTime<Utc>,
    /// The same, or when it was scheduled if the platform's clock is far off (`left_queue_at` of the schema).
    pub left_queue_at: DateTime<Utc>,
    /// From the dequeue to the platform's redrive, as this worker is configured.
    pub redrive: Duration,
    /// The promise, by the database's clock.
    pub due_at: DateTime<Utc>,
    /// When to probe, by the database's clock.
    pub probe_at: DateTime<Utc>,
    /// The database's clock when it claimed; everything else is measured from here.
    pub claimed_at: DateTime<Utc>,
    /// Claims so far, this one included.
    pub claim_count: u32,
    /// Failed probes since the last observation.
    pub probe_failures: u32,
    /// Creates requested so far.
    pub create_count: u32,
    /// Times that a create could not be prepared.
    pub prepare_failures: u32,
    /// What an operator asked of a probe before it was due, if one did.
    pub early: Option<EarlyProbe>,
    /// When a probe first saw the loss.
    pub lost_at: Option<DateTime<Utc>>,
    /// The name the next create asks for, if a failed one changed it.
    pub workload: Option<String>,
    /// The run's trace context.
    pub traceparent: Option<String>,
}

/// From a dequeue to the platform's redrive of a run that nothing has started (platform.md §3.3).
pub const REDRIVE_DEFAULT: Duration = Duration::from_mins(1);

/// From a dequeue to when an observation may already show the redriven dispatch: the redrive, less 5 s (design.md §3,
/// judge).
#[must_use]
pub const fn late_after(redrive: Duration) -> Duration {
    redrive.saturating_sub(Duration::from_secs(5))
}

impl Claim {
    /// From the claim to the moment to probe; zero when that has passed.
    #[must_use]
    pub fn probe_in(&self) -> Duration {
        (self.probe_at - self.claimed_at).to_std().unwrap_or_default()
    }

    /// Whether a probe at `now` (database clock) is to change nothing.
    #[must_use]
    pub fn only_observes(&self, now: DateTime<Utc>) -> bool {
        self.early == Some(EarlyProbe::Observe) && self.lost_at.is_none() && now < self.due_at
    }

    /// Whether an observation at `now` (database clock) may already show the redriven dispatch.
    #[must_use]
    pub fn is_late(&self, now: DateTime<Utc>) -> bool {
        now > self.dequeued_at + late_after(self.redrive)
    }

    /// Whether there is time to probe once more after `wait`, before the redrive comes.
    #[must_use]
    pub fn may_probe_again_at(&self, at: DateTime<Utc>) -> bool {
        at <= self.left_queue_at + late_after(self.redrive)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    fn claim(dequeued_at: i64, scheduled_at: i64) -> Claim {
        let at = |seconds| Utc.timestamp_opt(seconds, 0).single().expect("an instant");
        Claim {
            key: ClaimKey {
                run_id: RunId::parse("run_a").expect("a run id"),
                id: VerificationId::fresh(),
                fence: Fence::fresh(&mut rand::rng()),
            },
            snapshot_id: SnapshotId::parse("snapshot_a").expect("a snapshot id"),
            pool: PoolName::default_pool(),
            supervisor: None,
            region: None,
            intent: Intent::Hit,
            dequeued_at: at(dequeued_at),
            left_queue_at: at(dequeued_at),
            redrive: REDRIVE_DEFAULT,
            due_at: at(scheduled_at + 10),
            probe_at: at(scheduled_at + 10),
            claimed_at: at(scheduled_at + 9),
            claim_count: 1,
            probe_failures: 0,
            create_count: 0,
            prepare_failures: 0,
            early: None,
            lost_at: None,
            workload: None,
            traceparent: None,
        }
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        Utc.timestamp_opt(seconds, 0).single().expect("an instant")
    }

    #[test]
    fn an_observation_is_late_from_five_seconds_before_the_redrive() {
        let claim = claim(1000, 1001);
        assert!(!claim.is_late(at(1055)));
        assert!(claim.is_late(at(1056)));
        let slow = Claim { redrive: Duration::from_mins(5), ..claim };
        assert!(!slow.is_late(at(1295)));
        assert!(slow.is_late(at(1296)));
        assert!(slow.may_probe_again_at(at(1295)) && !slow.may_probe_again_at(at(1296)));
    }

    #[test]
    fn there_is_time_for_another_probe_until_five_seconds_before_the_redrive() {
        assert!(claim(1000, 1001).may_probe_again_at(at(1055)));
        assert!(!claim(1000, 1001).may_probe_again_at(at(1056)));
    }

    #[test]
    fn the_moment_to_probe_is_measured_from_the_claim() {
        assert_eq!(claim(1000, 1001).probe_in(), Duration::from_secs(1));
    }
}
