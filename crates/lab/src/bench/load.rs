//! Loads: a stock of dispatches made beforehand, and callers that share it.
//!
//! Messages are made and copied outside the measured time. Only `dequeued_at` is set at the call,
//! because dispatches are normally fresh, and an old one takes a slower path.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::context::Context;
use super::figures::{Percentiles, Round, millis, per_second};
use super::message::Dispatches;
use crate::bench::context::Bed;
use warmproof::domain::verification::{CancelReason, Cancellation, NewVerification};

/// From hit to probe in all loads; the product's default.
pub const DELAY: Duration = Duration::from_secs(10);

/// How long ago a dispatch was dequeued, so that the time is never in the database's future.
const DEQUEUED_AGO: TimeDelta = TimeDelta::milliseconds(20);

/// The database's clock, read once.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    read: DateTime<Utc>,
    at: Instant,
    skew: TimeDelta,
}

impl Clock {
    /// Reads it.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn read(store: &Bed) -> anyhow::Result<Self> {
        let at = Instant::now();
        Ok(Self { read: store.clock().await?, at, skew: TimeDelta::zero() })
    }

    /// The same, for a platform whose clock is ahead of the database's by `skew`.
    #[must_use]
    pub fn skewed(self, skew: TimeDelta) -> Self {
        Self { skew, ..self }
    }

    /// When a dispatch that is scheduled now was dequeued.
    #[must_use]
    pub fn dequeued_at(self) -> DateTime<Utc> {
        let passed = TimeDelta::from_std(self.at.elapsed()).unwrap_or_default();
        self.read + passed - DEQUEUED_AGO + self.skew
    }
}

/// Hits made beforehand.
#[derive(Debug)]
pub struct Stock {
    hits: Vec<NewVerification>,
    clock: Clock,
}

impl Stock {
    /// Makes this many different hits.
    ///
    /// # Errors
    /// The database's clock could not be read.
    pub async fn make(store: &Bed, count: usize) -> anyhow::Result<Self> {
        let clock = Clock::read(store).await?;
        let hits = tokio::task::spawn_blocking(move || {
            let mut dispatches = Dispatches::new(count as u64, 0);
            let now = clock.dequeued_at();
            (0..count).map(|_| dispatches.hit(now, None)).collect()
        })
        .await?;
        Ok(Self { hits, clock })
    }

    /// The clock that dates dispatches.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Copies of the first ones, this many.
    #[must_use]
    pub fn take(&self, count: usize) -> Vec<NewVerification> {
        self.hits[..count.min(self.hits.len())].to_vec()
    }

    /// The same in batches.
    #[must_use]
    pub fn batches(&self, count: usize, size: usize) -> Vec<Vec<NewVerification>> {
        self.hits[..count.min(self.hits.len())].chunks(size).map(<[_]>::to_vec).collect()
    }

    /// Fills the table as fast as possible, without emptying it first.
    ///
    /// # Errors
    /// The database refused.
    pub async fn fill(&self, store: &Bed, count: usize) -> anyhow::Result<()> {
        let (store, clock) = (store.clone(), self.clock);
        share(self.batches(count, 256), 2, move |batch| bulk(store.clone(), clock, batch)).await?;
        Ok(())
    }
}

/// Dates a batch and schedules it.
///
/// # Errors
/// The database refused.
pub async fn bulk(store: Bed, clock: Clock, mut batch: Vec<NewVerification>) -> anyhow::Result<usize> {
    let now = clock.dequeued_at();
    for new in &mut batch {
        new.dispatch.dequeued_at = now;
    }
    for answer in store.schedule(&batch, DELAY).await? {
        let _ = answer?;
    }
    Ok(batch.len())
}

/// The cancel that a connecting runner causes.
#[must_use]
pub fn cancellation(new: &NewVerification) -> Cancellation {
    Cancellation {
        run_id: new.dispatch.run_id.clone(),
        snapshot_id: Some(new.dispatch.snapshot_id.clone()),
        reason: CancelReason::Connected,
    }
}

/// Lets callers share the items, each one call at a time, and times each call.
///
/// # Errors
/// A call failed.
pub async fn share<T, F, Called>(items: Vec<T>, callers: usize, call: F) -> anyhow::Result<Round>
where
    T: Send + 'static,
    F: Fn(T) -> Called + Clone + Send + 'static,
    Called: Future<Output = anyhow::Result<usize>> + Send,
{
    let work = Arc::new(Mutex::new(items.into_iter()));
    let next =
        |work: &Mutex<std::vec::IntoIter<T>>| work.lock().unwrap_or_else(PoisonError::into_inner).next();
    let mut tasks = JoinSet::new();
    let begin = Instant::now();
    for _ in 0..callers {
        let (work, call) = (Arc::clone(&work), call.clone());
        tasks.spawn(async move {
            let (mut rows, mut times) = (0, Vec::new());
            while let Some(item) = next(&work) {
                let asked = Instant::now();
                rows += call(item).await?;
                times.push(millis(asked.elapsed()));
            }
            anyhow::Ok((rows, times))
        });
    }
    let (mut rows, mut times) = (0, Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (some, more) = done??;
        rows += some;
        times.extend(more);
    }
    Ok(Round { per_second: per_second(rows, begin.elapsed()), calls: Percentiles::of(times), cpu: None })
}

/// Makes a store connect and prepare its statements.
///
/// # Errors
/// The server refused.
pub async fn warm_store(context: &Context, connections: u32, stock: &Stock) -> anyhow::Result<Bed> {
    warm_store_by(stock.clock(), context, connections, stock).await
}

/// The same by a platform's clock.
///
/// # Errors
/// The database refused.
pub async fn warm_store_by(
    clock: Clock,
    context: &Context,
    connections: u32,
    stock: &Stock,
) -> anyhow::Result<Bed> {
    let store = context.store(connections).await?;
    let warming = store.clone();
    let items = stock.batches(64 * connections as usize, 8);
    share(items, connections as usize, move |batch| {
        let store = warming.clone();
        async move {
            let cancellations: Vec<_> = batch.iter().map(cancellation).collect();
            bulk(store.clone(), clock, batch).await?;
            Ok(store.cancel(&cancellations).await?.len())
        }
    })
    .await?;
    Ok(store)
}
