//! Drawings: outcomes by minute for the chart, spark lines, and gauges of shares.
//!
//! All are SVG made from numbers only. The script draws the chart again from the same numbers.

use std::fmt::Write as _;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use serde_json::json;

use super::shown;
use crate::domain::wilson::Share;
use crate::store::report::LossRates;

/// Minutes in the chart.
const MINUTES: usize = 60;
/// The drawing's own measures.
const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 220.0;
/// The smallest share that fills a gauge, so that a small share does not fill it.
const GAUGE_LEAST: f64 = 0.02;

/// A series of the chart.
struct Kind {
    label: &'static str,
    class: &'static str,
    count: fn(&LossRates) -> i64,
}

/// All kinds, from the bottom of the chart up.
const KINDS: [Kind; 5] = [
    Kind { label: "runner connected", class: "connected", count: |line| line.connected },
    Kind { label: "delivered when probed", class: "delivered", count: |line| line.delivered },
    Kind {
        label: "missed, withdrawn, superseded, late",
        class: "other",
        count: |line| line.missed + line.withdrawn + line.superseded + line.late,
    },
    Kind { label: "probe error", class: "probe-error", count: |line| line.probe_error },
    Kind { label: "lost", class: "lost", count: |line| line.lost },
];

/// One entry of the legend.
pub(super) struct Series {
    pub(super) label: &'static str,
    pub(super) class: &'static str,
    pub(super) total: String,
}

/// Outcomes by minute.
pub(super) struct Chart {
    /// For the script.
    pub(super) data: String,
    /// For visitors without a script.
    pub(super) svg: String,
    pub(super) series: Vec<Series>,
}

/// When the chart of now begins.
pub(super) fn begin(now: DateTime<Utc>) -> DateTime<Utc> {
    let minute = now.duration_trunc(TimeDelta::minutes(1)).unwrap_or(now);
    minute - TimeDelta::minutes(i64::try_from(MINUTES - 1).unwrap_or(0))
}

