//! Pending verifications, in the order of their next probes.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use url::form_urlencoded::Serializer;

use super::Admin;
use super::badge::{self, Badge};
use super::error::PageError;
use super::form::Fields;
use super::page::{self, Chrome, Tab};
use super::shown;
use super::visitor::Reading;
use crate::domain::ids::{SupervisorName, parse_name};
use crate::domain::status::Status;
use crate::store::lookup::Pending;
use crate::store::pending::{PageKey, PendingCounts, PendingFilter};

/// Rows on a page.
const ROWS: u32 = 50;

/// An entry of a list to choose from.
struct Choice {
    value: String,
    is_chosen: bool,
}

/// A pending verification as it is shown.
pub(super) struct Row {
    pub(super) run_id: String,
    pub(super) snapshot_id: String,
    pub(super) pool: String,
    pub(super) supervisor: String,
    pub(super) worker: String,
    pub(super) last_error: String,
    pub(super) age: String,
    pub(super) due: String,
    pub(super) due_ms: i64,
    pub(super) due_machine: String,
    pub(super) due_title: String,
    pub(super) badge: Badge,
}

impl Row {
    pub(super) fn of(row: Pending, now: DateTime<Utc>) -> Self {
        Self {
            badge: badge::of_pending(&row),
            pool: row.pool,
            supervisor: shown::or_dash(row.supervisor.as_ref().map(SupervisorName::as_str)),
            worker: shown::or_dash(row.worker.as_deref()),
            last_error: shown::or_dash(row.last_error.as_deref()),
            age: shown::span(now - row.scheduled_at),
            due: shown::relative(row.probe_at, now),
            due_ms: row.probe_at.timestamp_millis(),
            due_machine: shown::machine(row.probe_at),
            due_title: format!(
                "due {}, next probe {}",
                shown::instant(row.due_at),
                shown::instant(row.probe_at)
            ),
            run_id: row.run_id,
            snapshot_id: row.snapshot_id,
        }
    }
}

/// A filter as its form shows it.
struct Shown {
    supervisor: String,
    region: String,
    version: String,
}

