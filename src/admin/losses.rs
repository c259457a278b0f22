//! Losses: how many, where, since when, and how certain the rate is.

use std::collections::HashMap;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};

use super::Admin;
use super::chart;
use super::error::PageError;
use super::form::Fields;
use super::page::{self, Chrome, Tab};
use super::shown;
use super::visitor::Reading;
use crate::domain::ids::SupervisorName;
use crate::domain::wilson::Share;
use crate::store::latest_losses::Lost;
use crate::store::report::{LossBy, LossRates, Step, Total, totals};

/// Most rows of the table; a longer one would not be read.
const ROWS_MAX: usize = 200;
/// Latest losses that are listed.
const LATEST_MAX: u32 = 20;
/// Marks in a spark line at most: the newest are shown.
const MARKS_MAX: usize = 72;

/// The spans to choose from.
const SPANS: [(&str, &str, TimeDelta); 5] = [
    ("1h", "1 hour", TimeDelta::hours(1)),
    ("6h", "6 hours", TimeDelta::hours(6)),
    ("24h", "24 hours", TimeDelta::hours(24)),
    ("7d", "7 days", TimeDelta::days(7)),
    ("30d", "30 days", TimeDelta::days(30)),
];

/// What losses can be grouped by, and the heading of the column.
const KINDS: [(&str, &str, LossBy); 5] = [
    ("pool", "Pool", LossBy::Pool),
    ("supervisor", "Supervisor", LossBy::Supervisor),
    ("region", "Region", LossBy::Region),
    ("version", "Version", LossBy::DeploymentVersion),
    ("intent", "Intent", LossBy::Intent),
];

/// An entry of a list of links.
struct Choice {
    text: &'static str,
    query: String,
    is_here: bool,
}

/// The totals.
struct Sum {
    rate: String,
    interval: String,
    gauge: Option<String>,
    spark: String,
    lost: String,
    observed: String,
    scheduled: String,
    overtaken: String,
    without_overtaken: String,
    fallback_rate: String,
    probe_error: String,
    late: String,
}

/// One pool, supervisor and so on.
struct Row {
    key: String,
    rate: String,
    interval: String,
    gauge: Option<String>,
    spark: String,
    lost: String,
    observed: String,
    overtaken: String,
    probe_error: String,
    late: String,
}

#[derive(Template)]
#[template(path = "losses.html")]
struct LossesPage {
    chrome: Chrome,
    spans: Vec<Choice>,
    kinds: Vec<Choice>,
    kind: &'static str,
    since: String,
    step: &'static str,
    sum: Sum,
    rows: Vec<Row>,
    left_out: usize,
    latest: Vec<Latest>,
}

/// One loss.
struct Latest {
    settled_at: String,
    run_id: String,
    pool: String,
    supervisor: String,
    version: String,
    came_of_it: String,
}

impl Latest {
    fn of(lost: Lost) -> Self {
        let result = lost.result().unwrap_or_default();
        Self {
            settled_at: shown::instant(lost.settled_at),
            run_id: lost.run_id,
            pool: lost.pool,
            supervisor: shown::or_dash(lost.supervisor.as_ref().map(SupervisorName::as_str)),
            version: shown::or_dash(lost.deployment_version.as_deref()),
            came_of_it: format!(
                "{}: {result}{}{}",
                lost.outcome.as_str(),
                if lost.late { ", late" } else { "" },
                if lost.early { ", early" } else { "" }
            ),
        }
    }
}

/// The page.
pub(super) async fn page(
    State(admin): State<Admin>,
    Reading(visitor): Reading,
    fields: Fields,
) -> Result<Response, PageError> {
    let chosen = |word: Option<&str>, default| word.unwrap_or(default).to_owned();
    let (since_word, by_word) = (chosen(fields.get("since"), "1h"), chosen(fields.get("by"), "pool"));
    let unknown = |field: &str, known: Vec<&str>| {
        PageError::Invalid(vec![format!("`{field}` must be one of {}.", known.join(", "))])
    };
    let (_, _, span) = SPANS
        .into_iter()
        .find(|(word, _, _)| *word == since_word)
        .ok_or_else(|| unknown("since", SPANS.map(|(word, _, _)| word).to_vec()))?;
    let (_, kind, by) = KINDS
        .into_iter()
        .find(|(word, _, _)| *word == by_word)
        .ok_or_else(|| unknown("by", KINDS.map(|(word, _, _)| word).to_vec()))?;
    let chrome = Chrome::live(&admin, &visitor, Tab::Losses).await?;
    let (since, step) = (chrome.clock() - span, Step::of_span(span));
    let lines = admin.store.losses(since, step, by).await?;
    let latest = admin.store.latest_lost(None, LATEST_MAX).await?;
    let times = times(since, chrome.clock(), step);
    let query = |since: &str, by: &str| format!("?since={since}&by={by}");
    let mut totals = totals(&lines);
    // Highest lower bound first: a single loss of a single hit is weak evidence.
    let low = |total: &Total| total.loss_rate_low.unwrap_or(-1.0);
    totals.sort_by(|one, other| low(other).total_cmp(&low(one)).then_with(|| one.key.cmp(&other.key)));
    page::write(&LossesPage {
        spans: choices(SPANS.map(|(word, text, _)| (word, text)), &since_word, |word| query(word, &by_word)),
        kinds: choices(KINDS.map(|(word, text, _)| (word, text)), &by_word, |word| query(&since_word, word)),
        kind,
        since: shown::instant(begin(since, step)),
        step: step.as_str(),
        sum: sum(&lines, &times),
        left_out: totals.len().saturating_sub(ROWS_MAX),
        rows: rows(&totals, &lines, &times),
        latest: latest.into_iter().map(Latest::of).collect(),
        chrome,
    })
}

