//! `schedule`: single calls through the coalescer, plain single calls, and batches.

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::context::Context;
use super::figures::{Round, Rounds};
use super::load::{Clock, DELAY, Stock, bulk, share, warm_store, warm_store_by};
use super::{limit, server};
use crate::bench::context::Bed;
use warmproof::domain::verification::NewVerification;
use warmproof::scheduler::{Hit, Scheduler};

/// Connections of a product process with default settings.
const PRODUCT_CONNECTIONS: u32 = 6;
/// Callers of single calls without a coalescer, each with its own connection.
const PLAIN_CALLERS: u32 = 16;
/// Callers of single calls.
const CALLERS: [usize; 2] = [16, 256];
/// Rows in a batch.
const BATCHES: [usize; 2] = [100, 256];
/// Connections that batches share.
const CONNECTIONS: [u32; 3] = [1, 2, 4];

const PLAIN: &str = "plain single-row, 16 callers";
/// Differences of the platform's clock from the database's that are to cost nothing, in milliseconds.
const SKEWS_MS: [i64; 2] = [-4500, 4500];

fn coalesced(callers: usize) -> String {
    format!("single through the coalescer, {callers} callers")
}

fn skewed(skew_ms: i64) -> String {
    format!("{}, platform's clock {skew_ms:+} ms", coalesced(CALLERS[1]))
}

fn batched(size: usize, connections: u32) -> String {
    format!("batches of {size}, {connections} connections")
}

/// The hit that a supervisor would report; its dispatch is dated now.
fn hit(stock_clock: Clock, mut new: NewVerification) -> Hit {
    new.dispatch.dequeued_at = stock_clock.dequeued_at();
    let hit = Hit::new(new.dispatch).pool(new.pool);
    let hit = match new.supervisor {
        Some(supervisor) => hit.supervisor(supervisor),
        None => hit,
    };
    match new.region {
        Some(region) => hit.region(region),
        None => hit,
    }
}

/// Single calls through the library, as a supervisor makes them.
///
/// # Errors
/// The database refused.
pub async fn singles(
    scheduler: &Scheduler,
    stock: &Stock,
    count: usize,
    callers: usize,
) -> anyhow::Result<Round> {
    singles_by(stock.clock(), scheduler, stock, count, callers).await
}

async fn singles_by(
    clock: Clock,
    scheduler: &Scheduler,
    stock: &Stock,
    count: usize,
    callers: usize,
) -> anyhow::Result<Round> {
    let scheduler = scheduler.clone();
    share(stock.take(count), callers, move |new| {
        let scheduler = scheduler.clone();
        async move {
            scheduler.schedule(hit(clock, new)).await?;
            Ok(1)
        }
    })
    .await
}

async fn batches(
    store: &Bed,
    stock: &Stock,
    count: usize,
    size: usize,
    callers: u32,
) -> anyhow::Result<Round> {
    let (store, clock) = (store.clone(), stock.clock());
    share(stock.batches(count, size), callers as usize, move |batch| bulk(store.clone(), clock, batch)).await
}

/// Measures all ways to schedule, and the single-row commit limit for comparison.
///
/// # Errors
/// The server refused.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let (few, many) = (context.pick(4_000, 20_000), context.pick(20_000, 100_000));
    let admin = context.fresh_store(1).await?;
    let stock = Stock::make(&admin, many).await?;
    let commits = limit::commit_store(context, &stock).await?;
    server::empty(&admin).await?;
    let plain = warm_store(context, PLAIN_CALLERS, &stock).await?;
    server::empty(&admin).await?;
    let product = warm_store(context, PRODUCT_CONNECTIONS, &stock).await?;
    let scheduler = Scheduler::new(&product, DELAY);
    // A process learns the skew of its platform, so each has a store of its own.
    let mut skewed_ones = Vec::new();
    for skew_ms in SKEWS_MS {
        server::empty(&admin).await?;
        let clock = stock.clock().skewed(TimeDelta::milliseconds(skew_ms));
        let store = warm_store_by(clock, context, PRODUCT_CONNECTIONS, &stock).await?;
        skewed_ones.push((clock, skewed(skew_ms), Scheduler::new(&store, DELAY)));
    }
    let mut stores = Vec::new();
    for connections in CONNECTIONS {
        server::empty(&admin).await?;
        stores.push((connections, warm_store(context, connections, &stock).await?));
    }

    let mut rounds = Rounds::default();
    for _ in 0..context.rounds {
        server::empty_pending(&admin).await?;
        rounds.add(limit::COMMITS, limit::commits(&commits, stock.take(few), stock.clock()).await?);
        server::empty_pending(&admin).await?;
        rounds.add(PLAIN, batches(&plain, &stock, few, 1, PLAIN_CALLERS).await?);
        for callers in CALLERS {
            server::empty_pending(&admin).await?;
            let count = if callers < 100 { few } else { many };
            rounds.add(&coalesced(callers), singles(&scheduler, &stock, count, callers).await?);
        }
        for (clock, variant, scheduler) in &skewed_ones {
            server::empty_pending(&admin).await?;
            rounds.add(variant, singles_by(*clock, scheduler, &stock, many, CALLERS[1]).await?);
        }
        for size in BATCHES {
            for (connections, store) in &stores {
                server::empty_pending(&admin).await?;
                rounds.add(
                    &batched(size, *connections),
                    batches(store, &stock, many, size, *connections).await?,
                );
            }
        }
    }
    Ok(report(&rounds))
}

fn report(rounds: &Rounds) -> Value {
    let bulks: Vec<String> =
        BATCHES.iter().flat_map(|size| CONNECTIONS.iter().map(|count| batched(*size, *count))).collect();
    let best = rounds.best(&bulks.iter().map(String::as_str).collect::<Vec<_>>());
    let single = coalesced(CALLERS[1]);
    // 256 callers have 256 rows in flight, as has one connection with batches of 256; four have 1024.
    let as_many = batched(BATCHES[1], CONNECTIONS[0]);
    json!({
        "variants": rounds.rows(),
        "best_bulk": best,
        "single_to_bulk_with_as_many_under_way": rounds.ratio(&single, &as_many),
        "skewed_to_single": SKEWS_MS.map(|skew_ms| rounds.ratio(&skewed(skew_ms), &single)),
        "bars": {
            "single_to_bulk": best.and_then(|best| rounds.ratio(&single, best)),
            "single_p99_ms": rounds.call(&single, |calls| calls.p99),
            "plain_to_commit_limit": rounds.ratio(PLAIN, limit::COMMITS),
        },
    })
}