#[derive(Template)]
#[template(path = "pending.html")]
struct PendingPage {
    chrome: Chrome,
    totals: String,
    pools: Vec<Choice>,
    statuses: Vec<Choice>,
    shown: Shown,
    is_filtered: bool,
    filter_fields: Vec<(&'static str, String)>,
    rows: Vec<Row>,
    is_later_page: bool,
    first_path: String,
    next_path: Option<String>,
}

/// The page.
pub(super) async fn page(
    State(admin): State<Admin>,
    Reading(visitor): Reading,
    fields: Fields,
) -> Result<Response, PageError> {
    let filter = filter(&fields)?;
    let after = fields.get("after").map(|word| {
        let unreadable = || {
            PageError::Invalid(vec![
                "This page does not exist any more: start with the first page.".to_owned(),
            ])
        };
        PageKey::parse(word).ok_or_else(unreadable)
    });
    let after = after.transpose()?;
    let chrome = Chrome::live(&admin, &visitor, Tab::Pending).await?;
    let (totals, pools, rows) = tokio::try_join!(
        admin.store.pending_counts_soon(),
        admin.store.pools(),
        admin.store.pending_page(&filter, after.as_ref(), ROWS),
    )?;
    let filter_fields = filter_fields(&filter);
    let base = format!("{}/pending", chrome.base);
    let last = rows.last().filter(|_| rows.len() == ROWS as usize);
    let next = last.map(|last| PageKey { probe_at: last.probe_at, run_id: last.run_id.clone() }.word());
    let now = chrome.clock();
    page::write(&PendingPage {
        totals: reported(&totals),
        pools: choices(pools, filter.pool.as_deref()),
        statuses: choices(Status::ALL.map(|one| one.as_str().to_owned()), filter.status.map(Status::as_str)),
        is_filtered: !filter_fields.is_empty(),
        first_path: path(&base, &filter_fields, None),
        next_path: next.map(|next| path(&base, &filter_fields, Some(&next))),
        is_later_page: after.is_some(),
        filter_fields,
        shown: Shown {
            supervisor: filter.supervisor.as_ref().map(ToString::to_string).unwrap_or_default(),
            region: filter.region.as_ref().map(ToString::to_string).unwrap_or_default(),
            version: filter.deployment_version.unwrap_or_default(),
        },
        rows: rows.into_iter().map(|row| Row::of(row, now)).collect(),
        chrome: chrome.with_notice(notice(&fields)),
    })
}

/// The filter of a query or a form. Names are checked as a schedule checks them.
pub(super) fn filter(fields: &Fields) -> Result<PendingFilter, PageError> {
    let mut problems = Vec::new();
    let mut name = |field: &str| {
        let name = fields.get(field)?;
        if let Err(error) = parse_name(name) {
            problems.push(format!("`{field}` {error}"));
        }
        Some(name.to_owned())
    };
    let (pool, deployment_version) = (name("pool"), name("version"));
    // What is no name is among the problems already.
    let supervisor = name("supervisor").and_then(|name| name.parse().ok());
    let region = name("region").and_then(|name| name.parse().ok());
    let status = fields.get("status").and_then(|word| {
        let known = Status::ALL.into_iter().find(|one| one.as_str() == word);
        if known.is_none() {
            problems.push("`status` must be claimed, overdue, held, lost or waiting".to_owned());
        }
        known
    });
    if problems.is_empty() {
        Ok(PendingFilter { pool, supervisor, region, deployment_version, status })
    } else {
        Err(PageError::Invalid(problems))
    }
}

/// A filter as fields of a form.
pub(super) fn filter_fields(filter: &PendingFilter) -> Vec<(&'static str, String)> {
    let fields = [
        ("pool", filter.pool.clone()),
        ("supervisor", filter.supervisor.as_ref().map(ToString::to_string)),
        ("region", filter.region.as_ref().map(ToString::to_string)),
        ("version", filter.deployment_version.clone()),
        ("status", filter.status.map(|status| status.as_str().to_owned())),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn path(base: &str, fields: &[(&'static str, String)], after: Option<&str>) -> String {
    let mut query = Serializer::new(String::new());
    for (name, value) in fields {
        query.append_pair(name, value);
    }
    if let Some(after) = after {
        query.append_pair("after", after);
    }
    let query = query.finish();
    if query.is_empty() { base.to_owned() } else { format!("{base}?{query}") }
}

fn choices(values: impl IntoIterator<Item = String>, chosen: Option<&str>) -> Vec<Choice> {
    let choice = |value: String| Choice { is_chosen: chosen == Some(value.as_str()), value };
    values.into_iter().map(choice).collect()
}

fn reported(totals: &[PendingCounts]) -> String {
    let sum = |count: fn(&PendingCounts) -> i64| shown::number(totals.iter().map(count).sum());
    format!(
        "{} pending · {} waiting · {} claimed · {} lost · {} held · {} overdue",
        sum(|one| one.pending),
        sum(|one| one.waiting),
        sum(|one| one.claimed),
        sum(|one| one.lost),
        sum(|one| one.held),
        sum(|one| one.overdue)
    )
}

/// What a cancel did, in numbers.
fn notice(fields: &Fields) -> Option<String> {
    if fields.get("cancelling").is_some() {
        return Some(
            "The cancel is still running. When it is done, the audit shows how many were cancelled."
                .to_owned(),
        );
    }
    let cancelled: u32 = fields.get("cancelled")?.parse().ok()?;
    let asked: Option<u32> = fields.get("of").and_then(|asked| asked.parse().ok());
    let of = asked.map_or(String::new(), |asked| format!(" of {}", shown::number(asked.into())));
    let busy: Option<u32> = fields.get("busy").and_then(|busy| busy.parse().ok());
    let skipped = busy.map_or(String::new(), |busy| {
        format!(" {} skipped: other transactions hold their rows.", shown::number(busy.into()))
    });
    let cancelled = shown::number(cancelled.into());
    Some(format!("{cancelled}{of} cancelled.{skipped} The audit records this."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_survives_its_own_fields() {
        let fields = Fields::parse(b"pool=a+b&status=held&supervisor=&version=%3Cscript%3E");
        let filter = filter(&fields).expect("a filter");
        assert_eq!(filter.status, Some(Status::Held));
        assert_eq!(filter.supervisor, None);
        let written = path("/pending", &filter_fields(&filter), Some("1.run_a"));
        assert_eq!(written, "/pending?pool=a+b&version=%3Cscript%3E&status=held&after=1.run_a");
    }

    #[test]
    fn every_fault_of_a_filter_is_reported() {
        let fields = Fields::parse(b"pool=a%00b&status=odd");
        assert!(matches!(filter(&fields), Err(PageError::Invalid(problems)) if problems.len() == 2));
    }
}
