//! The worker: claims what falls due, probes, falls back, settles.
//!
//! It owns a few tasks and no state that must survive: every promise is in the
//! database, so a worker may die at any instant and another one takes over.
//!
//! ```text
//! claim_ahead ─ claims ─▶ verify (one task a claim: wait, probe, judge, fall back)
//!                           │ settlement                    renew: leases of all in flight
//!                           ▼                               tally: how many probes fail
//!                         settle (two lanes, batches)       upkeep: partitions, counts
//!                           └─▶ wide event                  beat: signs of life, backends checked
//!                                                           follow_up: did the fallback help
//! ```
//!
//! Losing a tick, a task or the whole process costs delay, never a verification.

mod beat;
mod claim_ahead;
mod db_clock;
mod event;
mod fallback;
mod follow_up;
mod in_flight;
mod limits;
mod listen;
mod observe;
mod permits;
mod probe;
mod release;
mod renew;
mod repeat;
mod served;
mod settle;
mod sickness;
mod tally;
mod upkeep;
mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::worker::WorkerConfig;
use crate::domain::backoff::Backoff;
use crate::domain::claim::ClaimKey;
use crate::domain::ids::PoolName;
use crate::domain::pool::PoolSettings;
use crate::store::lease::Release;
use crate::store::{self, Store, StoreError};
use crate::telemetry::event::Events;

use in_flight::{InFlight, InFlightRegister};
use limits::Limits;
pub use served::{Probe, ProbeSource, Served, SetUpError};
use tally::Tallies;

/// How long a stopping worker waits for a database that does not answer: once for a claim in flight
/// and once to give claims back. Both come on top of the grace period; leases do the rest.
pub const PARTING_MAX: Duration = Duration::from_secs(1);

/// A worker, ready to run.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
}

/// What all tasks of a worker share.
#[derive(Debug)]
struct Shared {
    config: WorkerConfig,
    store: Store,
    pools: BTreeMap<PoolName, Served>,
    events: Events,
    in_flight: Arc<InFlightRegister>,
    health: Arc<listen::Health>,
    tally: Tallies,
    /// What is done at a time for each pool.
    limits: BTreeMap<PoolName, Arc<Limits>>,
    stop: CancellationToken,
    /// The grace period is over: tasks that still run are dropped at once.
    halt: CancellationToken,
    settle: mpsc::Sender<settle::Ended>,
    /// Losses that ask for a permit; at most as many as are in flight.
    permits: mpsc::UnboundedSender<permits::Asked>,
    /// Ended claims whose rows another open transaction holds; at most as many as are in flight.
    held_up: mpsc::UnboundedSender<settle::Ended>,
}

impl Shared {
    /// How the pool of a claim is served. Claims come from these pools alone.
    fn served(&self, in_flight: &InFlight) -> &Served {
        &self.pools[&in_flight.claim.pool]
    }

    fn pool_names(&self) -> Vec<PoolName> {
        self.pools.keys().cloned().collect()
    }
}

/// What the tasks of a worker pass on to each other, at its receiving end.
#[derive(Debug)]
struct Queues {
    orders: mpsc::Receiver<settle::Ended>,
    held_up: mpsc::UnboundedReceiver<settle::Ended>,
    permits: mpsc::UnboundedReceiver<permits::Asked>,
}

/// What a worker leaves behind when it stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Claims given back because the grace period was over.
    pub released: usize,
}

impl Worker {
    /// A worker over a store, and how it serves each of its pools.
    ///
    /// Nothing happens before [`WorkerBuilder::run`].
    #[must_use]
    pub fn builder(config: WorkerConfig, store: Store, pools: BTreeMap<PoolName, Served>) -> WorkerBuilder {
        WorkerBuilder { store, pools, config, events: Events::Off, listener: None }
    }
}

/// Settings of a worker before it is built.
#[derive(Debug)]
pub struct WorkerBuilder {
    store: Store,
    pools: BTreeMap<PoolName, Served>,
    config: WorkerConfig,
    events: Events,
    listener: Option<TcpListener>,
}

impl WorkerBuilder {
    /// Where wide events go; nowhere by default.
    #[must_use]
    pub fn events(mut self, events: Events) -> Self {
        self.events = events;
        self
    }

    /// Where `/healthz`, `/readyz` and `/metrics` are served, without a token; nowhere by default.
    #[must_use]
    pub fn listener(mut self, listener: Option<TcpListener>) -> Self {
        self.listener = listener;
        self
    }

    /// Runs the worker until `stop` is cancelled, then drains it: no new claim, no new
    /// fallback. What is in flight may finish within the grace period; the rest is given back.
    ///
    /// # Errors
    /// The database refused at the start, for example because its schema is missing. The worker waits
    /// out any other trouble with the database or the platform.
    pub async fn run(mut self, stop: CancellationToken) -> Result<Drained, StoreError> {
        let (in_flight, health) = (Arc::<InFlightRegister>::default(), Arc::<listen::Health>::default());
        let of_one =
            |pool: &PoolName| (pool.clone(), Arc::new(Limits::of_one(&self.config, self.pools.len())));
        let limits: BTreeMap<PoolName, Arc<Limits>> = self.pools.keys().map(of_one).collect();
        let _listening = self.listener.take().map(|listener| {
            let watched = listen::Watched {
                store: self.store.clone(),
                health: Arc::clone(&health),
                in_flight: Arc::clone(&in_flight),
                limits: limits.clone(),
                lease: self.config.lease,
            };
            let done = CancellationToken::new();
            tokio::spawn(listen::serve(listener, watched, done.clone()));
            done.drop_guard()
        });
        self.register(&stop, &health).await?;
        if stop.is_cancelled() {
            return Ok(Drained { released: 0 });
        }
        let (settle, orders) = mpsc::channel(self.config.claims_in_flight_max as usize);
        let (held_up, held_up_orders) = mpsc::unbounded_channel();
        let (permits, permits_asked) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            in_flight,
            health,
            tally: Tallies::default(),
            limits,
            stop,
            halt: CancellationToken::new(),
            settle,
            permits,
            held_up,
            store: self.store,
            pools: self.pools,
            events: self.events,
            config: self.config,
        });
        Worker { shared }.run(Queues { orders, held_up: held_up_orders, permits: permits_asked }).await
    }
}

