//! Settle: one lane takes what ends, writes it in batches and then says so.
//!
//! While a batch is in flight the next one gathers, so nobody lingers and a busy
//! worker still commits rarely. A claim stays in hand until its end is written; a
//! database that is down therefore stops the claiming by itself.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::in_hand::Held;
use super::verify::{Look, Next};
use super::{Shared, event};
use crate::domain::backoff::Backoff;
use crate::domain::outcome::{Settled, Settlement};
use crate::store::StoreError;

/// Most settlements in one statement; beyond it only latency grows (measured).
const BATCH_MAX: usize = 256;
/// How long to stay away from a database that fails.
const DATABASE_BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(2) };

/// How long an end waits whose row somebody's open transaction holds.
const HELD_UP_PAUSE: Duration = Duration::from_millis(250);

/// What the lane is asked to do.
pub(super) enum Order {
    /// Record an end.
    Settle(Box<Ended>),
    /// Answer when everything before this is recorded.
    Flush(oneshot::Sender<()>),
}

/// A claim that ended, with its story.
pub(super) struct Ended {
    held: Held,
    look: Look,
    settlement: Settlement,
}

/// Does what is left to do with a claim.
pub(super) async fn hand_over(shared: &Shared, held: Held, look: Look, next: Next) {
    match next {
        Next::Settle(settlement) => {
            let order = Order::Settle(Box::new(Ended { held, look, settlement }));
            if shared.settle.send(order).await.is_err() {
                tracing::warn!("the settle lane is closed; the claim is left to its lease");
            }
        }
        Next::Release(release) => {
            if let Err(error) = shared.store.release(std::slice::from_ref(&release)).await {
                tracing::warn!(%error, run.id = %release.key.run_id, "a claim is left to its lease");
            }
        }
        Next::Drop => {}
    }
}

/// Waits until everything handed over so far is recorded.
pub(super) async fn flushed(shared: &Shared) {
    let (sender, receiver) = oneshot::channel();
    if shared.settle.send(Order::Flush(sender)).await.is_ok() {
        // The lane answers or is gone; either way there is nothing left to wait for.
        let _ = receiver.await;
    }
}

/// Runs the lane until `done`.
pub(super) async fn lane(shared: Arc<Shared>, mut orders: mpsc::Receiver<Order>, done: CancellationToken) {
    let mut gathered = Vec::with_capacity(BATCH_MAX);
    // Ends whose rows somebody's open transaction holds, and those who wait for them to be recorded.
    let (mut held_up, mut flushes) = (Vec::new(), Vec::new());
    loop {
        tokio::select! {
            _ = orders.recv_many(&mut gathered, BATCH_MAX) => {}
            () = tokio::time::sleep(HELD_UP_PAUSE), if !held_up.is_empty() => {}
            () = done.cancelled() => return,
        }
        let mut ended = if gathered.is_empty() { std::mem::take(&mut held_up) } else { Vec::new() };
        for order in gathered.drain(..) {
            match order {
                Order::Settle(one) => ended.push(*one),
                Order::Flush(sender) => flushes.push(sender),
            }
        }
        held_up.extend(record(&shared, ended).await);
        if held_up.is_empty() {
            for sender in flushes.drain(..) {
                // Whoever asked may have given up at the end of the grace period.
                let _ = sender.send(());
            }
        }
    }
}

/// Records a batch, however long the database takes to come back; answers what is held up.
async fn record(shared: &Shared, ended: Vec<Ended>) -> Vec<Ended> {
    if ended.is_empty() {
        return ended;
    }
    let batch: Vec<Settlement> = ended.iter().map(|one| one.settlement.clone()).collect();
    let mut failures = 0;
    let answers = loop {
        match shared.store.settle(&batch).await {
            Ok(answers) => break answers,
            Err(error) => {
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
                tracing::debug!(run.id = %one.held.claim.key.run_id, "somebody holds the row, settling later");
                held_up.push(one);
            }
            answer => report(shared, &one, answer),
        }
    }
    held_up
}

fn report(shared: &Shared, ended: &Ended, answer: Result<Settled, StoreError>) {
    let claim = &ended.held.claim;
    match answer {
        Ok(Settled::Recorded(outcome)) => {
            shared.events.emit(event::settled(
                &shared.config,
                claim,
                &ended.held.clock,
                &ended.look,
                &outcome,
            ));
        }
        Ok(Settled::Stale) => {
            tracing::info!(run.id = %claim.key.run_id, verification.id = %claim.key.id, "stale: the fence moved on");
        }
        Err(error) => {
            tracing::error!(%error, run.id = %claim.key.run_id, "an outcome was refused; its row stays pending");
        }
    }
}
