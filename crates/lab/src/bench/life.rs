//! `life`: schedule, cancel nine of ten, claim and settle the rest, through the batch API.
//!
//! Each connection works on its own pool and takes the steps in their real order, so a claim skips the
//! index entries of rows that were cancelled before, as in production. Rounds alternate between this
//! life and the same life inside the server, and the ratio is taken within each round.

use std::time::Duration;

use chrono::TimeDelta;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::context::Context;
use super::figures::{Round, Rounds, per_second};
use super::limit::{Limit, ONE_BACKEND, TWO_BACKENDS};
use super::load::{Clock, Stock, bulk, cancellation, warm_store};
use super::server;
use super::spent::Meter;
use crate::bench::context::Bed;
use warmproof::domain::claim::{Claim, Fence, REDRIVE_DEFAULT};
use warmproof::domain::ids::{PoolName, WorkerName};
use warmproof::domain::outcome::{Ending, Settled, Settlement};
use warmproof::domain::pool::PoolSettings;
use warmproof::domain::verdict::Acted;
use warmproof::domain::verification::NewVerification;
use warmproof::store::claim::{ClaimTerms, Wanted};

/// Rows in a batch: the most that the product sends.
pub const BATCH: usize = 256;
/// Numbers of concurrent connections; a quick run uses only the last, which is nearly always the fastest.
const CONNECTIONS: [u32; 3] = [2, 3, 4];
/// Schedules before a claim: enough for one full batch of the rest.
const SCHEDULES_PER_CLAIM: usize = 10;

/// Longer than the loads' delay, so that all rows are claimable at once.
const HORIZON: Duration = Duration::from_mins(1);
/// How far the watermark lags: as far as a worker's.
const WATERMARK_MARGIN: TimeDelta = TimeDelta::milliseconds(500);

fn name(connections: u32) -> String {
    format!("life through the batch API, {connections} connections")
}

/// Claims a batch of a pool with the product's statement, for any due time.
///
/// # Errors
/// The database refused.
pub async fn claim(
    store: &Bed,
    wanted: &Wanted,
    rng: &mut StdRng,
    worker: &WorkerName,
) -> anyhow::Result<Vec<Claim>> {
    let terms = ClaimTerms { fence: Fence::fresh(rng), worker, lease: HORIZON, horizon: HORIZON };
    Ok(store.claim(std::slice::from_ref(wanted), terms).await?)
}

/// Settles the claimed rows as delivered.
///
/// # Errors
/// The database refused, or a fence had moved.
pub async fn settle(store: &Bed, claims: Vec<Claim>) -> anyhow::Result<()> {
    let ending = Ending::Delivered { acted: Acted::Started, warm_start: true };
    let settlements = claims.into_iter().map(|claim| Settlement {
        key: claim.key,
        ending: ending.clone(),
        probes: 1,
        probe_ms: Some(0),
        late: false,
        workload: None,
    });
    for answer in store.settle(&settlements.collect::<Vec<_>>()).await? {
        anyhow::ensure!(matches!(answer?, Settled::Recorded(_)), "a settle of our own claim was stale");
    }
    Ok(())
}

async fn claim_and_settle(store: &Bed, wanted: &mut Wanted, rng: &mut StdRng) -> anyhow::Result<usize> {
    let worker = WorkerName::parse("bench")?;
    let claims = claim(store, wanted, rng, &worker).await?;
    let count = claims.len();
    wanted.low = claims.iter().map(|claim| claim.probe_at).min().map(|least| least - WATERMARK_MARGIN);
    if count > 0 {
        settle(store, claims).await?;
    }
    Ok(count)
}

/// The whole life of one connection's batches.
async fn live(
    store: Bed,
    clock: Clock,
    pool: PoolName,
    batches: Vec<Vec<NewVerification>>,
) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(1);
    let quota = u32::try_from(BATCH)?;
    let mut wanted = Wanted { pool, low: None, high: None, quota, redrive: REDRIVE_DEFAULT };
    for (index, batch) in batches.into_iter().enumerate() {
        let cancelled = batch.iter().enumerate().filter(|(n, _)| n % 10 != 0);
        let cancellations: Vec<_> = cancelled.map(|(_, new)| cancellation(new)).collect();
        bulk(store.clone(), clock, batch).await?;
        let _ = store.cancel(&cancellations).await?;
        if index % SCHEDULES_PER_CLAIM == SCHEDULES_PER_CLAIM - 1 {
            claim_and_settle(&store, &mut wanted, &mut rng).await?;
        }
    }
    while claim_and_settle(&store, &mut wanted, &mut rng).await? > 0 {}
    Ok(())
}

async fn lives(store: &Bed, stock: &Stock, count: usize, connections: u32) -> anyhow::Result<Round> {
    server::empty(store).await?;
    let pools =
        (0..connections).map(|n| PoolName::parse(format!("bench-{n}"))).collect::<Result<Vec<_>, _>>()?;
    let known: Vec<_> = pools.iter().map(|pool| (pool.clone(), PoolSettings::default())).collect();
    store.ensure_pools(&known).await?;
    let mut shares: Vec<Vec<Vec<NewVerification>>> = vec![Vec::new(); pools.len()];
    for (index, mut batch) in stock.batches(count, BATCH).into_iter().enumerate() {
        let owner = index % pools.len();
        for new in &mut batch {
            new.pool = pools[owner].clone();
        }
        shares[owner].push(batch);
    }
    let mut tasks = JoinSet::new();
    let meter = Meter::start(store.db()).await?;
    let begin = Instant::now();
    for (pool, batches) in pools.into_iter().zip(shares) {
        tasks.spawn(live(store.clone(), stock.clock(), pool, batches));
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let round = Round { per_second: per_second(count, begin.elapsed()), calls: None, cpu: meter.stop(count) };
    server::expect_all_ended(store, count).await?;
    Ok(round)
}

/// Measures life through the library's batch calls and in the server, in turns.
///
/// # Errors
/// The server refused, or a verification is missing afterwards.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let count = context.pick(50_000, 200_000);
    let admin = context.fresh_store(1).await?;
    let stock = Stock::make(&admin, count).await?;
    let limit = Limit::stage(context).await?;
    let mut stores = Vec::new();
    let lived = &CONNECTIONS[context.pick(CONNECTIONS.len() - 1, 0)..];
    for &connections in lived {
        server::empty(&admin).await?;
        stores.push((connections, warm_store(context, connections, &stock).await?));
    }
    let mut rounds = Rounds::default();
    for _ in 0..context.rounds {
        rounds.add(ONE_BACKEND, limit.life(1).await?.0);
        rounds.add(TWO_BACKENDS, limit.life(2).await?.0);
        for (connections, store) in &stores {
            rounds.add(&name(*connections), lives(store, &stock, count, *connections).await?);
        }
    }
    let ours: Vec<String> = lived.iter().map(|connections| name(*connections)).collect();
    let best = rounds.best(&ours.iter().map(String::as_str).collect::<Vec<_>>());
    let limit = rounds.best(&[ONE_BACKEND, TWO_BACKENDS]);
    Ok(json!({
        "rows": count,
        "cancelled": 0.9,
        "variants": rounds.rows(),
        "best": best,
        "best_limit": limit,
        "bars": { "life_to_limit": best.zip(limit).and_then(|(best, limit)| rounds.ratio(best, limit)) },
    }))
}
