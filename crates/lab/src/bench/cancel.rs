//! `cancel`: batches of cancels, and single cancels through the coalescer.

use serde_json::{Value, json};

use super::context::Context;
use super::figures::{Round, Rounds};
use super::load::{DELAY, Stock, cancellation, share, warm_store};
use super::server;
use crate::bench::context::Bed;
use warmproof::domain::verification::Cancelled;
use warmproof::scheduler::Scheduler;

/// Rows in a batch.
const BATCH: usize = 256;
/// Connections that batches share.
const CONNECTIONS: [u32; 2] = [1, 4];
/// Callers of single calls.
const CALLERS: [usize; 2] = [16, 256];

/// Connections of a product process with default settings.
const PRODUCT_CONNECTIONS: u32 = 6;

fn expect_cancelled(answers: impl IntoIterator<Item = Cancelled>) -> anyhow::Result<usize> {
    let mut count = 0;
    for answer in answers {
        anyhow::ensure!(matches!(answer, Cancelled::Cancelled { .. }), "a cancel found nothing: {answer:?}");
        count += 1;
    }
    Ok(count)
}

async fn batches(store: &Bed, stock: &Stock, count: usize, connections: u32) -> anyhow::Result<Round> {
    let batches = stock.batches(count, BATCH);
    let items: Vec<Vec<_>> = batches.iter().map(|batch| batch.iter().map(cancellation).collect()).collect();
    let store = store.clone();
    share(items, connections as usize, move |batch| {
        let store = store.clone();
        async move { expect_cancelled(store.cancel(&batch).await?) }
    })
    .await
}

async fn singles(
    scheduler: &Scheduler,
    stock: &Stock,
    count: usize,
    callers: usize,
) -> anyhow::Result<Round> {
    let items: Vec<_> = stock.take(count).iter().map(cancellation).collect();
    let scheduler = scheduler.clone();
    share(items, callers, move |one| {
        let scheduler = scheduler.clone();
        async move { expect_cancelled(scheduler.cancel(one).await?) }
    })
    .await
}

/// Measures both ways to cancel; all rows are scheduled before the measurement starts.
///
/// # Errors
/// The server refused, or a cancel found nothing.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let count = context.pick(20_000, 100_000);
    let admin = context.fresh_store(2).await?;
    let stock = Stock::make(&admin, count).await?;
    let product = warm_store(context, PRODUCT_CONNECTIONS, &stock).await?;
    let scheduler = Scheduler::new(&product, DELAY);
    let mut rounds = Rounds::default();
    for _ in 0..context.rounds {
        for connections in CONNECTIONS {
            refill(&admin, &stock, count).await?;
            let round = batches(&product, &stock, count, connections).await?;
            rounds.add(&format!("batches of {BATCH}, {connections} connections"), round);
        }
        for callers in CALLERS {
            let some = if callers < 100 { count / 4 } else { count };
            refill(&admin, &stock, some).await?;
            let round = singles(&scheduler, &stock, some, callers).await?;
            rounds.add(&format!("single through the coalescer, {callers} callers"), round);
        }
    }
    Ok(json!({ "variants": rounds.rows() }))
}

async fn refill(store: &Bed, stock: &Stock, count: usize) -> anyhow::Result<()> {
    server::empty(store).await?;
    stock.fill(store, count).await
}
