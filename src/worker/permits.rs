//! Permits: losses that ask for a permit at the same time share a statement.
//!
//! All permits of a window take one row's lock and wait for the disk, so that a storm of single ones would let the
//! leases of those that wait run out.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::domain::claim::ClaimKey;
use crate::store::fall_back::{Fenced, Permit};
use crate::store::{SharedError, StoreError};

/// Most permits in one statement; it holds the window's row, for which other workers wait.
const BATCH_MAX: usize = 64;

/// One loss that asks.
#[derive(Debug)]
pub(super) struct Asked {
    key: ClaimKey,
    answer: oneshot::Sender<Result<Fenced<Permit>, SharedError>>,
}

/// Asks for one permit, together with the losses that ask at the same time.
pub(super) async fn ask(shared: &Shared, key: ClaimKey) -> Result<Fenced<Permit>, SharedError> {
    let (answer, answered) = oneshot::channel();
    let stopping = || Arc::new(StoreError::Stopping);
    shared.permits.send(Asked { key, answer }).map_err(|_| stopping())?;
    answered.await.unwrap_or_else(|_| Err(stopping()))
}

/// Serves those that ask, until `done`. While a statement is under way the next batch gathers.
pub(super) async fn keep(
    shared: Arc<Shared>,
    mut asked: mpsc::UnboundedReceiver<Asked>,
    done: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        tokio::select! {
            count = asked.recv_many(&mut batch, BATCH_MAX) => if count == 0 { return },
            () = done.cancelled() => return,
        }
        // Reported now, so that a brown-out that this worker sees already holds its own next loss.
        shared.tally.tell(&shared).await;
        let keys: Vec<ClaimKey> = batch.iter().map(|one| one.key.clone()).collect();
        match shared.store.permit_creates(&keys, shared.config.hold_retry).await {
            Ok(answers) => {
                for (one, answer) in batch.drain(..).zip(answers) {
                    // A loss whose claim has ended meanwhile needs no answer.
                    let _ = one.answer.send(answer.map_err(Arc::new));
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for one in batch.drain(..) {
                    let _ = one.answer.send(Err(Arc::clone(&error)));
                }
            }
        }
    }
}
