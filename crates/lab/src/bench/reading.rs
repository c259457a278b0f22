//! `reading`: the reports and pages that people read, over a day of millions of outcomes and a full table.
//!
//! The api's only caller times its answers, so connection and HTTP are included; a command's time
//! includes the start of its process.

use std::process::Stdio;
use std::time::Instant;

use anyhow::Context as _;
use chrono::TimeDelta;
use reqwest::header::{COOKIE, SET_COOKIE};
use serde_json::{Value, json};

use super::context::Context;
use super::figures::{Percentiles, millis};
use super::fleet::{self, API_TOKEN};
use super::process;
use crate::bench::context::Bed;
use crate::product;
use warmproof::store::report::{Latency, LossBy, Step};

/// Rows of a day: nine in ten cancelled by a connect, the rest probed, one in ten of those lost.
const OUTCOMES: &str = include_str!("reading.sql");
const TIMES: usize = 30;

/// What a person or a dashboard requests from the api. `RUN` is a run that has ended.
const PATHS: [&str; 9] = [
    "/v1/pending",
    "/v1/pending?pool=default&status=overdue",
    "/v1/pools",
    "/v1/workers",
    "/v1/audit",
    "/v1/runs/RUN",
    "/v1/reports/silent-loss",
    "/v1/reports/silent-loss?by=supervisor&step=hour",
    "/readyz",
];

/// The pages, for a signed-in person.
const PAGES: [&str; 11] = [
    "/",
    "/pending",
    "/pending?pool=default&status=overdue",
    "/pending?supervisor=supervisor-3",
    "/runs/RUN",
    "/losses",
    "/losses?by=supervisor&since=24h",
    "/losses?by=version&since=7d",
    "/workers",
    "/pools",
    "/audit",
];

/// The same as commands.
const COMMANDS: [&[&str]; 10] = [
    &["pending"],
    &["show", "RUN"],
    &["report"],
    &["report", "--since", "24h", "--by", "supervisor"],
    &["losses"],
    &["losses", "--pool", "quiet"],
    &["pools"],
    &["audit"],
    &["cancel", "--supervisor", "supervisor-3"],
    &["doctor"],
];

/// Runs the phase.
///
/// # Errors
/// The server refused, or an answer was no success.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let outcomes = context.pick(200_000, 10_000_000);
    let pending = context.pick(20_000, 100_000);
    let store = context.fresh_store(3).await?;
    let seeded = Instant::now();
    seed(&store, outcomes, pending).await?;
    let seed_seconds = seeded.elapsed().as_secs_f64();
    #[expect(clippy::disallowed_methods, reason = "a benchmark's own query")]
    let run_id: String = sqlx::query_scalar("select run_id from outcome order by settled_at desc limit 1")
        .fetch_one(store.db())
        .await?;

    let reports = reports(&store).await?;
    let answers = answers(context, &run_id).await?;
    let pages = pages(context, &run_id).await?;
    let commands = commands(context, &run_id).await?;
    let worst =
        |rows: &[(String, Percentiles)]| rows.iter().map(|(_, figures)| p95(figures)).fold(0.0_f64, f64::max);
    let shown = |rows: &[(String, Percentiles)]| -> Vec<Value> {
        rows.iter()
            .map(|(what, figures)| json!({ "what": what, "p50_ms": figures.p50, "p99_ms": figures.p99, "max_ms": figures.max }))
            .collect()
    };
    store.close().await;
    Ok(json!({
        "outcomes": outcomes, "pending": pending, "seed_seconds": seed_seconds,
        "reports": shown(&reports), "answers": shown(&answers), "pages": shown(&pages), "commands": shown(&commands),
        "bars": {
            "report_p95_ms": worst(&reports),
            "answer_p95_ms": worst(&answers).max(worst(&commands)),
            "page_p95_ms": worst(&pages),
        },
    }))
}

/// The 95th percentile of thirty figures lies between two of them; this takes the higher one.
fn p95(figures: &Percentiles) -> f64 {
    figures.p99
}

async fn seed(store: &Bed, outcomes: i64, pending: i64) -> anyhow::Result<()> {
    for statement in OUTCOMES.split("-- next") {
        let statement =
            statement.replace("{outcomes}", &outcomes.to_string()).replace("{pending}", &pending.to_string());
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(store.db()).await?;
    }
    Ok(())
}

