//! `wal`: bytes of WAL per verification for each step and codec, and the CPU time of each codec.
//!
//! One connection, batches, no other load, no checkpoint in between: the figure is what the
//! statements themselves write. In production, full-page images after a checkpoint are added.

use anyhow::Context as _;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::context::Context;
use super::figures::median;
use super::life::{BATCH, claim, settle};
use super::load::{Stock, bulk, cancellation};
use super::{process, server};
use crate::bench::context::Bed;
use warmproof::config::database::{Codec, CompressionConfig};
use warmproof::domain::claim::REDRIVE_DEFAULT;
use warmproof::domain::ids::{PoolName, WorkerName};
use warmproof::store::claim::Wanted;
use warmproof::store::codec;

/// The compared codecs; each compresses all messages, even short ones.
const CODECS: [(&str, Codec); 2] = [("raw", Codec::Raw), ("zstd", Codec::Zstd)];

/// What the product writes by default.
const DEFAULT: &str = "zstd";

/// WAL bytes of each step, for all rows together.
#[derive(Clone, Copy)]
struct Steps {
    schedule: i64,
    cancel: i64,
    claim: i64,
    settle: i64,
}

async fn steps(store: &Bed, stock: &Stock, count: usize) -> anyhow::Result<Steps> {
    let db = store.db();
    server::empty(store).await?;
    let begin = server::wal_bytes(db).await?;
    let batches = stock.batches(count, BATCH);
    let cancellations: Vec<_> = (0_usize..)
        .zip(batches.iter().flatten())
        .filter(|(n, _)| n % 10 != 0)
        .map(|(_, new)| cancellation(new))
        .collect();
    for batch in batches {
        bulk(store.clone(), stock.clock(), batch).await?;
    }
    let scheduled = server::wal_bytes(db).await?;
    for batch in cancellations.chunks(BATCH) {
        let _ = store.cancel(batch).await?;
    }
    let cancelled = server::wal_bytes(db).await?;
    let (mut claims, mut rng, worker) = (Vec::new(), StdRng::seed_from_u64(1), WorkerName::parse("bench")?);
    let wanted = Wanted {
        pool: PoolName::default_pool(),
        low: None,
        high: None,
        quota: u32::try_from(BATCH)?,
        redrive: REDRIVE_DEFAULT,
    };
    loop {
        let batch = claim(store, &wanted, &mut rng, &worker).await?;
        if batch.is_empty() {
            break;
        }
        claims.push(batch);
    }
    let claimed = server::wal_bytes(db).await?;
    for batch in claims {
        settle(store, batch).await?;
    }
    let settled = server::wal_bytes(db).await?;
    server::expect_all_ended(store, count).await?;
    Ok(Steps {
        schedule: scheduled - begin,
        cancel: cancelled - scheduled,
        claim: claimed - cancelled,
        settle: settled - claimed,
    })
}

/// Mean stored size, and CPU time to encode one message in microseconds.
fn encoding(messages: &[String], config: &CompressionConfig) -> (f64, Option<f64>) {
    let begin = process::thread_cpu_nanos();
    let bytes: usize = messages.iter().map(|message| codec::encode(message.as_bytes(), config).1.len()).sum();
    let nanos = process::thread_cpu_nanos().zip(begin).map(|(end, begin)| end - begin);
    let count = mean_of(messages.len());
    (mean_of(bytes) / count, nanos.map(|nanos| mean_of(usize::try_from(nanos).unwrap_or(0)) / count / 1000.0))
}

#[expect(clippy::cast_precision_loss, reason = "bytes and counts of a benchmark are far below 2^52")]
fn mean_of(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a benchmark are far below 2^52")]
fn each(bytes: i64, rows: usize) -> f64 {
    (bytes as f64 / mean_of(rows)).round()
}

fn row(name: &str, steps: &Steps, count: usize, (stored, cpu): (f64, Option<f64>)) -> Value {
    let executed = count.div_ceil(10);
    let total = steps.schedule + steps.cancel + steps.claim + steps.settle;
    json!({
        "codec": name,
        "per_verification": each(total, count),
        "per_schedule": each(steps.schedule, count),
        "per_cancel": each(steps.cancel, count - executed),
        "per_claim": each(steps.claim, executed),
        "per_settle": each(steps.settle, executed),
        "stored_bytes": stored.round(),
        "encode_cpu_us": cpu.map(|us| (us * 10.0).round() / 10.0),
    })
}

/// Medians of each step over rounds: a claim writes more when an open snapshot prevents pruning of its page.
fn medians(rounds: &[Steps]) -> Option<Steps> {
    let middle = |step: fn(&Steps) -> i64| {
        let mut all: Vec<i64> = rounds.iter().map(step).collect();
        all.sort_unstable();
        all.get(all.len().checked_sub(1)? / 2).copied()
    };
    Some(Steps {
        schedule: middle(|steps| steps.schedule)?,
        cancel: middle(|steps| steps.cancel)?,
        claim: middle(|steps| steps.claim)?,
        settle: middle(|steps| steps.settle)?,
    })
}

/// Measures every codec.
///
/// # Errors
/// The server refused.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let count = context.pick(10_000, 50_000);
    let store = context.fresh_store(1).await?;
    let stock = Stock::make(&store, count).await?;
    let messages: Vec<String> =
        stock.take(2_000).iter().map(|new| new.dispatch.message.get().to_owned()).collect();
    let length = mean_of(messages.iter().map(String::len).sum()) / mean_of(messages.len());
    server::checkpoint(store.db()).await?;
    let configs = CODECS.map(|(name, codec)| (name, CompressionConfig { codec, above_bytes: 0 }));
    let mut rounds: Vec<Vec<Steps>> = vec![Vec::new(); configs.len()];
    for _ in 0..context.rounds {
        for ((_, config), measured) in configs.iter().zip(&mut rounds) {
            measured.push(steps(&store.with_compression(*config), &stock, count).await?);
        }
    }
    let mut rows = Vec::new();
    let mut bar = None;
    for ((name, config), measured) in configs.into_iter().zip(rounds) {
        let messages = messages.clone();
        let cost = tokio::task::spawn_blocking(move || {
            let rounds: Vec<_> = (0..5).map(|_| encoding(&messages, &config)).collect();
            (rounds[0].0, median(rounds.into_iter().filter_map(|round| round.1).collect()))
        })
        .await?;
        let measured = medians(&measured).context("no round was requested")?;
        let row = row(name, &measured, count, cost);
        if name == DEFAULT {
            bar = Some(row["per_verification"].clone());
        }
        rows.push(row);
    }
    Ok(json!({
        "rows": count,
        "cancelled": 0.9,
        "message_bytes": length.round(),
        "bytes": rows,
        "bars": { "wal_bytes": bar },
    }))
}
