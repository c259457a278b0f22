//! `warmproof report`: how many warm starts are lost, where and since when.

use std::process::ExitCode;

use chrono::TimeDelta;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::output;
use crate::store::report::{Latency, LossBy, LossRates, Step, Total, totals};

/// The marks of a spark line, from none to the highest share.
const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Marks in a spark line at most: the newest ones are shown.
const SPARKS_MAX: usize = 48;

/// What to report.
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// How far back, such as `30m`, `1h`, `7d`; whole minutes, hours or days count
    #[arg(long, default_value = "1h", value_parser = span)]
    since: TimeDelta,
    /// What to group by
    #[arg(long, value_enum)]
    by: Option<ByArg>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ByArg {
    Pool,
    Supervisor,
    Region,
    Version,
    Intent,
}

fn span(text: &str) -> Result<TimeDelta, String> {
    let reported = || "must be a number and a unit, such as `30m`, `1h` or `7d`".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(reported)?;
    let number: i64 = number.parse().map_err(|_| reported())?;
    let span = match unit {
        "m" => TimeDelta::try_minutes(number),
        "h" => TimeDelta::try_hours(number),
        "d" => TimeDelta::try_days(number),
        _ => None,
    };
    span.filter(|span| *span > TimeDelta::zero() && *span <= TimeDelta::days(3650)).ok_or_else(reported)
}

/// Prints rates with their intervals, the highest first, and their trend.
pub(super) async fn report(args: ReportArgs) -> anyhow::Result<ExitCode> {
    let by = match args.by {
        None => LossBy::Nothing,
        Some(ByArg::Pool) => LossBy::Pool,
        Some(ByArg::Supervisor) => LossBy::Supervisor,
        Some(ByArg::Region) => LossBy::Region,
        Some(ByArg::Version) => LossBy::DeploymentVersion,
        Some(ByArg::Intent) => LossBy::Intent,
    };
    let step = Step::of_span(args.since);
    let store = output::connect().await?;
    let since = store.clock().await? - args.since;
    let lines = store.losses(since, step, by).await?;
    let totals = totals(&lines);
    let latencies =
        (store.latencies(Latency::Verdict, since).await?, store.latencies(Latency::Connect, since).await?);
    if args.json {
        output::json(&json!({
            "since": since, "step": step, "by": by, "totals": totals, "lines": lines,
            "verdict_ms": latencies.0, "connect_ms": latencies.1,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if totals.is_empty() {
        output::line("nothing was scheduled or ended in that time")?;
        return Ok(ExitCode::SUCCESS);
    }
    print(by, &lines, &totals)?;
    print_latencies(&latencies.0, &latencies.1).map(|()| ExitCode::SUCCESS)
}

fn print(by: LossBy, lines: &[LossRates], totals: &[Total]) -> anyhow::Result<()> {
    let header = [
        if by == LossBy::Nothing { "" } else { by.as_str() },
        "loss rate",
        "95 % interval",
        "lost",
        "of",
        "overtaken",
        "probe errors",
        "late",
        "trend",
    ];
    let row = |total: &Total| {
        let interval = match (total.loss_rate_low, total.loss_rate_high) {
            (Some(low), Some(high)) => format!("{} to {}", percent(low), percent(high)),
            _ => "-".to_owned(),
        };
        let key =
            if by == LossBy::Nothing { "all".to_owned() } else { output::or_dash(total.key.as_deref()) };
        vec![
            key,
            total.loss_rate.map_or("-".to_owned(), percent),
            interval,
            total.lost.to_string(),
            total.observed.to_string(),
            total.overtaken.to_string(),
            total.probe_error.to_string(),
            total.late.to_string(),
            spark(lines.iter().filter(|line| line.key == total.key)),
        ]
    };
    output::table(&header, totals.iter().map(row).collect())
}

fn print_latencies(
    verdict: &[crate::store::report::Quantiles],
    connect: &[crate::store::report::Quantiles],
) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> = [("due to verdict", verdict), ("hit to connect", connect)]
        .into_iter()
        .flat_map(|(what, quantiles)| {
            quantiles.iter().map(move |one| {
                let ms = |value: f64| format!("{value:.1} ms");
                vec![
                    what.to_owned(),
                    one.pool.clone(),
                    one.n.to_string(),
                    ms(one.p50_ms),
                    ms(one.p90_ms),
                    ms(one.p99_ms),
                    ms(one.max_ms),
                ]
            })
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    output::table(&["latency", "pool", "measured", "p50", "p90", "p99", "max"], rows)
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

/// The rates of one key over time, scaled to the highest; a gap where there is no observation.
fn spark<'a>(lines: impl Iterator<Item = &'a LossRates>) -> String {
    let rates: Vec<Option<f64>> = lines.map(|line| line.loss_rate).collect();
    let rates = &rates[rates.len().saturating_sub(SPARKS_MAX)..];
    let highest = rates.iter().flatten().fold(0.0_f64, |highest, rate| highest.max(*rate));
    let top = f64::from(u8::try_from(SPARKS.len() - 1).unwrap_or(u8::MAX));
    rates
        .iter()
        .map(|rate| match rate {
            None => ' ',
            Some(_) if highest == 0.0 => SPARKS[0],
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 7")]
            Some(rate) => SPARKS[(rate / highest * top).round() as usize],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_a_number_and_a_unit() {
        assert_eq!(span("30m"), Ok(TimeDelta::minutes(30)));
        assert_eq!(span("1h"), Ok(TimeDelta::hours(1)));
        assert_eq!(span("7d"), Ok(TimeDelta::days(7)));
        for bad in ["", "h", "1", "1w", "-1h", "0h", "1.5h", "99999999999999999999d", "9999d", "é"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
