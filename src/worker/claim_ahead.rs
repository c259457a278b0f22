//! Claim ahead: takes what falls due soon, so that each probe starts at its exact instant.
//!
//! One loop claims every tick, and again at once while claims come back full and there is
//! room. While due probes of a pool have to wait, it leaves that pool's further rows to other workers. A low
//! watermark per pool keeps the scan short when a long transaction pins dead rows. A
//! rare sweep scans below it, and so finds expired leases and rows that were committed late.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::db_clock::{DbClock, Readings};
use super::limits::Limits;
use super::{PARTING_MAX, Shared, verify};
use crate::domain::backoff::Backoff;
use crate::domain::claim::{Claim, Fence};
use crate::domain::ids::PoolName;
use crate::store::StoreError;
use crate::store::claim::{ClaimTerms, Wanted};
use crate::telemetry::metrics;

/// How far the watermark stays behind: a claim still sees rows that commit this late.
const WATERMARK_MARGIN: TimeDelta = TimeDelta::milliseconds(500);
/// Longest pause when nothing is due. A longer one saves little and claims rows at the last moment.
const REST_MAX: Duration = Duration::from_millis(600);
/// How often a sick worker checks whether it is time to try again.
const SICK_PAUSE: Duration = Duration::from_millis(500);
/// How long to wait before asking a failing database again.
const DATABASE_BACKOFF: Backoff = Backoff { base: Duration::from_millis(200), max: Duration::from_secs(5) };

/// Claims until the worker stops, and starts a task for each claim.
pub(super) async fn run(shared: &Arc<Shared>, verifications: &TaskTracker, mut rng: StdRng) {
    let mut ahead = ClaimAhead::new(shared, Instant::now());
    while !shared.stop.is_cancelled() {
        let answer = tokio::select! {
            biased;
            answer = ahead.claim(shared, verifications, &mut rng) => answer,
            // Rows that such a claim has taken are left to their lease.
            () = parted(shared) => return,
        };
        let wait = match answer {
            Ok(Pace::Again) => Duration::ZERO,
            Ok(Pace::Tick) => scattered(shared.config.tick, &mut rng),
            Ok(Pace::Idle) => jittered(idle_tick(shared), &mut rng),
            Ok(Pace::Full) => {
                let is_sick = shared.limits.values().any(|limits| limits.sickness.is_sick());
                tokio::select! {
                    () = shared.in_flight.freed() => {}
                    // With nothing in flight, nothing is freed; a sick worker tries again when its time comes.
                    () = tokio::time::sleep(SICK_PAUSE), if is_sick => {}
                    () = shared.stop.cancelled() => {}
                }
                Duration::ZERO
            }
            Err(error) => {
                shared.health.failed(&error);
                ahead.failures = ahead.failures.saturating_add(1);
                let wait = DATABASE_BACKOFF.delay(ahead.failures, rng.random());
                tracing::warn!(%error, retry_in_ms = wait.as_millis(), "could not claim, backing off");
                wait
            }
        };
        if !wait.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shared.stop.cancelled() => {}
            }
        }
    }
}

/// Ends a while after the worker was asked to stop: a database that hangs must not use up its time.
async fn parted(shared: &Shared) {
    shared.stop.cancelled().await;
    tokio::time::sleep(PARTING_MAX).await;
}

/// What to do after a claim.
enum Pace {
    /// It came back full: more rows may be due.
    Again,
    /// All that is due soon is in flight.
    Tick,
    /// Nothing is due soon.
    Idle,
    /// The worker has no room for more claims, or cannot probe its claims fast enough.
    Full,
}

struct ClaimAhead {
    /// How many more claims must fit before a claim is worth its query.
    room_wanted: usize,
    watermarks: HashMap<PoolName, DateTime<Utc>>,
    clock: Readings,
    sweep_at: Instant,
    failures: u32,
}

impl ClaimAhead {
    fn new(shared: &Shared, now: Instant) -> Self {
        // No watermark yet: the first claim of each pool scans everything, as a sweep does.
        Self {
            room_wanted: 1,
            watermarks: HashMap::new(),
            clock: Readings::default(),
            sweep_at: now + sweep_interval(shared),
            failures: 0,
        }
    }

