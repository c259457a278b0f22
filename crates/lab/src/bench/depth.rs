//! `depth`: what a claim on a live pool costs while the table holds many rows that it cannot claim.

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
/// How long the first probe of all rows over a cap may take, and how often this is checked.
const PROBED_MAX: Duration = Duration::from_mins(3);
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// What the background worker's null probe observes: each waiting row's snapshot, so each row is lost.
const LOST_SNAPSHOT: &str = "snapshot_deep";

/// Rows beside the live pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// Due far in the future, in the live pool itself.
    Future(i64),
    /// Overdue in a paused pool.
    Paused(i64),
    /// Lost and over the cap of their pool; a worker of that pool probes them again and again.
    Capped(i64),
    /// 200 000 of the paused kind and 50 000 of the capped kind.
    Elsewhere,
}

/// Runs the phase.
///
/// # Errors
/// The server or a process failed.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let mut sides = vec![("empty", Beside::Nothing), ("paused_200k_overdue", Beside::Paused(200_000))];
    // Deferring 50 000 cold starts and inserting millions of rows takes too long for a quick run.
    if context.scale == Scale::Full {
        sides.extend([
            ("capped_50k_lost", Beside::Capped(50_000)),
            ("overdue_elsewhere", Beside::Elsewhere),
            ("future_1m", Beside::Future(1_000_000)),
            ("future_8m", Beside::Future(8_000_000)),
            // The machine's speed may have changed meanwhile: the base is the mean of both.
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
    // The figure is for a claim beside these rows, not for the aftermath of inserting gigabytes at once.
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
            // With the longest delay a row is due within a minute, so move these later, as held rows are.
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
    // Each row is probed once and then held; from then on it waits over the cap.
    let waiting = "select count(*) from pending where pool = 'capped' and hold_reason = 'cap'";
    let reported = tokio::time::timeout(PROBED_MAX, async {
        loop {
            #[expect(clippy::disallowed_methods, reason = "a benchmark's own set-up")]
            let now: i64 = sqlx::query_scalar(waiting).fetch_one(db).await?;
            if now >= count {
                return anyhow::Ok(());
            }
            tokio::time::sleep(CHECK_EVERY).await;
        }
    });
    reported.await.map_err(|_| anyhow::anyhow!("not all rows were probed"))??;
    Ok(fleet)
}

async fn pool(db: &PgPool, name: &str, paused: bool, cap: Option<i32>) -> anyhow::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "a benchmark's own set-up")]
    let insert = sqlx::query("insert into pool (name, paused, cap) values ($1, $2, $3)");
    insert.bind(name).bind(paused).bind(cap).execute(db).await?;
    Ok(())
}

/// Rows with small messages, made inside the server, then vacuumed as older rows would be.
/// `probe_at` and `lost_at` are SQL expressions from this file.
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
