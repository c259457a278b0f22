//! Calls: schedule and cancel, as the library and the API make them. Each call is coalesced and counted once.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;

use crate::domain::verification::{Cancellation, Cancelled, NewVerification};
use crate::store::SharedError;
use crate::store::Store;
use crate::store::coalesce::Coalescer;
use crate::store::schedule::ScheduleAnswer;
use crate::telemetry::metrics;

/// Schedules and cancels on one store. Cheap to clone; its lanes end with the last clone.
#[derive(Debug, Clone)]
pub struct Calls {
    store: Store,
    coalescer: Coalescer,
    default_delay: Duration,
}

impl Calls {
    /// Starts the lanes of coalesced calls on the current runtime.
    ///
    /// `default_delay` is for calls and pools that set no delay of their own.
    #[must_use]
    pub fn start(store: &Store, default_delay: Duration) -> Self {
        Self { store: store.clone(), coalescer: Coalescer::start(store, default_delay), default_delay }
    }

    /// Schedules one dispatch; calls that meet share a statement. Returned means durable.
    ///
    /// # Errors
    /// The database could not be reached or failed; the call may be repeated as it is.
    pub async fn schedule(&self, new: NewVerification) -> Result<ScheduleAnswer, SharedError> {
        let pool = new.pool.clone();
        let answer = self.coalescer.schedule(new).await?;
        if let Ok(scheduled) = &answer {
            metrics::scheduled(&pool, scheduled.result);
        }
        Ok(answer)
    }

    /// Schedules a batch in one statement; an answer for each, in their order. Returned means durable.
    ///
    /// # Errors
    /// The database could not be reached or failed; the call may be repeated as it is.
    pub async fn schedule_batch(
        &self,
        batch: &[NewVerification],
    ) -> Result<Vec<ScheduleAnswer>, SharedError> {
        let answers = self.store.schedule(batch, self.default_delay).await.map_err(Arc::new)?;
        for (new, scheduled) in batch.iter().zip(answers.iter().flatten()) {
            metrics::scheduled(&new.pool, scheduled.result);
        }
        Ok(answers)
    }

    /// Schedules one dispatch in the caller's own transaction; it holds when that commits.
    ///
    /// # Errors
    /// The database failed; roll the transaction back.
    pub async fn schedule_in(
        &self,
        transaction: &mut PgConnection,
        new: &NewVerification,
    ) -> Result<ScheduleAnswer, SharedError> {
        let answer = self.store.schedule_in(transaction, new, self.default_delay).await.map_err(Arc::new)?;
        if let Ok(scheduled) = &answer {
            metrics::scheduled(&new.pool, scheduled.result);
        }
        Ok(answer)
    }

    /// Cancels one verification; calls that meet share a statement, behind their run's schedule.
    ///
    /// # Errors
    /// The database could not be reached or failed; the call may be repeated as it is.
    pub async fn cancel(&self, cancellation: Cancellation) -> Result<Cancelled, SharedError> {
        let reason = cancellation.reason;
        let cancelled = self.coalescer.cancel(cancellation).await?;
        metrics::cancelled(reason, &cancelled);
        Ok(cancelled)
    }

    /// Cancels a batch in one statement; an answer for each, in their order.
    ///
    /// # Errors
    /// The database could not be reached or failed; the call may be repeated as it is.
    pub async fn cancel_batch(&self, batch: &[Cancellation]) -> Result<Vec<Cancelled>, SharedError> {
        let answers = self.store.cancel(batch).await.map_err(Arc::new)?;
        for (cancellation, cancelled) in batch.iter().zip(&answers) {
            metrics::cancelled(cancellation.reason, cancelled);
        }
        Ok(answers)
    }

    /// What keeps schedules from being written, by what the lanes achieved lately; `None`: nothing.
    pub async fn problem(&self) -> Option<String> {
        self.coalescer.problem().await
    }

    /// Closes the connections. Calls that are under way end first.
    pub(super) async fn close(self) {
        let Self { store, coalescer, default_delay: _ } = self;
        drop(coalescer);
        store.close().await;
    }
}
