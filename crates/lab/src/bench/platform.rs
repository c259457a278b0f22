//! The simulated platform of a benchmark, in this process; all its runs have moved on.

use anyhow::Context as _;
use secrecy::SecretString;
use std::time::Duration;
use tokio::net::TcpListener;

use super::message::Dispatches;
use super::rows::{self, Draft};
use crate::simulator::{Simulator, SimulatorOptions};
use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::ids::SnapshotId;

const TOKEN: &str = "tr_wgt_benchmark0benchmark0benchmark";
const SECRET: &str = "benchmark-secret";

/// A platform without runners that never requeues a run.
///
/// # Errors
/// It could not listen.
pub async fn start() -> anyhow::Result<Simulator> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("could not listen on loopback")?;
    let options = SimulatorOptions {
        worker_token: SecretString::from(TOKEN),
        managed_secret: SecretString::from(SECRET),
        redrive: Duration::ZERO,
        ..SimulatorOptions::default()
    };
    Simulator::start(listener, options).context("could not start the simulator")
}

/// Rows of runs that the platform knows, each dispatched at a snapshot that is no longer the latest.
///
/// # Errors
/// The platform's message cannot be read.
pub async fn moved_on(
    simulator: &Simulator,
    filler: &mut Dispatches,
    count: u32,
) -> anyhow::Result<Vec<Draft>> {
    let mut drafts = Vec::with_capacity(count as usize);
    for nth in 0..count {
        simulator.queue_run();
        let message = simulator.dequeue_now().await.context("the platform has no run")?;
        let known = Dispatch::parse(message, None)?;
        // The message is ours, 3 KB long; the run is the platform's.
        let dispatch = Dispatch {
            run_id: known.run_id,
            snapshot_id: SnapshotId::parse(format!("snapshot_earlier{nth:09}"))?,
            ..filler.next(known.dequeued_at)
        };
        drafts.push(rows::draft(dispatch));
    }
    Ok(drafts)
}
