//! What goes wrong, as a page that says what to do next.

use std::any::Any;

use askama::Template;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};

use super::Admin;
use super::page::{Chrome, Tab};
use super::visitor::{self, Visitor};
use crate::store::StoreError;

/// Why there is no page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PageError {
    /// Only with a token.
    SignIn {
        /// Where the visitor wanted to go.
        next: String,
        /// Whether a link from another site led here: the browser keeps a strict cookie back from that.
        from_elsewhere: bool,
    },
    /// A form without a session.
    SignedOut,
    /// A form that we did not make for this session.
    Forged,
    /// The token has no scope `operate`.
    MayNotOperate,
    /// No such path.
    NoPage,
    /// What was sent cannot be used, and why.
    Invalid(Vec<String>),
    /// A form beyond all bounds.
    TooLarge,
    /// The database cut a statement off, or the whole page took too long.
    TookTooLong,
    /// The database cannot be reached.
    DatabaseAway,
    /// Our tables are not there.
    SchemaMissing,
    /// A defect of ours; the log tells more.
    Broken,
}

impl From<StoreError> for PageError {
    /// Logs what was said, once, and keeps what a visitor can do about it.
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "a page could not be made");
        match error.sqlstate().as_deref() {
            // The statement's own limit, and a lock that did not come within it.
            Some("57014" | "55P03") => Self::TookTooLong,
            Some(_) if error.is_schema_missing() => Self::SchemaMissing,
            _ if error.is_passing() => Self::DatabaseAway,
            _ => Self::Broken,
        }
    }
}

impl From<askama::Error> for PageError {
    fn from(error: askama::Error) -> Self {
        tracing::error!(%error, "a page could not be written");
        Self::Broken
    }
}

impl PageError {
    /// Sends a visitor to the sign-in and back.
    pub(super) fn sign_in(admin: &Admin, headers: &HeaderMap, uri: &Uri) -> Self {
        let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
        Self::SignIn {
            next: visitor::wanted(uri, &admin.config.address.base),
            from_elsewhere: matches!(site, Some("cross-site" | "same-site")),
        }
    }

    fn status(&self) -> StatusCode {
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

    fn title(&self) -> &'static str {
        match self {
            Self::SignIn { .. } => "Sign in",
            Self::SignedOut => "You are signed out",
            Self::Forged => "This form is not one of ours",
            Self::MayNotOperate => "Your token may look, but not act",
            Self::NoPage => "There is no such page",
            Self::Invalid(_) => "That cannot be used",
            Self::TooLarge => "That form is too large",
            Self::TookTooLong => "That took too long",
            Self::DatabaseAway => "The database cannot be reached",
            Self::SchemaMissing => "The schema is missing",
            Self::Broken => "Something is broken",
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Invalid(problems) => return problems.clone(),
            Self::SignIn { .. } => "Sign in with a token.",
            Self::SignedOut => "Nothing was changed. Sign in, then do it again.",
            Self::Forged => {
                "Nothing was changed. Forms are good for the session they were made in: open the page anew and \
                 send its form again. Behind a proxy, WARMPROOF_ADMIN_URL must be the address you see."
            }
            Self::MayNotOperate => {
                "Nothing was changed. Sign in with a token that has the scope `operate`; `warmproof token create \
                 NAME --scope operate` makes one."
            }
            Self::NoPage => "Look for a run above, or take one of the pages there.",
            Self::TooLarge => "Choose fewer rows at a time, or cancel by filter.",
            Self::TookTooLong => {
                "The database did not answer within this page's limit, and the statement was given up. Try again, \
                 or narrow the filter. `warmproof doctor` tells what keeps the database busy; \
                 WARMPROOF_ADMIN_STATEMENT_TIMEOUT_MS is the limit."
            }
            Self::DatabaseAway => {
                "Promises wait in the database and are kept once it is back. Reload in a moment; `/readyz` and \
                 `warmproof doctor` tell more."
            }
            Self::SchemaMissing => "Run `warmproof migrate`, then reload.",
            Self::Broken => "The log of `warmproof api` tells what happened.",
        };
        vec![hint.to_owned()]
    }
}

impl IntoResponse for PageError {
    /// Only what went wrong; [`dress`] makes a page of it, which takes the address of the page.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    chrome: Chrome,
    title: &'static str,
    hints: &'a [String],
}

#[derive(Template)]
#[template(path = "follow.html")]
struct Follow<'a> {
    to: &'a str,
}

/// Makes pages of errors.
pub(super) async fn dress(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let visitor = request.headers().clone();
    let response = next.run(request).await;
    match response.extensions().get::<PageError>() {
        Some(error) => dressed(&admin, error, &visitor).await,
        None => response,
    }
}

/// The page for an error, for whoever has asked.
pub(super) async fn dressed(admin: &Admin, error: &PageError, headers: &HeaderMap) -> Response {
    match error {
        PageError::SignIn { .. } | PageError::DatabaseAway | PageError::SchemaMissing | PageError::Broken => {
            page(admin, error)
        }
        PageError::SignedOut
        | PageError::Forged
        | PageError::MayNotOperate
        | PageError::NoPage
        | PageError::Invalid(_)
        | PageError::TooLarge
        | PageError::TookTooLong => {
            // Whoever is signed in stays so, also on a page that tells of a mistake.
            let visitor = Visitor::of(admin, headers).await.unwrap_or(Visitor::STRANGER);
            write(admin, error, &visitor)
        }
    }
}

/// The page for an error, for a visitor nobody asked about.
fn page(admin: &Admin, error: &PageError) -> Response {
    if let PageError::SignIn { next, from_elsewhere } = error {
        to_sign_in(admin, next, *from_elsewhere)
    } else {
        write(admin, error, &Visitor::STRANGER)
    }
}

fn write(admin: &Admin, error: &PageError, visitor: &Visitor) -> Response {
    let chrome = Chrome::still(admin, visitor, Tab::None);
    let written = ErrorPage { chrome, title: error.title(), hints: &error.hints() }.render();
    match written {
        Ok(html) => (error.status(), Html(html)).into_response(),
        Err(problem) => {
            tracing::error!(%problem, "a page could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A link from another site brings no cookie, even if there is one. So the page itself asks again: then it does.
fn to_sign_in(admin: &Admin, next: &str, from_elsewhere: bool) -> Response {
    let base = &admin.config.address.base;
    if from_elsewhere {
        let to = format!("{base}{next}");
        return match (Follow { to: &to }).render() {
            Ok(html) => Html(html).into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        };
    }
    let query: String =
        url::form_urlencoded::Serializer::new(String::new()).append_pair("next", next).finish();
    redirect(&format!("{base}/sign-in?{query}"))
}

/// Has the browser get another page.
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
