//! Why there is no page, and what a visitor can do about it. `error_page` shows it.

use std::any::Any;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::store::{SharedError, StoreError};

/// Why there is no page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PageError {
    /// The page needs a token.
    SignIn {
        /// The page that the visitor wanted.
        next: String,
        /// Whether a link from another site led here: the browser does not send a strict cookie then.
        from_elsewhere: bool,
    },
    /// A form without a session.
    SignedOut,
    /// The form was not made for this session.
    Forged,
    /// The token has no scope `operate`.
    MayNotOperate,
    /// No such path.
    NoPage,
    /// The input is not valid, and why.
    Invalid(Vec<String>),
    /// The form is too large.
    TooLarge,
    /// The database stopped a statement, or the whole page took too long.
    TookTooLong,
    /// The database cannot be reached.
    DatabaseAway,
    /// Our tables do not exist.
    SchemaMissing,
    /// A defect of ours; the log has the details.
    Broken,
}

impl From<StoreError> for PageError {
    fn from(error: StoreError) -> Self {
        Self::of_database(&error)
    }
}

impl From<SharedError> for PageError {
    fn from(error: SharedError) -> Self {
        Self::of_database(&error)
    }
}

impl PageError {
    /// Logs the database's error once, and keeps what a visitor can do about it.
    fn of_database(error: &StoreError) -> Self {
        tracing::warn!(%error, "could not make a page");
        match error.sqlstate().as_deref() {
            // A statement timeout, or a lock timeout.
            Some("57014" | "55P03") => Self::TookTooLong,
            Some(_) if error.is_schema_missing() => Self::SchemaMissing,
            _ if error.is_passing() => Self::DatabaseAway,
            _ => Self::Broken,
        }
    }
}

impl From<askama::Error> for PageError {
    fn from(error: askama::Error) -> Self {
        tracing::error!(%error, "could not render a page");
        Self::Broken
    }
}

impl PageError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::SignIn { .. } => StatusCode::SEE_OTHER,
            Self::SignedOut | Self::Forged | Self::MayNotOperate => StatusCode::FORBIDDEN,
            Self::NoPage => StatusCode::NOT_FOUND,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TookTooLong => StatusCode::GATEWAY_TIMEOUT,
            Self::DatabaseAway | Self::SchemaMissing => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(super) fn title(&self) -> &'static str {
        match self {
            Self::SignIn { .. } => "Sign in",
            Self::SignedOut => "You are signed out",
            Self::Forged => "This form is not valid for your session",
            Self::MayNotOperate => "Your token may read, but not act",
            Self::NoPage => "There is no such page",
            Self::Invalid(_) => "The input is not valid",
            Self::TooLarge => "The form is too large",
            Self::TookTooLong => "The page took too long",
            Self::DatabaseAway => "The database cannot be reached",
            Self::SchemaMissing => "The schema is missing",
            Self::Broken => "Something is broken",
        }
    }

    pub(super) fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Invalid(problems) => return problems.clone(),
            Self::SignIn { .. } => "Sign in with a token.",
            Self::SignedOut => "Nothing was changed. Sign in, then do it again.",
            Self::Forged => {
                "Nothing was changed. A form is valid only in the session it was made for: reload the page \
                 and send the form again. Behind a proxy, WARMPROOF_ADMIN_URL must be the address in your \
                 browser."
            }
            Self::MayNotOperate => {
                "Nothing was changed. Sign in with a token that has the scope `operate`; `warmproof token \
                 create NAME --scope operate` makes one."
            }
            Self::NoPage => "Search for a run above, or choose one of the pages.",
            Self::TooLarge => "Choose fewer rows at a time, or cancel by filter.",
            Self::TookTooLong => {
                "The database did not answer within this page's limit, and the statement was stopped. Try \
                 again, or narrow the filter. `warmproof doctor` shows what keeps the database busy; \
                 WARMPROOF_ADMIN_STATEMENT_TIMEOUT_MS sets the limit."
            }
            Self::DatabaseAway => {
                "Pending verifications stay in the database and continue once it is back. Reload in a \
                 moment; `/readyz` and `warmproof doctor` report the cause."
            }
            Self::SchemaMissing => "Run `warmproof migrate`, then reload.",
            Self::Broken => "The log of `warmproof api` has the details.",
        };
        vec![hint.to_owned()]
    }
}

impl IntoResponse for PageError {
    /// Only the error; `error_page` makes the page, because that needs the page's address.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Sends the browser to another page.
pub(super) fn redirect(to: &str) -> Response {
    match HeaderValue::from_str(to) {
        Ok(to) => (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response(),
        Err(_) => PageError::Broken.into_response(),
    }
}

/// A handler that panicked, as an error.
pub(super) fn after_panic(panic: &(dyn Any + Send)) -> Response {
    let message =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
    tracing::error!(panic = message.unwrap_or("not a text"), "a handler panicked");
    PageError::Broken.into_response()
}
