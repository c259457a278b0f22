//! `warmproof-lab bench`: measures the product against the limit of the server itself.

mod machine;
mod table;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::bench::check::{BARS, Judgement};
use crate::bench::{self, Context, Scale, server};
use crate::postgres::discovery::Discovery;
use crate::postgres::{Home, Options, PrivatePostgres};

/// Options of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Small loads, under two minutes in all, without `reading` and `neighbour`; the default
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Loads as long as the figures need
    #[arg(long)]
    full: bool,
    /// Only these phases, separated by commas; by default all of the scale
    #[arg(long, value_enum, value_delimiter = ',')]
    phases: Vec<Phase>,
    /// Print one JSON document on stdout, and the tables on stderr
    #[arg(long)]
    json: bool,
    /// Measure this server, in a schema of its own that is dropped first, instead of a private one
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// How often each variant is measured, in turns; by default 1, or 5 in a full run
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
    /// Measure nothing: compare the JSON document of a run with the bars
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "full", "phases", "json", "database_url", "rounds"])]
    check: Option<PathBuf>,
}

impl BenchArgs {
    /// Pages and reports over few outcomes show nothing, nor does lateness over few probes, so a quick run skips them
    /// unless they are named.
    fn wants(&self, phase: Phase) -> bool {
        match self.phases.as_slice() {
            [] => self.full || !matches!(phase, Phase::Reading | Phase::Neighbour),
            named => named.contains(&phase),
        }
    }
}

/// Parts of a run, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Phase {
    /// The same row life inside the server, and single-row commits
    Limit,
    /// Single calls through the coalescer, plain ones, and batches
    Schedule,
    /// Cancels in batches and through the coalescer
    Cancel,
    /// A worker drains due rows: claim, dispatch, null probe, settle
    Execute,
    /// Verifications through the batch API, 90 % cancelled, compared with the limit
    Life,
    /// WAL bytes per verification by step and codec, CPU per message
    Wal,
    /// Queries and CPU of an idle worker
    Idle,
    /// Memory of a worker and an API with a full table
    Memory,
    /// How late probes are, by rate, worker processes and shape, compared with bare timers
    Lag,
    /// How late the probes of a pool are beside another one whose platform is slow, and without it
    Neighbour,
    /// Many rows due in one instant, with real HTTP probes
    Burst,
    /// Real HTTP probes at a steady rate, and against a slow platform
    Probe,
    /// Claims while millions of rows are pending: future, overdue and waiting ones
    Depth,
    /// The same load with and without a snapshot held open
    Held,
    /// Single schedule and cancel calls through the API, nine in ten cancelled
    CancelHeavy,
    /// Schedules through the API, compared with the library
    Http,
    /// Reports, answers and commands over a day of many outcomes
    Reading,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Schedule => "schedule",
            Self::Cancel => "cancel",
            Self::Execute => "execute",
            Self::Life => "life",
            Self::Wal => "wal",
            Self::Idle => "idle",
            Self::Memory => "memory",
            Self::Lag => "lag",
            Self::Neighbour => "neighbour",
            Self::Burst => "burst",
            Self::Probe => "probe",
            Self::Depth => "depth",
            Self::Held => "held",
            Self::CancelHeavy => "cancel_heavy",
            Self::Http => "http",
            Self::Reading => "reading",
        }
    }

    async fn run(self, context: &Context) -> anyhow::Result<Value> {
        match self {
            Self::Limit => bench::limit::run(context).await,
            Self::Schedule => bench::schedule::run(context).await,
            Self::Cancel => bench::cancel::run(context).await,
            Self::Execute => bench::execute::run(context).await,
            Self::Life => bench::life::run(context).await,
            Self::Wal => bench::wal::run(context).await,
            Self::Idle => bench::idle::run(context).await,
            Self::Memory => bench::memory::run(context).await,
            Self::Lag => bench::lag::run(context).await,
            Self::Neighbour => bench::neighbour::run(context).await,
            Self::Burst => bench::burst::run(context).await,
            Self::Probe => bench::probe::run(context).await,
            Self::Depth => bench::depth::run(context).await,
            Self::Held => bench::held::run(context).await,
            Self::CancelHeavy => bench::cancel_heavy::run(context).await,
            Self::Http => bench::http::run(context).await,
            Self::Reading => bench::reading::run(context).await,
        }
    }
}

