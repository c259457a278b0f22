//! What happened, counted from the simulator's ledger and the database.

use std::time::Duration;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::stage::Stage;
use crate::simulator::{Report, StartKind};

/// The demo's verdict.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    runs: u64,
    hits: u64,
    silent_losses: u64,
    recovered: u64,
    recovery_ms_p50: Option<u64>,
    recovery_ms_max: Option<u64>,
    redriven: u64,
    late_runners_refused: u64,
    double_starts: u64,
    lost: u64,
    unaccounted: i64,
    workers_killed: u32,
}

/// From hit to start, for each loss that a fallback recovered; sorted.
fn recoveries(report: &Report) -> Vec<u64> {
    let dispatches =
        report.runs.iter().flat_map(|run| &run.dispatches).filter(|dispatch| dispatch.silently_lost);
    let mut recoveries: Vec<u64> = dispatches
        .filter(|dispatch| dispatch.start_kind == Some(StartKind::Cold))
        .filter_map(|dispatch| dispatch.started_at_ms?.checked_sub(dispatch.hit_at_ms?))
        .collect();
    recoveries.sort_unstable();
    recoveries
}

impl Summary {
    pub(super) async fn take(stage: &Stage, workers_killed: u32) -> anyhow::Result<Self> {
        let report = stage.simulator.report();
        let counters = report.counters;
        let recoveries = recoveries(&report);
        let now = stage.store.conservation().await?;
        let scheduled = now.scheduled - stage.before.scheduled;
        let unscheduled = i64::try_from(counters.hits)? - scheduled;
        let left = now.pending - stage.before.pending;
        let started = report.runs.iter().filter(|run| run.executions > 0 || run.cancelled).count();
        Ok(Self {
            runs: counters.queued,
            hits: counters.hits,
            silent_losses: counters.silently_lost,
            recovered: recoveries.len() as u64,
            recovery_ms_p50: recoveries.get(recoveries.len() / 2).copied(),
            recovery_ms_max: recoveries.last().copied(),
            redriven: counters.redrives,
            late_runners_refused: counters.starts_refused,
            double_starts: counters.double_starts,
            // Queued, and no runner began it.
            lost: counters.queued - started as u64,
            unaccounted: now.unaccounted.abs() + left.abs() + unscheduled.abs(),
            workers_killed,
        })
    }

    pub(super) fn is_clean(&self) -> bool {
        self.lost == 0 && self.double_starts == 0 && self.unaccounted == 0
    }

    pub(super) fn table(&self) -> String {
        let seconds =
            |ms: Option<u64>| ms.map_or("-".to_owned(), |ms| format!("{}.{:03}", ms / 1000, ms % 1000));
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY);
        for (name, value) in [
            ("runs", self.runs.to_string()),
            ("warm-start hits", self.hits.to_string()),
            ("silent losses", self.silent_losses.to_string()),
            ("recovered by a fallback", self.recovered.to_string()),
            ("seconds to recover, median", seconds(self.recovery_ms_p50)),
            ("seconds to recover, longest", seconds(self.recovery_ms_max)),
            ("left to the platform's redrive", self.redriven.to_string()),
            ("late runners refused by the guard", self.late_runners_refused.to_string()),
            ("workers killed", self.workers_killed.to_string()),
            ("double starts", self.double_starts.to_string()),
            ("runs lost", self.lost.to_string()),
            ("unaccounted", self.unaccounted.to_string()),
        ] {
            table.add_row([name.to_owned(), value]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

/// The live line of the demo.
pub(super) async fn live_line(stage: &Stage, passed: Duration) -> anyhow::Result<String> {
    let report = stage.simulator.report();
    let counters = report.counters;
    let pending = stage.store.conservation().await?.pending;
    Ok(format!(
        "{:>4.0} s  runs {:>5}  hits {:>5}  pending {:>4}  silent losses {:>3}  recovered {:>3}  double starts {}",
        passed.as_secs_f64(),
        counters.queued,
        counters.hits,
        pending,
        counters.silently_lost,
        recoveries(&report).len(),
        counters.double_starts,
    ))
}
