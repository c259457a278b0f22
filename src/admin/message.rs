//! The message of a pending verification, for operators: masked, with an entry in the audit.

use askama::Template;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;

use super::Admin;
use super::error::PageError;
use super::form::Operating;
use super::mask;
use super::page::{self, Chrome, Tab};
use super::run;

#[derive(Template)]
#[template(path = "message.html")]
struct MessagePage {
    chrome: Chrome,
    run_id: String,
    message: Option<String>,
    timings: Option<String>,
}

/// The page. A form asks for it, because opening it adds an entry to the audit.
pub(super) async fn page(
    State(admin): State<Admin>,
    run: Result<Path<String>, PathRejection>,
    operating: Operating,
) -> Result<Response, PageError> {
    let run_id = run::parse(run)?;
    let stored = admin.store.show_message(&run_id, &operating.actor).await?;
    let (message, timings) = match stored {
        Some(stored) => (Some(mask::masked(&stored.message)), stored.timings.as_deref().map(mask::masked)),
        None => (None, None),
    };
    let chrome = Chrome::still(&admin, &operating.visitor, Tab::Runs);
    page::write(&MessagePage { chrome, run_id: run_id.to_string(), message, timings })
}