fn choices<const N: usize>(
    all: [(&str, &'static str); N],
    chosen: &str,
    query: impl Fn(&str) -> String,
) -> Vec<Choice> {
    let choice = |(word, text)| Choice { text, query: query(word), is_here: word == chosen };
    all.into_iter().map(choice).collect()
}

/// The length of a step, in seconds.
const fn seconds(step: Step) -> i64 {
    match step {
        Step::Minute => 60,
        Step::Hour | Step::Whole => 3600,
        Step::Day => 86_400,
    }
}

fn begin(at: DateTime<Utc>, step: Step) -> DateTime<Utc> {
    let stamp = at.timestamp();
    DateTime::from_timestamp(stamp - stamp.rem_euclid(seconds(step)), 0).unwrap_or(at)
}

/// The places of a spark line.
fn times(since: DateTime<Utc>, now: DateTime<Utc>, step: Step) -> Vec<DateTime<Utc>> {
    let (first, length) = (begin(since, step), TimeDelta::seconds(seconds(step)));
    // Losses are settled later than connects, so the rate of the current minute would be too low.
    let end = if step == Step::Minute { now - length } else { now };
    let all = std::iter::successors(Some(first), |at| Some(*at + length)).take_while(|at| *at <= end);
    let mut times: Vec<_> = all.collect();
    times.drain(..times.len().saturating_sub(MARKS_MAX));
    times
}

fn sum(lines: &[LossRates], times: &[DateTime<Utc>]) -> Sum {
    let all = |count: fn(&LossRates) -> i64| lines.iter().map(count).sum::<i64>();
    let (lost, observed, overtaken) =
        (all(|line| line.lost), all(|line| line.observed), all(|line| line.overtaken));
    let probed = all(|line| line.fallback + line.requeued + line.delivered);
    let mut at: HashMap<DateTime<Utc>, (i64, i64)> = HashMap::new();
    for line in lines {
        let place = at.entry(line.at).or_default();
        *place = (place.0 + line.lost, place.1 + line.observed);
    }
    let rate =
        |share: Option<Share>| share.map_or(shown::NOTHING.to_owned(), |share| shown::percent(share.rate));
    let of_time =
        |time: &DateTime<Utc>| at.get(time).and_then(|(lost, observed)| Share::of(*lost, *observed));
    let share = Share::of(lost, observed);
    Sum {
        rate: rate(share),
        interval: share.map_or("no observations".to_owned(), |share| shown::interval(&share)),
        gauge: share.map(|share| chart::gauge(&share, share.high * 1.25)),
        spark: chart::spark(
            &times.iter().map(|time| of_time(time).map(|share| share.rate)).collect::<Vec<_>>(),
        ),
        lost: shown::number(lost),
        observed: shown::number(observed),
        scheduled: shown::number(all(|line| line.scheduled)),
        overtaken: shown::number(overtaken),
        without_overtaken: rate(Share::of(lost - overtaken, observed - overtaken)),
        fallback_rate: rate(Share::of(all(|line| line.fallback), probed)),
        probe_error: shown::number(all(|line| line.probe_error)),
        late: shown::number(all(|line| line.late)),
    }
}

fn rows(totals: &[Total], lines: &[LossRates], times: &[DateTime<Utc>]) -> Vec<Row> {
    let mut rates: HashMap<Option<&str>, HashMap<DateTime<Utc>, Option<f64>>> = HashMap::new();
    for line in lines {
        rates.entry(line.key.as_deref()).or_default().insert(line.at, line.loss_rate);
    }
    let shares = || totals.iter().take(ROWS_MAX).filter_map(Total::share);
    // One scale for all, so that rows can be compared.
    let most = shares().map(|share| share.high).fold(0.0_f64, f64::max);
    let row = |total: &Total| {
        let share = total.share();
        let of_key = rates.get(&total.key.as_deref());
        let rates = times.iter().map(|time| of_key.and_then(|rates| rates.get(time).copied().flatten()));
        Row {
            key: total.key.clone().unwrap_or_else(|| "not reported".to_owned()),
            rate: share.map_or(shown::NOTHING.to_owned(), |share| shown::percent(share.rate)),
            interval: share.map_or(String::new(), |share| shown::interval(&share)),
            gauge: share.map(|share| chart::gauge(&share, most)),
            spark: chart::spark(&rates.collect::<Vec<_>>()),
            lost: shown::number(total.lost),
            observed: shown::number(total.observed),
            overtaken: shown::number(total.overtaken),
            probe_error: shown::number(total.probe_error),
            late: shown::number(total.late),
        }
    };
    totals.iter().take(ROWS_MAX).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spark_line_has_a_place_for_each_step() {
        let now = DateTime::from_timestamp(1_795_467_630, 0).expect("an instant");
        let places = times(now - TimeDelta::hours(1), now, Step::Minute);
        assert_eq!(places.len(), 60);
        assert_eq!(places.last().map(DateTime::timestamp), Some(1_795_467_540), "the last that is over");
        assert_eq!(times(now - TimeDelta::days(30), now, Step::Day).len(), 31);
        assert_eq!(times(now - TimeDelta::hours(90), now, Step::Hour).len(), MARKS_MAX);
    }
}
