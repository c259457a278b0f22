//! The admin page: what is pending, what was lost, which workers run, and what an operator can change.
//!
//! Pages are rendered here and work without a script; the script only refreshes, counts down and draws. The
//! page reads the store's reports over connections of its own, with a limit on each statement. It has no rule
//! of its own. The token of the session decides what a visitor may read or do; see ADR 0021.

mod asset;
mod audit;
mod badge;
mod cancel;
mod chart;
mod cookie;
mod error;
mod error_page;
mod form;
mod headers;
mod losses;
mod mask;
mod message;
mod overview;
mod page;
mod pending;
mod pools;
mod run;
mod shown;
mod sign_in;
mod timeline;
mod visitor;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use secrecy::SecretString;
use tower::{ServiceBuilder, ServiceExt};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tower_http::trace::TraceLayer;

use crate::caller::Tokens;
use crate::config::admin::AdminConfig;
use crate::store::Store;

use error::PageError;

/// Largest form: a page of ticked rows, with ids as long as they may be.
const FORM_BYTES_MAX: usize = 256 << 10;
/// How long a page may take in all. A cancel by filter makes many statements.
const PAGE_MAX: Duration = Duration::from_secs(30);

/// What every page needs. Cheap to clone.
#[derive(Clone)]
struct Admin(Arc<Inner>);

struct Inner {
    store: Store,
    config: AdminConfig,
    tokens: Tokens,
    assets: asset::Assets,
}

impl std::ops::Deref for Admin {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// The page's routes, in front of another router that gets every other request.
///
/// The store should be one of [`Store::connect_for_people`]. Behind a proxy the page answers with and without
/// its base path, because some proxies take it away.
pub fn router(store: Store, config: AdminConfig, token: Option<&SecretString>, rest: Router) -> Router {
    let base = config.address.base.clone();
    let assets = asset::Assets::new(&base);
    let admin = Admin(Arc::new(Inner { store, tokens: Tokens::new(token), assets, config }));
    let mut pages = routes();
    if !base.is_empty() {
        pages = pages.nest(&base, routes()).route(&format!("{base}/"), get(overview::page));
    }
    let lost = admin.clone();
    pages
        .layer(
            ServiceBuilder::new()
                .layer(SetSensitiveRequestHeadersLayer::new([header::COOKIE]))
                .layer(TraceLayer::new_for_http().make_span_with(request_span).on_failure(()))
                .layer(middleware::from_fn_with_state(admin.clone(), headers::add))
                .layer(middleware::from_fn_with_state(admin.clone(), error_page::dress))
                .layer(CatchPanicLayer::custom(|panic| error::after_panic(&panic)))
                .layer(middleware::from_fn(in_time))
                .layer(DefaultBodyLimit::max(FORM_BYTES_MAX)),
        )
        .with_state(admin)
        .fallback(async move |request: Request| elsewhere(lost, rest, request).await)
}

fn routes() -> Router<Admin> {
    Router::new()
        .route("/", get(overview::page))
        .route("/pending", get(pending::page))
        .route("/pending/cancel", post(cancel::preview))
        .route("/pending/cancel/confirmed", post(cancel::confirmed))
        .route("/runs", get(run::search))
        .route("/runs/{run}", get(run::page))
        .route("/runs/{run}/probe-now", post(run::probe_now))
        .route("/runs/{run}/message", post(message::page))
        .route("/losses", get(losses::page))
        .route("/workers", get(workers::page))
        .route("/pools", get(pools::page))
        .route("/pools/change", post(pools::change))
        .route("/pools/stop", post(pools::stop))
        .route("/audit", get(audit::page))
        .route("/sign-in", get(sign_in::page).post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/assets/{name}", get(asset::asset))
}

/// Every request that no page matches: the other router answers it, unless a browser asked for a page.
async fn elsewhere(admin: Admin, rest: Router, request: Request) -> Response {
    let accepts = request.headers().get(header::ACCEPT).and_then(|accepts| accepts.to_str().ok());
    let is_person = accepts.is_some_and(|accepts| accepts.contains("text/html"));
    let headers = request.headers().clone();
    let response = rest.oneshot(request).await.into_response();
    if is_person && response.status() == axum::http::StatusCode::NOT_FOUND {
        return headers::secure(error_page::dressed(&admin, &PageError::NoPage, &headers).await);
    }
    response
}

async fn in_time(request: Request, next: middleware::Next) -> Response {
    tokio::time::timeout(PAGE_MAX, next.run(request))
        .await
        .unwrap_or_else(|_| PageError::TookTooLong.into_response())
}

fn request_span(request: &Request) -> tracing::Span {
    // Without the query: it may hold a secret that was pasted into the wrong field.
    tracing::info_span!("page", method = %request.method(), path = request.uri().path())
}
