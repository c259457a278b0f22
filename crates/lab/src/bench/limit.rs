//! `limit`: how fast the server alone can process the same rows; see `limit.sql`.

#![expect(clippy::disallowed_methods, reason = "the statements are in `limit.sql` and use a staging table")]

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::context::Context;
use super::figures::{Round, Rounds, median, millis, per_second};
use super::load::{Clock, Stock, share};
use super::server;
use super::spent::Meter;
use crate::bench::context::Bed;
use warmproof::config::database::CompressionConfig;
use warmproof::domain::ids::VerificationId;
use warmproof::domain::verification::NewVerification;
use warmproof::store::codec;

const SQL: &str = include_str!("limit.sql");

/// Rows in one statement.
const STATEMENT_ROWS: usize = 50_000;
/// Most backends at a time.
const BACKENDS_MAX: usize = 2;
/// Any value is valid: there is no other claimer.
const FENCE: i64 = 7;
/// How many different messages there are; the staging table repeats each equally often.
const MESSAGES: usize = 10_000;
/// Callers that measure the single-row commit limit.
pub const COMMIT_CALLERS: u32 = 16;

/// The steps of a life, in their order.
const STEPS: [&str; 4] = ["schedule", "cancel", "claim", "settle"];

/// Names of the variants; other phases compare with them, too.
pub const ONE_BACKEND: &str = "life in the server, 1 backend";
/// The same with two.
pub const TWO_BACKENDS: &str = "life in the server, 2 backends";
/// One-row inserts, each its own commit.
pub const COMMITS: &str = "single-row commits, 16 connections";

/// The text of one step of `limit.sql`.
fn step(name: &str) -> anyhow::Result<&'static str> {
    SQL.split("-- step: ")
        .skip(1)
        .find_map(|step| {
            let (title, text) = step.split_once('\n')?;
            let title = title.split(" (").next()?;
            (title == name).then_some(text)
        })
        .with_context(|| format!("limit.sql has no step `{name}`"))
}

/// The staging table, and its connections.
#[derive(Debug)]
pub struct Limit {
    store: Bed,
}

impl Limit {
    /// Schedules some messages through the product and stages copies of them. Empties the tables.
    ///
    /// # Errors
    /// The server refused.
    pub async fn stage(context: &Context) -> anyhow::Result<Self> {
        let store = context.plain_store(u32::try_from(BACKENDS_MAX)?).await?;
        server::empty(&store).await?;
        Stock::make(&store, MESSAGES).await?.fill(&store, MESSAGES).await?;
        sqlx::query(step("stage")?).execute(store.db()).await?;
        sqlx::query(step("stage rows")?)
            .bind(i64::try_from(STATEMENT_ROWS * BACKENDS_MAX / MESSAGES)?)
            .execute(store.db())
            .await?;
        sqlx::raw_sql("analyze staged").execute(store.db()).await?;
        server::empty(&store).await?;
        Ok(Self { store })
    }

    /// One life of a large batch on each of this many concurrent backends; also returns each step's time.
    ///
    /// # Errors
    /// The server refused, or rows are missing afterwards.
    pub async fn life(&self, backends: usize) -> anyhow::Result<(Round, Vec<Duration>)> {
        server::empty(&self.store).await?;
        let mut lives = JoinSet::new();
        let meter = Meter::start(self.store.db()).await?;
        let begin = Instant::now();
        for backend in 0..backends {
            lives.spawn(one_life(self.store.clone(), backend));
        }
        let mut steps = vec![Duration::ZERO; STEPS.len()];
        while let Some(life) = lives.join_next().await {
            for (sum, took) in steps.iter_mut().zip(life??) {
                *sum += took / u32::try_from(backends)?;
            }
        }
        let rows = STATEMENT_ROWS * backends;
        let round =
            Round { per_second: per_second(rows, begin.elapsed()), calls: None, cpu: meter.stop(rows) };
        server::expect_all_ended(&self.store, rows).await?;
        server::empty(&self.store).await?;
        Ok((round, steps))
    }
}