/// How long a starting worker waits before it tries an unreachable database again.
const START_BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(3) };

impl WorkerBuilder {
    /// Makes the pools known, waiting for a database that cannot be reached yet.
    async fn register(&self, stop: &CancellationToken, health: &listen::Health) -> Result<(), StoreError> {
        let mut failures = 0;
        let pools: Vec<(PoolName, PoolSettings)> =
            self.pools.iter().map(|(name, served)| (name.clone(), served.initial.clone())).collect();
        // Nothing here outlasts `stop`: a database that does not answer must not delay the exit.
        while let Some(registered) = stop.run_until_cancelled(self.register_once(&pools)).await {
            match registered {
                // Waiting would not help: the schema or a right is missing, or the address is wrong.
                Err(error) if !error.is_passing() => return Err(error),
                Err(error) => {
                    health.failed(&error);
                    failures += 1;
                    let wait = START_BACKOFF.delay(failures, rand::random());
                    tracing::warn!(%error, retry_in_ms = wait.as_millis(), "waiting for the database");
                    let _ = stop.run_until_cancelled(tokio::time::sleep(wait)).await;
                }
                Ok(()) => break,
            }
        }
        if let Some(Ok(false)) = stop.run_until_cancelled(self.store.commits_durably()).await {
            tracing::error!(
                "`synchronous_commit` is off for this role or database: what is promised may be lost in a crash"
            );
        }
        Ok(())
    }
}

impl WorkerBuilder {
    async fn register_once(&self, pools: &[(PoolName, PoolSettings)]) -> Result<(), StoreError> {
        self.store.ensure_pools(pools).await?;
        for (pool, served) in &self.pools {
            self.store.note_redrive(pool, served.redrive).await?;
        }
        Ok(())
    }
}

impl Worker {
    async fn run(self, queues: Queues) -> Result<Drained, StoreError> {
        let shared = self.shared;
        let Queues { orders, held_up, permits } = queues;
        tracing::info!(
            worker = %shared.config.name,
            pools = ?shared.pools.keys().map(PoolName::as_str).collect::<Vec<_>>(),
            "worker started"
        );
        // The lanes and the leases outlive `stop`: they serve what is still in flight.
        let aside = CancellationToken::new();
        let orders = Arc::new(Mutex::new(orders));
        let lane = |_| tokio::spawn(settle::lane(Arc::clone(&shared), Arc::clone(&orders), aside.clone()));
        let lanes: Vec<_> = (0..settle::LANES).map(lane).collect();
        let held_up = tokio::spawn(settle::held_up_lane(Arc::clone(&shared), held_up, aside.clone()));
        let permits = tokio::spawn(permits::keep(Arc::clone(&shared), permits, aside.clone()));
        let leases = tokio::spawn(renew::keep(Arc::clone(&shared), aside.clone()));
        let tally = tokio::spawn(tally::keep(Arc::clone(&shared), aside.clone()));
        let tables = store::upkeep::keep(
            shared.store.clone(),
            Some(shared.config.retention_days),
            shared.stop.clone(),
        );
        let (tables, upkeep) = (tokio::spawn(tables), tokio::spawn(upkeep::keep(Arc::clone(&shared))));
        let beat = tokio::spawn(beat::keep(Arc::clone(&shared), aside.clone()));
        let follow_ups = tokio::spawn(follow_up::keep(Arc::clone(&shared)));

        let verifications = TaskTracker::new();
        claim_ahead::run(&shared, &verifications, StdRng::from_os_rng()).await;

        verifications.close();
        let deadline = Instant::now() + shared.config.grace;
        let in_time = timeout_at(deadline, async {
            verifications.wait().await;
            shared.in_flight.emptied().await;
        })
        .await;
        if in_time.is_err() {
            tracing::warn!(
                in_flight = shared.in_flight.len(),
                "the grace period is over, giving back what is in flight"
            );
        }
        // The tasks have ended, so none acts on a claim after it is given back.
        shared.in_flight.forsake();
        let keys = shared.in_flight.keys();
        shared.halt.cancel();
        let released = give_back(&shared, keys).await;
        aside.cancel();
        for task in lanes.into_iter().chain([held_up, permits, leases, tally, tables, upkeep, follow_ups]) {
            task.abort();
        }
        // It signs off, within a limit, like every step at the end.
        let _ = timeout(PARTING_MAX, beat).await;
        tracing::info!(worker = %shared.config.name, released, "worker stopped");
        Ok(Drained { released })
    }
}

/// Releases everything still in flight at once; the lease of what cannot be released runs out.
async fn give_back(shared: &Shared, keys: Vec<ClaimKey>) -> usize {
    let left: Vec<Release> = keys.into_iter().map(Release::untouched).collect();
    if left.is_empty() {
        return 0;
    }
    match timeout(PARTING_MAX, shared.store.release(&left)).await {
        Ok(Ok(released)) => released,
        Ok(Err(error)) => {
            tracing::warn!(%error, "claims are left to their leases");
            0
        }
        Err(_elapsed) => {
            tracing::warn!("the database does not answer; claims are left to their leases");
            0
        }
    }
}