/// The library's own reports, without HTTP.
async fn reports(store: &Bed) -> anyhow::Result<Vec<(String, Percentiles)>> {
    let now = store.clock().await?;
    let (hour, day) = (now - TimeDelta::hours(1), now - TimeDelta::days(1));
    let asked = [
        ("losses of an hour by minute", hour, Step::Minute, LossBy::Nothing),
        ("losses of a day by hour", day, Step::Hour, LossBy::Nothing),
        ("losses of a day by hour and supervisor", day, Step::Hour, LossBy::Supervisor),
        ("losses of a day by version", day, Step::Whole, LossBy::DeploymentVersion),
    ];
    let mut rows = Vec::new();
    for (what, since, step, by) in asked {
        let mut took = Vec::with_capacity(TIMES);
        for _ in 0..TIMES {
            let begin = Instant::now();
            let lines = store.losses(since, step, by).await?;
            took.push(millis(begin.elapsed()));
            anyhow::ensure!(!lines.is_empty(), "{what}: nothing was reported");
        }
        rows.push((what.to_owned(), Percentiles::of(took).context("no figure")?));
    }
    let mut took = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let begin = Instant::now();
        let _ = store.latencies(Latency::Connect, day).await?;
        took.push(millis(begin.elapsed()));
    }
    rows.push(("connect latencies of a day".to_owned(), Percentiles::of(took).context("no figure")?));
    Ok(rows)
}

async fn answers(context: &Context, run_id: &str) -> anyhow::Result<Vec<(String, Percentiles)>> {
    let (api, url) = fleet::api(context).await?;
    let client = warmproof::platform::Client::without_credentials()?;
    let mut rows = Vec::new();
    for path in PATHS {
        let address = format!("{url}{}", path.replace("RUN", run_id));
        let mut took = Vec::with_capacity(TIMES);
        for _ in 0..TIMES {
            let begin = Instant::now();
            let answer = client.get(&address).bearer_auth(API_TOKEN).send().await?;
            let status = answer.status();
            answer.bytes().await?;
            took.push(millis(begin.elapsed()));
            anyhow::ensure!(status.is_success(), "{path}: {status}");
        }
        rows.push((path.to_owned(), Percentiles::of(took).context("no figure")?));
    }
    fleet::stop_api(api).await?;
    Ok(rows)
}

async fn pages(context: &Context, run_id: &str) -> anyhow::Result<Vec<(String, Percentiles)>> {
    let (api, url) = fleet::api(context).await?;
    let client = warmproof::platform::Client::without_credentials()?;
    let cookie = sign_in(&client, &url).await?;
    let mut rows = Vec::new();
    for path in PAGES {
        let address = format!("{url}{}", path.replace("RUN", run_id));
        let mut took = Vec::with_capacity(TIMES);
        for _ in 0..TIMES {
            let begin = Instant::now();
            let answer = client.get(&address).header(COOKIE, &cookie).send().await?;
            let status = answer.status();
            answer.bytes().await?;
            took.push(millis(begin.elapsed()));
            anyhow::ensure!(status.is_success(), "{path}: {status}");
        }
        rows.push((format!("page {path}"), Percentiles::of(took).context("no figure")?));
    }
    fleet::stop_api(api).await?;
    Ok(rows)
}

/// Signs in with the form that people use; returns the session's cookie.
async fn sign_in(client: &reqwest::Client, url: &str) -> anyhow::Result<String> {
    let address = format!("{url}/sign-in");
    let asked = client.get(&address).send().await?;
    let cookie = cookie_of(&asked)?;
    let html = asked.text().await?;
    let (_, rest) = html.rsplit_once("name=\"form_token\" value=\"").context("the sign-in has no form")?;
    let form_token = rest.split('"').next().unwrap_or_default();
    let body = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("form_token", form_token), ("token", API_TOKEN)])
        .finish();
    let answer = client.post(&address).header(COOKIE, cookie).body(body).send().await?;
    anyhow::ensure!(answer.status().is_redirection(), "the sign-in was refused: {}", answer.status());
    cookie_of(&answer)
}

fn cookie_of(answer: &reqwest::Response) -> anyhow::Result<String> {
    let line = answer.headers().get(SET_COOKIE).context("no cookie was set")?.to_str()?;
    Ok(line.split(';').next().unwrap_or_default().to_owned())
}

async fn commands(context: &Context, run_id: &str) -> anyhow::Result<Vec<(String, Percentiles)>> {
    let mut rows = Vec::new();
    for words in COMMANDS {
        let arguments: Vec<String> = words.iter().map(|word| word.replace("RUN", run_id)).collect();
        let mut took = Vec::with_capacity(TIMES);
        for _ in 0..TIMES {
            let begin = Instant::now();
            let status = product::command()?
                .args(&arguments)
                .env_clear()
                .envs(process::environment(context))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .await?;
            took.push(millis(begin.elapsed()));
            // The doctor reports a problem for a fleet without workers.
            anyhow::ensure!(status.code().is_some_and(|code| code < 3), "{words:?} failed: {status}");
        }
        rows.push((format!("warmproof {}", words.join(" ")), Percentiles::of(took).context("no figure")?));
    }
    Ok(rows)
}
