//! Cancelling: a preview, then the cancel.

use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use tokio::time::timeout;

use super::Admin;
use super::error::{PageError, redirect};
use super::form::{Fields, Operating};
use super::page::{self, Chrome, Tab};
use super::pending::{self, Row};
use super::shown;
use crate::domain::ids::{RunId, SnapshotId};
use crate::store::audit::Actor;
use crate::store::pending::{BulkCancelled, PendingFilter};

/// Most verifications that one confirmation cancels by a filter.
const CANCEL_MAX: u32 = 100_000;
/// How long a visitor waits for the cancel. After that it continues in the background.
const PATIENCE: Duration = Duration::from_secs(15);
/// Most rows of the preview.
const SAMPLE: u32 = 20;

/// What is to be cancelled.
enum Asked {
    /// These rows, each only for the dispatch that the visitor saw.
    Rows(Vec<(RunId, Option<SnapshotId>)>),
    /// All that match.
    Filter(PendingFilter),
}

#[derive(Template)]
#[template(path = "cancel.html")]
struct CancelPage {
    chrome: Chrome,
    matching: u32,
    count: String,
    filter: Vec<(&'static str, String)>,
    /// The fields that the confirmation repeats.
    fields: Vec<(&'static str, String)>,
    sample: Vec<Row>,
    sample_is_all: bool,
    back: String,
}

/// Shows what would be cancelled. Changes nothing.
pub(super) async fn preview(State(admin): State<Admin>, operating: Operating) -> Result<Response, PageError> {
    let Operating { visitor, fields, .. } = operating;
    let chrome = Chrome { now: None, ..Chrome::live(&admin, &visitor, Tab::Pending).await? };
    let now = admin.store.clock().await?;
    let (matching, sample, filter, repeated) = match asked(&fields)? {
        Asked::Rows(rows) => {
            let mut sample = Vec::new();
            for (run_id, _) in rows.iter().take(SAMPLE as usize) {
                sample.extend(admin.store.pending_of(run_id).await?);
            }
            let repeated = fields.all("row").map(|row| ("row", row.to_owned())).collect();
            (u32::try_from(rows.len()).unwrap_or(u32::MAX), sample, Vec::new(), repeated)
        }
        Asked::Filter(filter) => {
            let matching = admin.store.count_pending(&filter, CANCEL_MAX).await?;
            let sample = admin.store.pending_page(&filter, None, SAMPLE).await?;
            let reported = pending::filter_fields(&filter);
            let repeated = [("by", "filter".to_owned())].into_iter().chain(reported.clone()).collect();
            (matching, sample, reported, repeated)
        }
    };
    page::write(&CancelPage {
        chrome,
        matching,
        count: shown::number(matching.into()),
        back: back(&filter),
        filter,
        fields: repeated,
        sample_is_all: sample.len() == matching as usize,
        sample: sample.into_iter().map(|row| Row::of(row, now)).collect(),
    })
}

/// Cancels what the preview showed.
pub(super) async fn confirmed(
    State(admin): State<Admin>,
    operating: Operating,
) -> Result<Response, PageError> {
    let base = admin.config.address.base.clone();
    let asked = asked(&operating.fields)?;
    // A separate task: a closed page must not leave a cancel half done and without its entry.
    let doing = tokio::spawn(cancel(admin, asked, operating.actor));
    let reported = match timeout(PATIENCE, doing).await {
        Ok(Ok(reported)) => reported?,
        Ok(Err(error)) => {
            tracing::error!(%error, "could not finish a cancel");
            return Err(PageError::Broken);
        }
        Err(_) => "cancelling=1".to_owned(),
    };
    Ok(redirect(&format!("{base}/pending?{reported}")))
}

/// Cancels, and returns the query that makes the list show the result.
async fn cancel(admin: Admin, asked: Asked, actor: Actor) -> Result<String, PageError> {
    Ok(match asked {
        Asked::Rows(rows) => {
            let answers = admin.store.operator_cancel_these(&rows, &actor).await?;
            format!("{}&of={}", reported(BulkCancelled::of(&answers)), rows.len())
        }
        Asked::Filter(filter) => {
            reported(admin.store.operator_cancel_where(&filter, CANCEL_MAX, &actor).await?)
        }
    })
}

fn reported(done: BulkCancelled) -> String {
    match done.busy {
        0 => format!("cancelled={}", done.cancelled),
        busy => format!("cancelled={}&busy={busy}", done.cancelled),
    }
}

fn back(filter: &[(&'static str, String)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(filter);
    format!("/pending?{}", query.finish())
}

fn asked(fields: &Fields) -> Result<Asked, PageError> {
    let invalid = |problem: &str| PageError::Invalid(vec![problem.to_owned()]);
    if fields.get("by") == Some("filter") {
        let filter = pending::filter(fields)?;
        if filter == PendingFilter::default() {
            return Err(invalid(
                "The filter is empty. To cancel everything that is pending, cancel it pool by pool.",
            ));
        }
        return Ok(Asked::Filter(filter));
    }
    let read = |row: &str| {
        let (run, snapshot) = row.split_once(' ')?;
        Some((RunId::parse(run).ok()?, Some(SnapshotId::parse(snapshot).ok()?)))
    };
    let rows: Option<Vec<_>> = fields.all("row").map(read).collect();
    match rows {
        Some(rows) if rows.is_empty() => Err(invalid("Choose at least one row first.")),
        Some(mut rows) => {
            // The same run ticked twice is one.
            rows.sort();
            rows.dedup();
            Ok(Asked::Rows(rows))
        }
        None => Err(invalid("A row is not valid. Reload the list.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_runs_with_the_dispatch_that_was_seen() {
        let fields = Fields::parse(b"row=run_a+snapshot_b&row=run_a+snapshot_b&row=run_c+snapshot_d");
        assert!(matches!(asked(&fields), Ok(Asked::Rows(rows)) if rows.len() == 2));
        for bad in ["", "row=run_a", "row=x+y", "by=filter", "by=filter&pool="] {
            assert!(matches!(asked(&Fields::parse(bad.as_bytes())), Err(PageError::Invalid(_))), "{bad}");
        }
    }
}
