//! `depth`: what a claim on a live pool costs beside rows that are none of its business.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::claimer;
use super::context::{Context, Scale};
use super::figures::Percentiles;
use super::fleet::Fleet;
use super::message::Dispatches;
use super::pace::Pace;
use super::rows::{self, Draft, Naming};
use super::server;
use crate::bench::context::Bed;

const RATE: u32 = 1000;
/// From the first insert to the first due time.
const LEAD: Duration = Duration::from_secs(2);
/// How long all rows over a cap may take to be looked at once, and how often that is asked.
const TOLD_MAX: Duration = Duration::from_mins(3);
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// What the background worker's null probe sees: the snapshot of every waiting row, so each look is a loss.
const LOST_SNAPSHOT: &str = "snapshot_deep";

/// Rows beside the live pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// Due far in the future, in the live pool itself.
    Future(i64),
    /// Overdue in a paused pool.
    Paused(i64),
    /// Lost and over the cap of their pool, looked at again and again by a worker of that pool.
    Capped(i64),
    /// 200 000 of the one and 50 000 of the other.
    Elsewhere,
}

/// Runs the phase.
///
/// # Errors
/// The server or a process failed.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let mut sides = vec![("empty", Beside::Nothing), ("paused_200k_overdue", Beside::Paused(200_000))];
    // Telling 50 000 losses to wait, and laying millions of rows, takes longer than a quick run may.
    if context.scale == Scale::Full {
        sides.extend([
            ("capped_50k_lost", Beside::Capped(50_000)),
            ("overdue_elsewhere", Beside::Elsewhere),
            ("future_1m", Beside::Future(1_000_000)),
            ("future_8m", Beside::Future(8_000_000)),
            // The machine may have changed meanwhile: the base is the mean of both.
            ("empty_again", Beside::Nothing),
        ]);
    }
    let mut figures = Vec::new();
    for (name, beside) in sides {
        let (claims, claimed) = one(context, beside).await?;
        figures.push((name, beside, claims, claimed));
    }
    let empty: Vec<Percentiles> = figures
        .iter()
        .filter(|(_, beside, ..)| *beside == Beside::Nothing)
        .map(|(_, _, claims, _)| *claims)
        .collect();
    let base = |figure: fn(&Percentiles) -> f64| mean(&empty.iter().map(figure).collect::<Vec<_>>());
    let (base_p50, base_p99) = (base(|claims| claims.p50), base(|claims| claims.p99));
    let mut measured = serde_json::Map::new();
    for (name, _, claims, claimed) in figures {
        measured.insert(
            name.to_owned(),
            json!({
                "claim_ms": claims, "rows_claimed": claimed,
                "p50_over_empty": claims.p50 / base_p50, "p99_over_empty": claims.p99 / base_p99,
            }),
        );
    }
    let ratio =
        |name: &str| measured.get(name).map_or(Value::Null, |side: &Value| side["p99_over_empty"].clone());
    let bars = json!({
        "claim_p99_future_ratio": ratio("future_8m"),
        "claim_p99_overdue_ratio": ratio("overdue_elsewhere"),
    });
    measured.insert("bars".to_owned(), bars);
    Ok(Value::Object(measured))
}

#[expect(clippy::cast_precision_loss, reason = "two figures or one")]
fn mean(figures: &[f64]) -> f64 {
    figures.iter().sum::<f64>() / figures.len() as f64
}

async fn one(context: &Context, beside: Beside) -> anyhow::Result<(Percentiles, usize)> {
    let store = context.fresh_store(3).await?;
    let fleet = lay_beside(context, &store, beside).await?;
    // What is measured is a claim beside these rows, not the work that laying gigabytes at once leaves behind.
    server::checkpoint(store.db()).await?;
    let seconds = context.pick(3, 20);
    let pace = Pace { rate: RATE, seconds, group: 1 };
    let drafts: Vec<Draft> =
        rows::drafts(&mut Dispatches::new(3, 0), rows::clock(store.db()).await?, pace.count());
    let start_at = rows::clock(store.db()).await? + TimeDelta::from_std(LEAD)?;
    rows::insert(store.db(), &drafts, start_at, pace, Naming::Own).await?;
    tokio::time::sleep((start_at - rows::clock(store.db()).await?).to_std().unwrap_or_default()).await;
    let claims = claimer::claim_for(&store, Duration::from_secs(u64::from(seconds))).await?;
    if let Some(fleet) = fleet {
        fleet.stop().await?;
    }
    store.close().await;
    let figures = Percentiles::of(claims.took_ms).ok_or_else(|| anyhow::anyhow!("nothing was claimed"))?;
    Ok((figures, claims.rows))
}