    async fn claim(
        &mut self,
        shared: &Arc<Shared>,
        verifications: &TaskTracker,
        rng: &mut StdRng,
    ) -> Result<Pace, StoreError> {
        let room = (shared.config.claims_in_flight_max as usize).saturating_sub(shared.in_flight.len());
        let full = room < self.room_wanted || self.open_pools(shared).is_empty();
        shared.health.at_capacity(full);
        if full {
            return Ok(Pace::Full);
        }
        let clock = self.clock.read(&shared.store).await?;
        let sweeping = Instant::now() >= self.sweep_at;
        let wanted = self.wanted(shared, sweeping, room);
        // A worker that falls sick while the claim is under way gives back what that brings.
        let sick =
            wanted.iter().map(|asked| &asked.pool).filter(|pool| shared.limits[*pool].sickness.tries());
        let trying: BTreeSet<PoolName> = sick.cloned().collect();

        let asked = Instant::now();
        let terms = ClaimTerms {
            fence: Fence::fresh(rng),
            worker: &shared.config.name,
            lease: shared.config.lease,
            horizon: shared.config.claim_ahead,
        };
        let claims = shared.store.claim(&wanted, terms).await?;
        metrics::claimed(asked.elapsed(), claims.len());
        shared.health.claimed();
        self.failures = 0;
        let nothing = claims.is_empty();
        let full = self.move_watermarks(&wanted, &claims, clock.at(asked));
        self.room_wanted = if full { shared.config.room_while_full() } else { 1 };
        // The clock is read for each row as it is claimed, so the last reading is the most recent.
        let read = claims.iter().map(|claim| claim.claimed_at).max();
        let clock =
            read.map_or(clock, |read| self.clock.also(DbClock::new(read, Instant::now()), asked.elapsed()));
        for in_flight in
            shared.in_flight.take(claims, &shared.limits, &trying, asked, shared.config.lease, clock)
        {
            verifications.spawn(verify::run(Arc::clone(shared), in_flight, rng.random()));
        }
        if sweeping && !full {
            self.sweep_at = Instant::now() + jittered(sweep_interval(shared), rng);
        }
        Ok(match (full, nothing) {
            (true, _) => Pace::Again,
            (false, true) => Pace::Idle,
            (false, false) => Pace::Tick,
        })
    }

    /// The pools of which more rows may be claimed, each with how many.
    fn open_pools<'s>(&self, shared: &'s Shared) -> Vec<(&'s PoolName, usize)> {
        let open =
            |(pool, limits): (&'s PoolName, &Arc<Limits>)| Some((pool, limits.room(self.room_wanted)?));
        shared.limits.iter().filter_map(open).collect()
    }

    /// A claim asks for rows above each watermark; a sweep also asks for rows below it. A pool without room of its own
    /// is left out.
    fn wanted(&self, shared: &Shared, sweeping: bool, room: usize) -> Vec<Wanted> {
        let pools = self.open_pools(shared);
        let parts = if sweeping { 2 } else { 1 };
        let share = room.div_ceil(pools.len().max(1));
        let mut wanted = Vec::new();
        for (pool, own) in pools {
            let quota = u32::try_from(share.min(own).div_ceil(parts)).unwrap_or(u32::MAX);
            let watermark = self.watermarks.get(pool).copied();
            let redrive = shared.pools[pool].redrive;
            if let (true, Some(watermark)) = (sweeping, watermark) {
                wanted.push(Wanted { pool: pool.clone(), low: None, high: Some(watermark), quota, redrive });
            }
            wanted.push(Wanted { pool: pool.clone(), low: watermark, high: None, quota, redrive });
        }
        wanted
    }

    /// Raises the watermarks and answers whether a range came back full.
    fn move_watermarks(&mut self, wanted: &[Wanted], claims: &[Claim], now: DateTime<Utc>) -> bool {
        let mut any_full = false;
        for asked in wanted {
            let of_range = claims.iter().filter(|claim| asked.covers(claim));
            let full = of_range.clone().count() >= asked.quota as usize;
            any_full |= full;
            if asked.high.is_some() {
                continue;
            }
            let reached = if full { of_range.map(|claim| claim.probe_at).min() } else { Some(now) };
            if let Some(reached) = reached {
                let mark = self.watermarks.entry(asked.pool.clone()).or_insert(DateTime::<Utc>::MIN_UTC);
                // Never ahead of the clock: where that stepped back, rows come due below an older mark.
                *mark = (*mark).max(reached.min(now) - WATERMARK_MARGIN).min(now - WATERMARK_MARGIN);
            }
        }
        any_full
    }
}

/// How long to wait when nothing was due: the next claim comes before a later row falls due.
fn idle_tick(shared: &Shared) -> Duration {
    shared.config.tick.max((shared.config.claim_ahead * 7 / 8).min(REST_MAX))
}

fn sweep_interval(shared: &Shared) -> Duration {
    shared.config.lease / 3
}

/// Up to a tenth less, so that workers started together drift apart.
fn jittered(interval: Duration, rng: &mut StdRng) -> Duration {
    interval.mul_f64(rng.random_range(0.9..=1.0))
}

/// Up to half less, at random. Each claim takes everything that came due since any worker's last claim.
/// Workers that always claim in the same order would keep unequal shares: with four of them, one gets about
/// half of all.
fn scattered(interval: Duration, rng: &mut StdRng) -> Duration {
    interval.mul_f64(rng.random_range(0.5..=1.0))
}