async fn one_life(store: Bed, backend: usize) -> anyhow::Result<Vec<Duration>> {
    let mut connection = store.db().acquire().await?;
    let first = i64::try_from(backend * STATEMENT_ROWS)? + 1;
    let last = first + i64::try_from(STATEMENT_ROWS)? - 1;
    sqlx::query(step("settings")?).execute(&mut *connection).await?;
    let mut took = Vec::new();
    for name in STEPS {
        let begin = Instant::now();
        let text = step(name)?;
        let mut query = sqlx::query(text).bind(format!("limit-{backend}")).bind(first).bind(last);
        if text.contains("$4") {
            query = query.bind(FENCE);
        }
        query.execute(&mut *connection).await.with_context(|| format!("step `{name}` failed"))?;
        took.push(begin.elapsed());
    }
    Ok(took)
}

/// A store for [`commits`] whose connections have prepared the statement.
///
/// # Errors
/// The server refused.
pub async fn commit_store(context: &Context, stock: &Stock) -> anyhow::Result<Bed> {
    let store = context.plain_store(COMMIT_CALLERS).await?;
    commits(&store, stock.take(COMMIT_CALLERS as usize * 8), stock.clock()).await?;
    Ok(store)
}

/// Single-row inserts, each its own commit, without the product's rules; messages are encoded beforehand.
///
/// # Errors
/// The server refused.
pub async fn commits(store: &Bed, news: Vec<NewVerification>, clock: Clock) -> anyhow::Result<Round> {
    let encoded = news.into_iter().map(|new| {
        let message = new.dispatch.message.get().as_bytes();
        let (codec, bytes) = codec::encode(message, &CompressionConfig::default());
        let bytes = bytes.into_owned();
        (new, codec, bytes)
    });
    let items: Vec<_> = encoded.collect();
    let text = step("one row")?;
    let store = store.clone();
    share(items, COMMIT_CALLERS as usize, move |(new, codec, bytes)| {
        let db = store.db().clone();
        async move {
            let dispatch = &new.dispatch;
            sqlx::query(text)
                .bind(VerificationId::fresh().0)
                .bind(dispatch.run_id.as_str())
                .bind(dispatch.snapshot_id.as_str())
                .bind(new.supervisor.as_ref())
                .bind(new.region.as_ref())
                .bind(dispatch.deployment_version.as_deref())
                .bind(clock.dequeued_at())
                .bind(dispatch.traceparent.as_deref())
                .bind(codec)
                .bind(bytes)
                .execute(&db)
                .await?;
            Ok(1)
        }
    })
    .await
}

/// Measures the limits alone.
///
/// # Errors
/// The server refused.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let store = context.fresh_store(1).await?;
    let count = context.pick(5_000, 30_000);
    let stock = Stock::make(&store, count).await?;
    let limit = Limit::stage(context).await?;
    let single = commit_store(context, &stock).await?;
    let mut rounds = Rounds::default();
    let mut steps: Vec<Vec<f64>> = vec![Vec::new(); STEPS.len()];
    for _ in 0..context.rounds {
        let (round, took) = limit.life(1).await?;
        rounds.add(ONE_BACKEND, round);
        for (all, took) in steps.iter_mut().zip(took) {
            all.push(millis(took));
        }
        rounds.add(TWO_BACKENDS, limit.life(2).await?.0);
        server::empty_pending(&store).await?;
        rounds.add(COMMITS, commits(&single, stock.take(count), stock.clock()).await?);
    }
    let step_ms: serde_json::Map<_, _> =
        STEPS.iter().zip(steps).map(|(name, all)| ((*name).to_owned(), json!(median(all)))).collect();
    Ok(json!({
        "rows_per_statement": STATEMENT_ROWS,
        "variants": rounds.rows(),
        "step_ms_1_backend": step_ms,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_in_the_file() {
        for name in STEPS.into_iter().chain(["stage", "stage rows", "settings", "one row"]) {
            assert!(step(name).is_ok_and(|text| !text.contains("-- step:")), "{name}");
        }
        assert!(step("another").is_err());
    }
}