/// Settings of the private server: room for the rows, no checkpoint in the middle, durable as ever.
const SETTINGS: [(&str, &str); 10] = [
    ("shared_buffers", "1GB"),
    ("max_wal_size", "4GB"),
    ("min_wal_size", "4GB"),
    ("checkpoint_timeout", "15min"),
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("wal_compression", "off"),
    ("autovacuum", "on"),
    ("autovacuum_naptime", "10s"),
    ("max_connections", "200"),
];

/// Runs the phases asked for, or checks the document of an earlier run.
pub async fn bench(args: BenchArgs) -> anyhow::Result<ExitCode> {
    if let Some(file) = &args.check {
        return check(file);
    }
    if cfg!(debug_assertions) {
        tracing::warn!("this is a debug build: its figures do not describe the product (`make bench`)");
    }
    let (postgres, url) = if let Some(url) = &args.database_url {
        (None, url.clone())
    } else {
        let postgres = start_postgres().await?;
        let url = postgres.url();
        (Some(postgres), url)
    };
    let scale = if args.full { Scale::Full } else { Scale::Quick };
    let rounds = args.rounds.map_or(if args.full { 5 } else { 1 }, usize::from);
    let context = Context { options: PgConnectOptions::from_str(&url)?, url, scale, rounds };
    let measured = measure(&args, &context).await;
    if let Some(postgres) = postgres {
        // Blocks for a moment; nothing else runs any more.
        let _ = spawn_blocking(move || postgres.stop()).await;
    }
    let document = measured?;
    if args.json {
        say(false, &serde_json::to_string_pretty(&document)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn start_postgres() -> anyhow::Result<PrivatePostgres> {
    let mut options = Options::new(Home::Temporary, Discovery::from_environment());
    options.settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Ok(spawn_blocking(move || PrivatePostgres::start(&options))
        .await
        .context("could not start a private PostgreSQL")??)
}

async fn measure(args: &BenchArgs, context: &Context) -> anyhow::Result<Value> {
    let db = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(context.options.clone())
        .await
        .context("could not connect to the server to be measured")?;
    let postgres = server::settings(&db).await?;
    let started_at = server::now(&db).await?;
    if args.database_url.is_none() {
        // A server that has run for a while has its WAL files. A new server makes each file when it is
        // needed, and all commits wait for that.
        server::make_wal_files(&db, context.pick(1 << 30, 3 << 30)).await?;
    }
    let machine = machine::machine();
    say(args.json, &table::render("machine", &machine))?;
    say(args.json, &table::render("postgres", &postgres))?;
    let mut phases = Map::new();
    for phase in Phase::value_variants().iter().filter(|phase| args.wants(**phase)) {
        let begin = Instant::now();
        let mut figures =
            phase.run(context).await.with_context(|| format!("phase `{}` failed", phase.name()))?;
        figures["took_seconds"] = json!((begin.elapsed().as_secs_f64() * 10.0).round() / 10.0);
        say(args.json, &table::render(phase.name(), &figures))?;
        phases.insert(phase.name().to_owned(), figures);
    }
    db.close().await;
    let document = json!({
        "warmproof": env!("CARGO_PKG_VERSION"),
        "debug_build": cfg!(debug_assertions),
        "scale": match context.scale { Scale::Quick => "quick", Scale::Full => "full" },
        "rounds": context.rounds,
        "started_at": started_at,
        "machine": machine,
        "postgres": postgres,
        "phases": phases,
    });
    say(args.json, &table::bars(&document))?;
    Ok(document)
}

/// Compares a document with the bars; fails if a bar is missed.
fn check(file: &std::path::Path) -> anyhow::Result<ExitCode> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("could not read `{}`", file.display()))?;
    let document: Value = serde_json::from_str(&text)
        .with_context(|| format!("`{}` is not the JSON document of a run", file.display()))?;
    say(false, &table::bars(&document))?;
    let missed = BARS.iter().any(|bar| bar.judge(&document).1 == Judgement::Missed);
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Writes at once, also into a pipe. With a JSON document on stdout, tables are written to stderr.
fn say(aside: bool, text: &str) -> anyhow::Result<()> {
    if aside {
        writeln!(std::io::stderr().lock(), "{text}")?;
    } else {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()?;
    }
    Ok(())
}
