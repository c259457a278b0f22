//! Errors as pages that say what to do next.

use askama::Template;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};

use super::Admin;
use super::error::{PageError, redirect};
use super::page::{Chrome, Tab};
use super::visitor::Visitor;

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

/// The page for an error, as the visitor of the request sees it.
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
            // A signed-in visitor stays signed in on an error page.
            let visitor = Visitor::of(admin, headers).await.unwrap_or(Visitor::STRANGER);
            write(admin, error, &visitor)
        }
    }
}

/// The page for an error, for a visitor whose session was not read.
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
            tracing::error!(%problem, "could not render a page");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// With a link from another site, the browser does not send the session's cookie. So an answer of ours loads
/// the page again: then the browser sends it.
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
