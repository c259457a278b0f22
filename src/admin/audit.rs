//! The audit: what operators did.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use serde_json::Value;

use super::Admin;
use super::error::PageError;
use super::form::Fields;
use super::page::{self, Chrome, Tab};
use super::shown;
use super::visitor::Reading;
use crate::store::audit::Audited;

/// Entries on a page.
const ROWS: u32 = 50;
/// Characters of a detail that are shown at once.
const DETAIL_CHARS: usize = 120;

struct Row {
    at: String,
    at_machine: String,
    actor: String,
    action: String,
    target: String,
    detail: String,
    /// The whole detail, if it is longer than what is shown at once.
    whole: Option<String>,
}

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    chrome: Chrome,
    rows: Vec<Row>,
    is_later_page: bool,
    next: Option<i64>,
}

/// The page.
pub(super) async fn page(
    State(admin): State<Admin>,
    Reading(visitor): Reading,
    fields: Fields,
) -> Result<Response, PageError> {
    let invalid = |_| PageError::Invalid(vec!["`before` must be the number of an entry.".to_owned()]);
    let before: Option<i64> = fields.get("before").map(str::parse).transpose().map_err(invalid)?;
    let chrome = Chrome::live(&admin, &visitor, Tab::Audit).await?;
    let entries = admin.store.audit(before, ROWS).await?;
    let next = entries.last().filter(|_| entries.len() == ROWS as usize).map(|last| last.id);
    page::write(&AuditPage {
        chrome,
        rows: entries.into_iter().map(row).collect(),
        is_later_page: before.is_some(),
        next,
    })
}

fn row(entry: Audited) -> Row {
    let detail = shown::plain(&reported(&entry.detail));
    let detail = if detail.is_empty() { shown::NOTHING.to_owned() } else { detail };
    let is_long = detail.chars().count() > DETAIL_CHARS;
    let short = if is_long { detail.chars().take(DETAIL_CHARS).chain(['…']).collect() } else { detail };
    Row {
        at: shown::instant(entry.at),
        at_machine: shown::machine(entry.at),
        actor: entry.actor,
        action: entry.action,
        target: shown::or_dash(entry.target.as_deref()),
        whole: is_long.then(|| serde_json::to_string_pretty(&entry.detail).unwrap_or_default()),
        detail: short,
    }
}

/// `cap 10, paused true`; deeper things stay JSON.
fn reported(detail: &Value) -> String {
    let Value::Object(map) = detail else { return detail.to_string() };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    map.iter().map(|(name, value)| format!("{name} {}", text(value))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::reported;
    use serde_json::json;

    #[test]
    fn a_flat_detail_is_shown_in_words() {
        assert_eq!(reported(&json!({})), "");
        assert_eq!(reported(&json!({"cap": null, "paused": true})), "cap null, paused true");
        assert_eq!(reported(&json!({"filter": {"pool": "a"}})), r#"filter {"pool":"a"}"#);
    }
}
