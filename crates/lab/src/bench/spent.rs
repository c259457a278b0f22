//! What the PostgreSQL server spends during a measurement.

use std::fs;
use std::time::Instant;

use serde::Serialize;
use sqlx::PgPool;

/// Ticks of `/proc/*/stat` per second; fixed on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A reading of what the server has spent so far.
#[derive(Debug)]
pub struct Reading {
    at: Instant,
    commits: i64,
    ticks: Option<u64>,
}

/// What the server spent between two readings.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spent {
    /// Transactions a second; each of our statements is one.
    pub queries_per_second: f64,
    /// CPU time in percent of one core; `None` when the server is on another machine.
    pub cpu_percent: Option<f64>,
}

impl Reading {
    /// Reads now.
    ///
    /// # Errors
    /// The server refused.
    pub async fn take(db: &PgPool) -> anyhow::Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "the server's own catalogue, not our schema")]
        let (commits, pid): (i64, i32) = sqlx::query_as(
            "select xact_commit, pg_backend_pid() from pg_stat_database where datname = current_database()",
        )
        .fetch_one(db)
        .await?;
        Ok(Self { at: Instant::now(), commits, ticks: ticks_of_server(pid) })
    }

    /// What was spent since.
    ///
    /// # Errors
    /// The server refused.
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
    pub async fn spent(&self, db: &PgPool) -> anyhow::Result<Spent> {
        let now = Self::take(db).await?;
        let seconds = (now.at - self.at).as_secs_f64();
        let cpu_percent = now
            .ticks
            .zip(self.ticks)
            .map(|(now, before)| 100.0 * now.saturating_sub(before) as f64 / TICKS_PER_SECOND / seconds);
        Ok(Spent { queries_per_second: (now.commits - self.commits) as f64 / seconds, cpu_percent })
    }
}

/// Meters the CPU time of server and client.
#[derive(Debug)]
pub struct Meter {
    server: Option<u64>,
    client: Option<u64>,
    backend: i32,
}

/// CPU time for one row, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct CpuPerRow {
    /// All processes of the server.
    pub server_us: f64,
    /// This process.
    pub client_us: f64,
}

impl Meter {
    /// Starts to meter; `db` must stay connected until the end.
    ///
    /// # Errors
    /// The server refused.
    pub async fn start(db: &PgPool) -> anyhow::Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "reads none of our tables")]
        let backend: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(db).await?;
        Ok(Self { server: ticks_of_server(backend), client: own_ticks(), backend })
    }

    /// What was spent since for each of this many rows; `None` when the server is on another machine.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "times of a benchmark are far below 2^52")]
    pub fn stop(&self, rows: usize) -> Option<CpuPerRow> {
        let ticks = ticks_of_server(self.backend)?.saturating_sub(self.server?);
        let own = own_ticks()?.saturating_sub(self.client?);
        let each = |ticks: u64| (ticks as f64 / TICKS_PER_SECOND * 1e6 / rows as f64 * 10.0).round() / 10.0;
        Some(CpuPerRow { server_us: each(ticks), client_us: each(own) })
    }
}

/// User and system time of this process, including threads that have ended.
fn own_ticks() -> Option<u64> {
    let (_, fields) = stat("self")?;
    Some(fields[10] + fields[11])
}

/// User and system time of the postmaster and of its dead and living children.
fn ticks_of_server(backend: i32) -> Option<u64> {
    let (postmaster, _) = stat(&backend.to_string())?;
    let (_, fields) = stat(&postmaster.to_string())?;
    // utime, stime, and the same for children that were waited for.
    let mut ticks: u64 = fields[10..14].iter().sum();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else {
            continue;
        };
        if let Some((parent, fields)) = stat(pid)
            && parent == postmaster
        {
            ticks += fields[10] + fields[11];
        }
    }
    Some(ticks)
}

/// The numbers of a `stat` line from the parent on: parent, group, …, utime at 10.
fn stat(pid: &str) -> Option<(u64, Vec<u64>)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<u64> = rest.split(' ').skip(1).map(|field| field.trim().parse().unwrap_or(0)).collect();
    (fields.len() > 20).then(|| (fields[0], fields))
}
