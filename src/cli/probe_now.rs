//! `warmproof probe-now`: asks a worker to probe a run now, and reports what it saw.

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::output;
use crate::domain::claim::EarlyProbe;
use crate::domain::ids::RunId;
use crate::store::Store;
use crate::store::early::ProbeNow;

/// Between two reads of what the worker saw.
const READ_AGAIN: Duration = Duration::from_millis(200);

/// Which run to probe, and what to do about it.
#[derive(Debug, Args)]
pub(super) struct ProbeNowArgs {
    /// The run
    run: String,
    /// Act on what the probe sees, even if the verification is not due yet: a run that has not started is started
    /// cold. No rate counts its outcome
    #[arg(long)]
    act: bool,
    /// How long to wait for what the probe sees, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=300))]
    wait: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Asks for the probe. Exits with 1 when there is nothing to probe, or when nothing was seen in time.
pub(super) async fn probe_now(args: ProbeNowArgs) -> anyhow::Result<ExitCode> {
    let run_id = RunId::parse(args.run)?;
    let store = output::connect().await?;
    let asked_at = store.clock().await?;
    let early = if args.act { EarlyProbe::Act } else { EarlyProbe::Observe };
    let answer = store.probe_now(&run_id, early, &output::actor()).await?;
    let observed = match answer {
        ProbeNow::Early(EarlyProbe::Observe) => {
            observed_since(&store, &run_id, asked_at, Duration::from_secs(args.wait)).await?
        }
        ProbeNow::Early(EarlyProbe::Act) | ProbeNow::Due | ProbeNow::Nothing => None,
    };
    if args.json {
        let (probes_now, early) = match answer {
            ProbeNow::Nothing => (false, None),
            ProbeNow::Due => (true, None),
            ProbeNow::Early(early) => (true, Some(early)),
        };
        output::json(
            &json!({ "run_id": run_id, "probes_now": probes_now, "early": early, "observed": observed }),
        )?;
    } else {
        output::line(&output::plain(&reported(answer, observed.as_deref())))?;
    }
    let is_open = answer == ProbeNow::Early(EarlyProbe::Observe) && observed.is_none();
    let failed = answer == ProbeNow::Nothing || is_open;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn reported(answer: ProbeNow, observed: Option<&str>) -> String {
    match (answer, observed) {
        (ProbeNow::Nothing, _) => {
            "nothing is pending for that run, or a worker has it in flight; `warmproof show RUN` shows which"
                .to_owned()
        }
        (ProbeNow::Due, _) => "it was due already: a worker probes it now".to_owned(),
        (ProbeNow::Early(EarlyProbe::Act), _) => {
            "it is probed now and acted on before it is due; `warmproof show RUN` shows the outcome"
                .to_owned()
        }
        (ProbeNow::Early(EarlyProbe::Observe), Some(observed)) => {
            format!("{observed}; nothing changed, because it is not due yet (--act acts all the same)")
        }
        (ProbeNow::Early(EarlyProbe::Observe), None) => {
            "no worker has probed it yet; `warmproof show RUN` shows what it sees when one has".to_owned()
        }
    }
}

/// What a probe saw after that moment; `None` if none came in time.
async fn observed_since(
    store: &Store,
    run_id: &RunId,
    asked_at: DateTime<Utc>,
    wait: Duration,
) -> anyhow::Result<Option<String>> {
    let end = Instant::now() + wait;
    loop {
        let Some(pending) = store.pending_of(run_id).await? else { return Ok(None) };
        if let Some((_, what)) = pending.observed().filter(|(at, _)| *at >= asked_at) {
            return Ok(Some(what));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        sleep(READ_AGAIN).await;
    }
}
