//! A faithful platform to test against: worker API, run engine, broker, runners, gateway, faults.
//!
//! All parts speak real HTTP, as the platform's parts do, but on one port. The
//! simulator shares only the wire types with the product, so it can check the
//! product: its [`Report`] holds what really happened to each run.

mod broker;
mod changes;
mod clock;
mod connection;
mod control;
mod core;
mod engine;
mod fault;
mod gateway;
mod ids;
mod instances;
mod ledger;
mod message;
mod options;
mod polls;
mod record;
mod run;
mod runner;
mod visits;
mod worker_api;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::broadcast;

pub use self::core::RunConnected;
pub use fault::{Faults, GatewayAnswer, GatewayEffect, GatewayFault, ProbeFault, Rule, StartFault, Switches};
pub use options::{Loser, RunnerKind, Shares, SimulatorOptions};
pub use record::{Counters, DispatchRecord, Report, RunRecord, StartKind};
pub use visits::{Visit, VisitState};

use self::core::Core;
use connection::{Connection, CuttableListener};
use runner::Character;

use warmproof::config::platform::PlatformConfig;
use warmproof::domain::ids::RunId;
use warmproof::platform::{self, ClientError, wire};

/// Why a simulation could not start.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// The worker token does not have the form that the platform accepts.
    #[error("the worker token must begin with `{}`", wire::WORKER_TOKEN_PREFIX)]
    WorkerToken,
    /// A share is not between 0 and 1, or the shares add up to more than 1.
    #[error("shares must lie between 0 and 1 and sum up to at most 1")]
    Shares,
    /// The rate of runs is not above 0.
    #[error("runs per second must be above 0")]
    RunsPerSecond,
    /// The listener has no address.
    #[error("could not read the listener's address: {0}")]
    Listener(#[from] std::io::Error),
    /// The runners' HTTP client could not be built.
    #[error("could not build the runners' client: {0}")]
    Client(#[from] ClientError),
}

/// A running simulation. Dropping it stops the simulation; [`Simulator::shutdown`] also waits for the end.
pub struct Simulator {
    core: Arc<Core>,
}

impl Simulator {
    /// Starts serving on the caller's listener, with the pool and the queued runs of the options.
    ///
    /// # Errors
    /// [`SimulatorError`] says which option is wrong.
    pub fn start(listener: TcpListener, options: SimulatorOptions) -> Result<Self, SimulatorError> {
        check(&options)?;
        let base_url = format!("http://{}", reachable(listener.local_addr()?));
        let client = platform::Client::new(&PlatformConfig {
            api_url: base_url.parse().map_err(std::io::Error::other)?,
            worker_token: options.worker_token.clone(),
            managed_secret: options.managed_secret.clone(),
            instance_name: runner::INSTANCE_NAME.to_owned(),
            probe_timeout: Duration::from_secs(2),
            redrive: warmproof::domain::claim::REDRIVE_DEFAULT,
        })?;
        let core = Core::new(options, base_url, client, platform::Client::without_credentials()?);
        serve(&core, listener);
        for place in 0..core.options.runners {
            let character = Character::drawn(core.options.shares, core.options.seed, place as u64);
            core.spawn(runner::warm(Arc::clone(&core), character));
        }
        queue(&core);
        Ok(Self { core })
    }

    /// The address it listens on, such as `http://127.0.0.1:34567`, without a trailing slash.
    pub fn base_url(&self) -> &str {
        &self.core.base_url
    }

    /// Queues one run.
    pub fn queue_run(&self) -> RunId {
        self.core.engine.queue_run()
    }

    /// Queues many runs.
    pub fn queue_runs(&self, count: usize) -> Vec<RunId> {
        (0..count).map(|_| self.queue_run()).collect()
    }

    /// Cancels a run; false if it is unknown, has ended or is already being cancelled.
    pub async fn cancel_run(&self, run: &RunId) -> bool {
        self.core.engine.cancel(run).await
    }

    /// Dequeues as the HTTP route does, but without HTTP and without blocking.
    pub async fn dequeue_now(&self) -> Option<Box<RawValue>> {
        self.core.engine.dequeue().await
    }

    /// The run at its latest snapshot, without a probe.
    pub async fn latest_of(&self, run: &RunId) -> Option<wire::RunExecutionData> {
        self.core.engine.latest(run).await
    }

    /// Adds a runner that treats every message as this kind does.
    pub fn spawn_runner(&self, kind: RunnerKind) {
        self.core.spawn(runner::warm(Arc::clone(&self.core), Character::Fixed(kind)));
    }

    /// The fault switches.
    pub fn faults(&self) -> &Faults {
        &self.core.faults
    }

    /// The announcements of runners after this call.
    pub fn connected(&self) -> broadcast::Receiver<RunConnected> {
        self.core.connected.subscribe()
    }

    /// All that really happened so far.
    pub fn report(&self) -> Report {
        self.core.ledger.report()
    }

    /// What really happened to one run.
    pub fn record_of(&self, run: &RunId) -> Option<Arc<RunRecord>> {
        self.core.ledger.run(run)
    }

    /// The totals.
    pub fn counters(&self) -> Counters {
        self.core.ledger.counters()
    }

    /// The probes of one run, in the order they arrived.
    pub fn probes(&self, run: &RunId) -> Vec<Visit> {
        self.core.probes.of(Some(run.as_str()))
    }

    /// The create requests for one run, in the order they arrived.
    pub fn creates(&self, run: &RunId) -> Vec<Visit> {
        self.core.creates.of(Some(run.as_str()))
    }

    /// Waits for the n-th probe of a run, counted from 1.
    pub async fn wait_for_probe(&self, run: &RunId, nth: usize) -> Visit {
        self.core.changes.until(|| self.core.probes.nth(run.as_str(), nth.saturating_sub(1))).await
    }

    /// Waits for the n-th create request for a run, counted from 1.
    pub async fn wait_for_create(&self, run: &RunId, nth: usize) -> Visit {
        self.core.changes.until(|| self.core.creates.nth(run.as_str(), nth.saturating_sub(1))).await
    }

    /// Waits until this many polls wait for a message.
    pub async fn wait_for_pollers(&self, count: usize) {
        self.core.changes.until(|| (self.core.broker.waiting() >= count).then_some(())).await;
    }

    /// Waits until one run's record meets the condition.
    pub async fn wait_for_record(&self, run: &RunId, wanted: impl Fn(&RunRecord) -> bool) -> Arc<RunRecord> {
        self.core.changes.until(|| self.record_of(run).filter(|record| wanted(record))).await
    }

    /// Waits until the totals meet the condition.
    pub async fn wait_for_counters(&self, wanted: impl Fn(&Counters) -> bool) -> Counters {
        self.core.changes.until(|| Some(self.counters()).filter(|counters| wanted(counters))).await
    }

    /// Cuts every connection, ends every task and waits for them.
    pub async fn shutdown(&self) {
        self.core.stop.cancel();
        self.core.tasks.close();
        self.core.tasks.wait().await;
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.core.stop.cancel();
    }
}

fn check(options: &SimulatorOptions) -> Result<(), SimulatorError> {
    if !options.worker_token.expose_secret().starts_with(wire::WORKER_TOKEN_PREFIX) {
        return Err(SimulatorError::WorkerToken);
    }
    let shares = &options.shares;
    let each =
        [shares.slow, shares.silently_dead, shares.abort_crossing, shares.duplicating, shares.dies_connected];
    if each.iter().any(|share| !(0.0..=1.0).contains(share)) || each.iter().sum::<f64>() > 1.0 {
        return Err(SimulatorError::Shares);
    }
    if options.runs_per_second.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) {
        return Err(SimulatorError::RunsPerSecond);
    }
    Ok(())
}

