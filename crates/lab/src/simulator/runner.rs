//! Simulated runners: real tasks that long-poll and start attempts over HTTP (platform.md §4.2).

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::core::{Core, RunConnected};
use super::message::{DEPLOYMENT_ID, DEPLOYMENT_VERSION};
use super::options::{Loser, RunnerKind, Shares};
use super::polls::{KIND_HEADER, POLL_HEADER};
use super::record::StartKind;
use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::ids::{RunId, SnapshotId};
use warmproof::platform::CallError;
use warmproof::platform::wire::{BrokerConnectAnswer, Completion, StartAttemptAnswer};

/// Simulated runners call under this name, which distinguishes them from foreign runners.
pub(super) const INSTANCE_NAME: &str = "simulated-runner";
/// Pause of a runner whose broker does not answer; a real runner's growing pauses would only slow demos.
const BROKER_PAUSE: Duration = Duration::from_millis(200);
/// A runner's longest pause between start calls, in units of the first.
const START_PAUSE_MAX: u32 = 10;
/// How often a supervisor's client repeats one call of a runner.
const SUPERVISOR_REPEATS: u32 = 4;

/// How a runner chooses its kind for its next message.
pub(super) enum Character {
    Fixed(RunnerKind),
    Drawn(Shares, Box<StdRng>),
}

impl Character {
    /// One position in the pool; the same seed and position always give the same kinds.
    pub(super) fn drawn(shares: Shares, seed: u64, place: u64) -> Self {
        Self::Drawn(shares, Box::new(StdRng::seed_from_u64(seed ^ place.wrapping_mul(0x9E37_79B9_7F4A_7C15))))
    }

    fn next(&mut self) -> RunnerKind {
        let (shares, rng) = match self {
            Self::Fixed(kind) => return *kind,
            Self::Drawn(shares, rng) => (shares, rng),
        };
        let mut draw: f64 = rng.random();
        for (share, kind) in [
            (shares.slow, RunnerKind::Slow),
            (shares.silently_dead, RunnerKind::SilentlyDead),
            (shares.abort_crossing, RunnerKind::AbortCrossing),
            (shares.duplicating, RunnerKind::Duplicating),
            (shares.dies_connected, RunnerKind::DiesConnected),
        ] {
            if draw < share {
                return kind;
            }
            draw -= share;
        }
        RunnerKind::Live
    }

    /// In a pool, another runner replaces one that died.
    const fn is_replaced(&self) -> bool {
        matches!(self, Self::Drawn(..))
    }
}

/// The result of one poll.
enum Polled {
    Message(Box<RawValue>),
    /// The broker wrote the message to the socket, and the runner did not read it. Dropping the socket
    /// aborts the poll.
    Unread(TcpStream),
    Nothing,
    /// The broker's answer was not a message: a real runner exits.
    Refused,
}

/// A cold workload: starts its own run's attempt, then polls like any warm runner.
///
/// It gets run and snapshot at its start and announces itself as a warm runner does
/// (platform.md §5.3). Its supervisor therefore learns of the run perhaps while the
/// verification that creates the workload is still in flight.
pub(super) async fn cold(core: Arc<Core>, run: RunId, snapshot: SnapshotId) {
    tokio::time::sleep(core.options.boot).await;
    announce(&core, &run, &snapshot);
    work(&core, &run, &snapshot, StartKind::Cold).await;
    if core.options.cold_runners_poll {
        warm(core, Character::Fixed(RunnerKind::Live)).await;
    }
}