/// The chart of these lines, a line a minute. Minutes in which nothing happened have none.
pub(super) fn outcomes(lines: &[LossRates], now: DateTime<Utc>) -> Chart {
    let begin = begin(now);
    let mut values = vec![vec![0_i64; MINUTES]; KINDS.len()];
    for line in lines {
        let Ok(minute) = usize::try_from((line.at - begin).num_minutes()) else { continue };
        for (kind, series) in KINDS.iter().zip(&mut values) {
            if let Some(place) = series.get_mut(minute) {
                *place += (kind.count)(line);
            }
        }
    }
    let at: Vec<i64> =
        (0..MINUTES).map(|minute| begin.timestamp() + 60 * i64::try_from(minute).unwrap_or(0)).collect();
    let classes: Vec<&str> = KINDS.iter().map(|kind| kind.class).collect();
    let series = KINDS.iter().zip(&values).map(|(kind, values)| Series {
        label: kind.label,
        class: kind.class,
        total: shown::number(values.iter().sum()),
    });
    Chart {
        series: series.collect(),
        svg: stack(&values),
        data: json!({ "at": at, "classes": classes, "values": values }).to_string(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a drawing")]
fn stack(values: &[Vec<i64>]) -> String {
    let of_minute = |minute: usize| -> i64 { values.iter().map(|series| series[minute]).sum() };
    let highest = (0..MINUTES).map(of_minute).max().unwrap_or(0).max(4) as f64;
    let step = WIDTH / MINUTES as f64;
    let mut svg = format!(
        r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="Outcomes per minute, at most {highest}">"#
    );
    let mut floor = vec![0.0; MINUTES];
    for (series, kind) in values.iter().zip(&KINDS) {
        // Writing to a text does not fail.
        let _ = write!(svg, r#"<g class="{}">"#, kind.class);
        for (minute, count) in series.iter().enumerate().filter(|(_, count)| **count > 0) {
            let tall = *count as f64 / highest * (HEIGHT - 10.0);
            floor[minute] += tall;
            let (x, y) = (minute as f64 * step, HEIGHT - floor[minute]);
            let wide = step * 0.82;
            let _ = write!(
                svg,
                r#"<rect class="bar" x="{x:.1}" y="{y:.1}" width="{wide:.1}" height="{tall:.1}"/>"#
            );
        }
        svg.push_str("</g>");
    }
    let _ = write!(svg, r#"<line class="rule" x1="0" x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/></svg>"#);
    svg
}

/// Rates over time, scaled to the highest; a gap where there is no observation.
#[expect(clippy::cast_precision_loss, reason = "a drawing")]
pub(super) fn spark(rates: &[Option<f64>]) -> String {
    const WIDE: f64 = 132.0;
    const TALL: f64 = 24.0;
    let highest = rates.iter().flatten().fold(0.0_f64, |highest, rate| highest.max(*rate));
    let mut svg = format!(
        r#"<svg class="spark" viewBox="0 0 {WIDE} {TALL}" preserveAspectRatio="none" aria-hidden="true">"#
    );
    if highest > 0.0 {
        let step = WIDE / (rates.len().max(2) - 1) as f64;
        let place = |at: usize, rate: f64| (at as f64 * step, TALL - 1.5 - rate / highest * (TALL - 4.0));
        for run in runs(rates) {
            let mut points: Vec<(f64, f64)> = run.iter().map(|(at, rate)| place(*at, *rate)).collect();
            let (mut first, last) = (points[0].0, points[points.len() - 1].0);
            if points.len() == 1 {
                // A single point would not be visible.
                first = (first - step.max(2.0)).max(0.0);
                points.insert(0, (first, points[0].1));
            }
            let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let curve = points.join(" ");
            let _ = write!(
                svg,
                r#"<polygon class="area" points="{first:.1},{TALL} {curve} {last:.1},{TALL}"/><polyline class="curve" points="{curve}"/>"#
            );
        }
    } else {
        let _ =
            write!(svg, r#"<line class="none" x1="0" x2="{WIDE}" y1="{}" y2="{}"/>"#, TALL - 2.0, TALL - 2.0);
    }
    svg.push_str("</svg>");
    svg
}

/// The stretches that have values.
fn runs(rates: &[Option<f64>]) -> Vec<Vec<(usize, f64)>> {
    let mut runs: Vec<Vec<(usize, f64)>> = Vec::new();
    let mut is_open = false;
    for (at, rate) in rates.iter().enumerate() {
        match (rate, is_open) {
            (Some(rate), true) => {
                if let Some(run) = runs.last_mut() {
                    run.push((at, *rate));
                }
            }
            (Some(rate), false) => runs.push(vec![(at, *rate)]),
            (None, _) => {}
        }
        is_open = rate.is_some();
    }
    runs
}

/// A share with its interval, on a scale up to `most`.
pub(super) fn gauge(share: &Share, most: f64) -> String {
    let place = |value: f64| (value / most.max(GAUGE_LEAST) * 100.0).clamp(0.0, 100.0);
    let (low, high, rate) = (place(share.low), place(share.high), place(share.rate));
    let (wide, mark) = ((high - low).max(0.8), (rate - 0.6).clamp(0.0, 98.8));
    format!(
        r#"<svg class="gauge" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true"><rect class="track" x="0" y="3" width="100" height="2" rx="1"/><rect class="range" x="{low:.1}" y="1" width="{wide:.1}" height="6" rx="1"/><rect class="mark" x="{mark:.1}" y="0" width="1.2" height="8"/></svg>"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spark_line_has_a_stretch_for_each_run_of_observations() {
        let drawn = spark(&[Some(0.1), Some(0.2), None, Some(0.4)]);
        assert_eq!(drawn.matches("<polyline").count(), 2, "{drawn}");
        assert!(spark(&[None, Some(0.0)]).contains(r#"class="none""#));
        assert!(!spark(&[]).contains("NaN"));
    }

    #[test]
    fn the_chart_has_a_place_for_each_minute_and_none_beyond() {
        let now = DateTime::from_timestamp(1_795_467_630, 0).expect("an instant");
        let chart = outcomes(&[], now);
        let data: serde_json::Value = serde_json::from_str(&chart.data).expect("JSON");
        assert_eq!(data["at"].as_array().map(Vec::len), Some(MINUTES));
        assert_eq!(data["at"][MINUTES - 1], 1_795_467_600);
        assert_eq!(data["values"].as_array().map(Vec::len), Some(KINDS.len()));
        assert!(!chart.svg.contains("<rect"), "{}", chart.svg);
    }

    #[test]
    fn a_gauge_stays_on_its_scale() {
        let share = Share::of(2, 3).expect("a share");
        assert!(!gauge(&share, 0.0).contains('-') || !gauge(&share, 0.0).contains("x=\"-"));
        assert!(gauge(&share, 1.0).contains("class=\"range\""));
    }
}
