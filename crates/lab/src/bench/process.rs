//! Processes of the product, started as an operator would, and what the kernel reports about them.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

use super::context::{Context, SCHEMA};
use crate::product;

/// How long a process may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(15);

/// The environment of a worker and an api; the platform's addresses lead to a closed port.
#[must_use]
pub fn environment(context: &Context) -> Vec<(String, String)> {
    // Port 9 is `discard`: no program listens there, and no row ever becomes due for a probe.
    let nowhere = "http://127.0.0.1:9";
    [
        ("TRIGGER_WARM_START_VERIFY_ENABLED", "true"),
        ("TRIGGER_WARM_START_URL", nowhere),
        ("TRIGGER_API_URL", nowhere),
        ("TRIGGER_WORKER_TOKEN", "benchmark-worker-token"),
        ("MANAGED_WORKER_SECRET", "benchmark-managed-secret"),
        ("TRIGGER_WORKER_INSTANCE_NAME", "bench"),
        ("TRIGGER_WORKLOAD_API_DOMAIN", "localhost"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", nowhere),
        ("COMPUTE_GATEWAY_URL", nowhere),
        ("WARMPROOF_DATABASE_URL", &context.url),
        ("WARMPROOF_SCHEMA", SCHEMA),
        ("WARMPROOF_API_LISTEN", "127.0.0.1:0"),
        ("WARMPROOF_API_TOKEN", "benchmark-api-token"),
        ("WARMPROOF_LOG", "warn"),
        ("METRICS_PORT", "0"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// A process of this program. It ends when this value is dropped or when this process ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: i32,
}

impl Process {
    /// Starts `warmproof worker` or `warmproof api`; waits until an api listens.
    ///
    /// # Errors
    /// It could not be started, or an api did not get ready.
    pub async fn start(context: &Context, command: &str) -> anyhow::Result<Self> {
        let mut child = product::command()
            .context("could not find this program")?
            .arg(command)
            .arg("--until-stdin-closes")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .env_clear()
            .envs(environment(context))
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("could not start `warmproof {command}`"))?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).context("the process is gone already")?;
        let stdout = child.stdout.take().context("the process has no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        if command == "api" {
            let ready = timeout(PATIENCE, lines.next_line()).await.context("the api did not get ready")??;
            ready.ok_or_else(|| anyhow!("the api stopped before it was ready"))?;
        }
        Ok(Self { child, pid })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Asks it to stop and waits.
    ///
    /// # Errors
    /// It did not stop in time.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        // An error means that it has already ended.
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGTERM);
        timeout(PATIENCE, self.child.wait()).await.context("a process did not stop in time")??;
        Ok(())
    }
}

/// Resident memory now and at its peak, in kB, from `/proc`.
#[must_use]
pub fn resident_kb(pid: i32) -> Option<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

/// CPU time of all threads of a process so far, in nanoseconds, finer than `/proc/PID/stat`'s ticks.
#[must_use]
pub fn cpu_nanos(pid: i32) -> Option<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let of_thread = |path: std::path::PathBuf| -> Option<u64> {
        fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    Some(threads.flatten().filter_map(|thread| of_thread(thread.path())).sum())
}

/// CPU time of the calling thread, in nanoseconds.
#[must_use]
pub fn thread_cpu_nanos() -> Option<u64> {
    fs::read_to_string("/proc/thread-self/schedstat").ok()?.split_whitespace().next()?.parse().ok()
}