async fn lay_beside(context: &Context, store: &Bed, beside: Beside) -> anyhow::Result<Option<Fleet>> {
    let db = store.db();
    match beside {
        Beside::Nothing => Ok(None),
        Beside::Future(count) => {
            // At the longest delay a row is due within the minute, so these are moved on as held rows are.
            fill(db, "default", count, "clock_timestamp() + interval '1 hour'", "null").await?;
            Ok(None)
        }
        Beside::Paused(count) => {
            paused(db, count).await?;
            Ok(None)
        }
        Beside::Capped(count) => Ok(Some(capped(context, db, count).await?)),
        Beside::Elsewhere => {
            paused(db, 200_000).await?;
            Ok(Some(capped(context, db, 50_000).await?))
        }
    }
}

async fn paused(db: &PgPool, count: i64) -> anyhow::Result<()> {
    pool(db, "paused", true, None).await?;
    fill(db, "paused", count, "clock_timestamp() - interval '5 min'", "null").await
}

async fn capped(context: &Context, db: &PgPool, count: i64) -> anyhow::Result<Fleet> {
    pool(db, "capped", false, Some(0)).await?;
    fill(db, "capped", count, "clock_timestamp()", "clock_timestamp()").await?;
    let probe = ["--snapshot", LOST_SNAPSHOT];
    let fleet = Fleet::workers(context, 1, &probe, &[("WARMPROOF_POOLS", "capped")]).await?;
    // Each is looked at once and told to wait; from then on it is a row that waits over the cap.
    let waiting = "select count(*) from pending where pool = 'capped' and last_error = 'held: cap'";
    let reported = tokio::time::timeout(TOLD_MAX, async {
        loop {
            #[expect(clippy::disallowed_methods, reason = "a benchmark's own set-up")]
            let now: i64 = sqlx::query_scalar(waiting).fetch_one(db).await?;
            if now >= count {
                return anyhow::Ok(());
            }
            tokio::time::sleep(CHECK_EVERY).await;
        }
    });
    reported.await.map_err(|_| anyhow::anyhow!("not all rows were looked at"))??;
    Ok(fleet)
}

async fn pool(db: &PgPool, name: &str, paused: bool, cap: Option<i32>) -> anyhow::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "a benchmark's own set-up")]
    let insert = sqlx::query("insert into pool (name, paused, cap) values ($1, $2, $3)");
    insert.bind(name).bind(paused).bind(cap).execute(db).await?;
    Ok(())
}

/// Rows with small messages, made inside the server, and vacuumed as rows are that have been there for a while.
/// `probe_at` and `lost_at` are expressions of ours.
async fn fill(db: &PgPool, pool: &str, count: i64, probe_at: &str, lost_at: &str) -> anyhow::Result<()> {
    let text = format!(
        "insert into pending (id, run_id, snapshot_id, pool, intent, dequeued_at, scheduled_at, due_at, probe_at,
           lost_at, codec, message)
         select gen_random_uuid(), 'run_' || replace(gen_random_uuid()::text, '-', ''), '{LOST_SNAPSHOT}', $1, 'hit',
           clock_timestamp(), clock_timestamp(), clock_timestamp() + interval '10 s',
           {probe_at} + n * interval '1 microsecond', {lost_at}, 0, '\\x7b7d'
         from generate_series(1, $2) as n"
    );
    #[expect(clippy::disallowed_methods, reason = "a benchmark's own set-up")]
    sqlx::query(sqlx::AssertSqlSafe(text)).bind(pool).bind(count).execute(db).await?;
    #[expect(clippy::disallowed_methods, reason = "a benchmark's own set-up")]
    sqlx::query("vacuum analyze pending").execute(db).await?;
    Ok(())
}
