//! The processes of the demo: one API, some workers, and the killing of one of them.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

use super::stage::Stage;
use crate::product;

/// How long a process may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(15);

pub(super) struct Fleet {
    environment: Vec<(String, String)>,
    api: Child,
    api_url: String,
    workers: Vec<Child>,
    started: u32,
}

impl Fleet {
    pub(super) async fn start(stage: &Stage, workers: u32) -> anyhow::Result<Self> {
        let environment = stage.environment().to_vec();
        let mut api = spawn(&environment, &["api"], Stdio::piped())?;
        let stdout = api.stdout.take().context("the api has no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let ready = timeout(PATIENCE, lines.next_line()).await.context("the api was not ready in time")??;
        let api_url = ready
            .as_deref()
            .and_then(|line| line.strip_prefix("api ready on "))
            .ok_or_else(|| anyhow!("the api stopped before it was ready"))?
            .to_owned();
        let mut fleet = Self { environment, api, api_url, workers: Vec::new(), started: 0 };
        for _ in 0..workers {
            fleet.replace()?;
        }
        Ok(fleet)
    }

    pub(super) fn api_url(&self) -> &str {
        &self.api_url
    }

    /// Adds a worker.
    pub(super) fn replace(&mut self) -> anyhow::Result<()> {
        self.started += 1;
        let mut environment = self.environment.clone();
        environment.push(("WARMPROOF_WORKER_NAME".to_owned(), format!("demo-worker-{}", self.started)));
        // Their events are for log shippers, not for this screen.
        self.workers.push(spawn(&environment, &["worker"], Stdio::null())?);
        Ok(())
    }

    /// Kills the oldest worker with SIGKILL and answers its process id.
    pub(super) async fn kill_one(&mut self) -> anyhow::Result<u32> {
        let mut victim = self.workers.remove(0);
        let pid = victim.id().ok_or_else(|| anyhow!("a worker stopped by itself"))?;
        victim.kill().await.context("could not kill a worker")?;
        Ok(pid)
    }

    /// Asks every process to stop and waits for it.
    pub(super) async fn stop(self) {
        for mut process in self.workers.into_iter().chain([self.api]) {
            if let Some(pid) = process.id().and_then(|pid| i32::try_from(pid).ok()) {
                // It may have stopped already.
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
            if timeout(PATIENCE, process.wait()).await.is_err() {
                tracing::warn!("a process of the demo did not stop in time and is killed");
                let _ = process.kill().await;
            }
        }
    }
}

fn spawn(environment: &[(String, String)], arguments: &[&str], stdout: Stdio) -> anyhow::Result<Child> {
    product::command()
        .context("could not find this program")?
        .args(arguments)
        // The demo holds the other end. If the demo dies, the processes notice and stop.
        .arg("--until-stdin-closes")
        .stdin(Stdio::piped())
        .stdout(stdout)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        // ^C reaches only the demo, which stops them in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("could not start a process of the demo")
}