/// A warm runner's life: poll, announce, start, complete, poll again.
pub(super) async fn warm(core: Arc<Core>, mut character: Character) {
    'life: loop {
        let Some(terms) = connect(&core).await else { return };
        let controller = format!("controller_{}", uuid::Uuid::new_v4());
        let mut idle_since = Instant::now();
        loop {
            let kind = character.next();
            let polled = loop {
                let polled = poll(&core, &controller, kind, &terms).await;
                if !matches!(polled, Polled::Nothing) || is_over(&terms, idle_since) {
                    break polled;
                }
            };
            match (polled, kind) {
                (Polled::Message(message), _) => {
                    let survived = act(&core, &message, kind).await;
                    if !survived && character.is_replaced() {
                        continue 'life;
                    } else if !survived {
                        return;
                    }
                    idle_since = Instant::now();
                }
                // The abort crossed the answer: the message is lost, the runner is healthy.
                (Polled::Unread(socket), RunnerKind::AbortCrossing) => drop(socket),
                (Polled::Unread(socket), _) if character.is_replaced() => {
                    keep_open(&core, socket);
                    continue 'life;
                }
                (Polled::Unread(_socket), _) => return std::future::pending().await,
                (Polled::Nothing | Polled::Refused, _) if character.is_replaced() => {
                    tokio::time::sleep(BROKER_PAUSE).await;
                    continue 'life;
                }
                (Polled::Nothing | Polled::Refused, _) => return,
            }
        }
    }
}

fn is_over(terms: &BrokerConnectAnswer, idle_since: Instant) -> bool {
    let keepalive_ms = terms.keepalive_ms.unwrap_or(300_000);
    keepalive_ms > 0 && idle_since.elapsed() >= Duration::from_millis(keepalive_ms)
}

/// For the broker, a dead machine's socket stays open until the poll would have ended.
fn keep_open(core: &Arc<Core>, socket: TcpStream) {
    let open = core.options.connection_timeout;
    core.spawn(async move {
        tokio::time::sleep(open).await;
        drop(socket);
    });
}

/// Tries three times, as the real runner; `None` means that it exits.
async fn connect(core: &Core) -> Option<BrokerConnectAnswer> {
    for _ in 0..3 {
        if let Ok(response) = core.http.get(format!("{}/connect", core.base_url)).send().await
            && let Ok(body) = response.bytes().await
            && let Ok(terms) = serde_json::from_slice(&body)
        {
            return Some(terms);
        }
        tokio::time::sleep(BROKER_PAUSE).await;
    }
    None
}

async fn poll(core: &Core, controller: &str, kind: RunnerKind, terms: &BrokerConnectAnswer) -> Polled {
    if matches!(kind, RunnerKind::SilentlyDead | RunnerKind::AbortCrossing) {
        return poll_without_reading(core, controller, kind).await.unwrap_or(Polled::Refused);
    }
    let open = core.broker.open();
    let mut request = core
        .http
        .get(format!("{}/warm-start", core.base_url))
        .header("x-trigger-workload-controller-id", controller)
        .header("x-trigger-deployment-id", DEPLOYMENT_ID)
        .header("x-trigger-deployment-version", DEPLOYMENT_VERSION)
        .header("x-trigger-machine-cpu", "0.5")
        .header("x-trigger-machine-memory", "0.5")
        .header("x-trigger-worker-instance-name", INSTANCE_NAME)
        .header(KIND_HEADER, kind.as_str())
        .header(POLL_HEADER, open.key);
    let timeout_ms = terms.connection_timeout_ms.unwrap_or(30_000);
    if timeout_ms > 0 {
        request = request.timeout(Duration::from_millis(timeout_ms));
    }
    match request.send().await {
        Err(error) if error.is_timeout() => Polled::Nothing,
        Err(_) => {
            tokio::time::sleep(BROKER_PAUSE).await;
            Polled::Nothing
        }
        Ok(response) if !response.status().is_success() => Polled::Refused,
        Ok(response) => match response.text().await.map(RawValue::from_string) {
            Ok(Ok(message)) => {
                open.received();
                Polled::Message(message)
            }
            // Cut off or not JSON: the message is lost, the runner polls again.
            Ok(Err(_)) | Err(_) => Polled::Nothing,
        },
    }
}

/// Sends the request, waits until the answer has arrived, and does not read it.
async fn poll_without_reading(core: &Core, controller: &str, kind: RunnerKind) -> std::io::Result<Polled> {
    let host = core.base_url.trim_start_matches("http://");
    let mut socket = TcpStream::connect(host).await?;
    let request = format!(
        "GET /warm-start HTTP/1.1\r\nhost: {host}\r\nx-trigger-workload-controller-id: {controller}\r\n\
         x-trigger-deployment-version: {DEPLOYMENT_VERSION}\r\n{KIND_HEADER}: {}\r\n\r\n",
        kind.as_str()
    );
    socket.write_all(request.as_bytes()).await?;
    socket.readable().await?;
    Ok(Polled::Unread(socket))
}