/// Runners cannot call `0.0.0.0`; they are on the same machine, so loopback reaches the simulator.
fn reachable(address: SocketAddr) -> SocketAddr {
    match (address.ip().is_unspecified(), address) {
        (true, SocketAddr::V4(_)) => SocketAddr::from(([127, 0, 0, 1], address.port())),
        (true, SocketAddr::V6(_)) => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], address.port())),
        (false, _) => address,
    }
}

fn serve(core: &Arc<Core>, listener: TcpListener) {
    let app = worker_api::routes(Arc::clone(core))
        .merge(broker::routes())
        .merge(gateway::routes())
        .merge(control::routes())
        .with_state(Arc::clone(core))
        .into_make_service_with_connect_info::<Connection>();
    let listener = CuttableListener { inner: listener, stop: core.stop.clone() };
    core.spawn(async move {
        // Never ends by itself: the listener retries failed accepts.
        let _ = axum::serve(listener, app).await;
    });
}

/// Queues the runs of the options: all now, or at their rate.
fn queue(core: &Arc<Core>) {
    let count = core.options.queued_runs;
    let Some(rate) = core.options.runs_per_second else {
        (0..count).for_each(|_| drop(core.engine.queue_run()));
        return;
    };
    let engine = Arc::clone(&core.engine);
    core.spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
        for _ in 0..count {
            ticks.tick().await;
            engine.queue_run();
        }
    });
}

#[cfg(test)]
mod tests;
