//! Settle: lanes take ended claims, write them in batches and then report them.
//!
//! While one batch is in flight the next one gathers. No caller waits for a settle, so batching
//! for a few milliseconds saves commits. A claim stays in flight until its end is written, so a
//! database that is down stops the claiming by itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::in_flight::InFlight;
use super::probe::{Next, Probing};
use super::release::release;
use super::{Shared, event};
use crate::domain::backoff::Backoff;
use crate::domain::outcome::{Settled, Settlement};
use crate::store::StoreError;
use crate::telemetry::metrics;

/// Most settlements in one statement; a larger batch only adds latency (measured).
const BATCH_MAX: usize = 256;
/// How long a settle waits for others. Timers that fire meanwhile find the database and the processor free.
const LINGER: Duration = Duration::from_millis(20);
/// Lanes, so that one gathers while another waits for its commit.
pub(super) const LANES: usize = 2;
/// How long to wait before asking a failing database again.
const DATABASE_BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(2) };

/// How long an ended claim waits while another transaction holds its row.
const HELD_UP_PAUSE: Duration = Duration::from_millis(250);
/// Ended claims that are tried again in one round: one that is still held up costs a lock timeout.
const HELD_UP_MAX: usize = 16;

/// A claim that ended, with its story.
pub(super) struct Ended {
    in_flight: InFlight,
    probing: Probing,
    settlement: Settlement,
}

/// Carries out the last step of a claim.
pub(super) async fn finish(shared: &Shared, in_flight: InFlight, probing: Probing, next: Next) {
    match next {
        Next::Settle(settlement) => {
            if shared.settle.send(Ended { in_flight, probing, settlement }).await.is_err() {
                tracing::warn!("the settle lanes are closed; the claim is left to its lease");
            }
        }
        Next::Release(given_back) => release(shared, in_flight, given_back).await,
        Next::Drop => {}
    }
}

/// Ended claims that are to be recorded, shared by the lanes.
pub(super) type Orders = Arc<Mutex<mpsc::Receiver<Ended>>>;

/// Runs one lane until `done`. While its batch is in flight another lane gathers the next one.
pub(super) async fn lane(shared: Arc<Shared>, orders: Orders, done: CancellationToken) {
    let mut gathered = Vec::with_capacity(BATCH_MAX);
    loop {
        tokio::select! {
            () = gather(&orders, &mut gathered) => {}
            () = done.cancelled() => return,
        }
        for one in record(&shared, std::mem::take(&mut gathered)).await {
            // Fails only when the worker is about to end; the claim is then left to its lease.
            let _ = shared.held_up.send(one);
        }
    }
}

/// Records ended claims whose rows another open transaction held, until `done`. Apart from the lanes, so that
/// neither waits for the other: under load a lane is never idle.
pub(super) async fn held_up_lane(
    shared: Arc<Shared>,
    mut orders: mpsc::UnboundedReceiver<Ended>,
    done: CancellationToken,
) {
    let mut waiting: VecDeque<(Instant, Ended)> = VecDeque::new();
    loop {
        let due = waiting.front().map(|(again_at, _)| *again_at);
        tokio::select! {
            // Each waits a pause from its own last try, so the queue is in the order of time.
            Some(one) = orders.recv() => waiting.push_back((Instant::now() + HELD_UP_PAUSE, one)),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let now = Instant::now();
                let count = waiting.iter().take(HELD_UP_MAX).take_while(|(again_at, _)| *again_at <= now).count();
                let again = waiting.drain(..count).map(|(_, one)| one).collect();
                for one in record(&shared, again).await {
                    waiting.push_back((Instant::now() + HELD_UP_PAUSE, one));
                }
            }
            () = done.cancelled() => return,
        }
    }
}

/// Fills a batch. When this future is dropped, the batch keeps what it has taken.
async fn gather(orders: &Orders, batch: &mut Vec<Ended>) {
    let mut orders = orders.lock().await;
    let mut room = BATCH_MAX.saturating_sub(batch.len());
    room -= orders.recv_many(batch, room).await;
    let end = Instant::now() + LINGER;
    while room > 0 {
        match timeout_at(end, orders.recv_many(batch, room)).await {
            Ok(more) if more > 0 => room -= more,
            Ok(_) | Err(_) => return,
        }
    }
}

/// Records a batch, however long the database takes to come back; answers what another transaction holds up.
async fn record(shared: &Shared, ended: Vec<Ended>) -> Vec<Ended> {
    if ended.is_empty() {
        return ended;
    }
    let batch: Vec<Settlement> = ended.iter().map(|one| one.settlement.clone()).collect();
    let mut failures = 0;
    let answers = loop {
        match shared.store.settle(&batch).await {
            Ok(answers) => {
                shared.health.settled();
                break answers;
            }
            Err(error) => {
                shared.health.failed(&error);
                failures += 1;
                let wait = DATABASE_BACKOFF.delay(failures, rand::rng().random());
                tracing::warn!(%error, settlements = batch.len(), "could not settle, backing off");
                tokio::time::sleep(wait).await;
            }
        }
    };
    let mut held_up = Vec::new();
    for (one, answer) in ended.into_iter().zip(answers) {
        match answer {
            Err(error) if error.is_lock_timeout() => {
                tracing::debug!(run.id = %one.in_flight.claim.key.run_id, "another transaction holds the row, settling later");
                held_up.push(one);
            }
            answer => report(shared, &one, answer),
        }
    }
    held_up
}

fn report(shared: &Shared, ended: &Ended, answer: Result<Settled, StoreError>) {
    let claim = &ended.in_flight.claim;
    match answer {
        Ok(Settled::Recorded(outcome)) => {
            metrics::settled(&outcome);
            ended.probing.span.record("outcome", outcome.outcome.as_str());
            shared.events.emit(event::settled(
                &shared.config,
                claim,
                &ended.in_flight.clock,
                &ended.probing,
                &outcome,
            ));
        }
        Ok(Settled::Stale) => {
            metrics::stale(&claim.pool);
            ended.probing.span.record("outcome", "stale");
            tracing::info!(run.id = %claim.key.run_id, verification.id = %claim.key.id, "stale: the fence moved on");
        }
        Err(error) => {
            tracing::error!(%error, run.id = %claim.key.run_id, "an outcome was refused; its row stays pending");
        }
    }
}