/// Acts on a message as this kind does; false if the runner died.
async fn act(core: &Arc<Core>, message: &RawValue, kind: RunnerKind) -> bool {
    // A real runner exits on JSON that is not a message.
    let Ok(dispatch) = Dispatch::parse(message.to_owned(), None) else { return false };
    if kind == RunnerKind::Slow {
        tokio::time::sleep(core.options.slow_delay).await;
    }
    announce(core, &dispatch.run_id, &dispatch.snapshot_id);
    if kind == RunnerKind::DiesConnected {
        return false;
    }
    work(core, &dispatch.run_id, &dispatch.snapshot_id, StartKind::Warm).await;
    true
}

/// Announces "run connected" before the start call, as on the supervisor's workload socket.
fn announce(core: &Core, run: &RunId, snapshot: &SnapshotId) {
    // There may be no listener.
    let _ = core.connected.send(RunConnected { run: run.clone(), snapshot: snapshot.clone() });
}

/// Starts the attempt, executes it and completes it. A refused start is no error: another runner has the run.
async fn work(core: &Arc<Core>, run: &RunId, snapshot: &SnapshotId, kind: StartKind) {
    let Some(executing) = start(core, run, snapshot, kind).await else { return };
    core.ledger.execution_began(run, snapshot, kind);
    tokio::time::sleep(core.options.execute).await;
    core.ledger.execution_ended(run);
    let completion = Completion {
        ok: true,
        id: run.as_str().to_owned(),
        output_type: Some("application/json".to_owned()),
        error: None,
        retry: None,
    };
    if let Err(error) = core.platform.complete_attempt(run, &executing, completion).await {
        tracing::debug!(run.id = %run, %error, "the simulated platform refused a completion");
    }
}

/// Repeats the call while there is no answer, and after a refusal if the options want it.
async fn start(core: &Core, run: &RunId, snapshot: &SnapshotId, kind: StartKind) -> Option<SnapshotId> {
    let unit = core.options.start_retry_delay;
    let mut pause = unit;
    for asked in 0..=core.options.start_retries {
        if asked > 0 {
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(unit.saturating_mul(START_PAUSE_MAX));
        }
        match ask(core, run, snapshot, kind).await {
            Ok(started) => return Some(started.snapshot.friendly_id),
            Err(error) if core.options.loser == Loser::GivesUp && is_refusal(&error) => return None,
            Err(_) => {}
        }
    }
    None
}

/// One call through a supervisor, whose client retries what it takes for an outage (platform.md §1.3).
async fn ask(
    core: &Core,
    run: &RunId,
    snapshot: &SnapshotId,
    kind: StartKind,
) -> Result<StartAttemptAnswer, CallError> {
    let mut pause = core.options.start_retry_delay / 2;
    let mut repeats = match core.options.loser {
        Loser::GivesUp => 0,
        Loser::AsksOn => SUPERVISOR_REPEATS,
    };
    loop {
        match core.platform.start_attempt(run, snapshot, kind == StartKind::Warm).await {
            Err(error) if repeats > 0 && is_repeated(&error) => {
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2);
                repeats -= 1;
            }
            answer => return answer,
        }
    }
}

const fn is_refusal(error: &CallError) -> bool {
    match error {
        CallError::Status { status, .. } => *status < 500,
        CallError::BadBody { .. } => true,
        CallError::Transport { .. } | CallError::Timeout { .. } => false,
    }
}

const fn is_repeated(error: &CallError) -> bool {
    match error {
        CallError::Status { status, .. } => matches!(status, 408 | 409 | 429 | 500..),
        CallError::BadBody { .. } => false,
        CallError::Transport { .. } | CallError::Timeout { .. } => true,
    }
}
