//! Bearer tokens of requests. The store knows which caller each token belongs to.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::problem::Problem;
use crate::store::token::Scope;

/// The bearer token of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Lets a request pass if its token has the scope, and gives its caller to the handler.
pub(super) async fn require(
    scope: Scope,
    State(api): State<Api>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(token) = bearer(request.headers()) else { return Problem::unauthorized().into_response() };
    match api.tokens.recognise(&api.store, token).await {
        Ok(Some(caller)) if caller.may(scope) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Ok(Some(_)) => Problem::forbidden(scope).into_response(),
        Ok(None) => Problem::unauthorized().into_response(),
        Err(error) => Problem::database(&error).into_response(),
    }
}

/// [`require`] for each scope, in the form that a layer takes.
pub(super) async fn require_schedule(api: State<Api>, request: Request, next: Next) -> Response {
    require(Scope::Schedule, api, request, next).await
}

pub(super) async fn require_read(api: State<Api>, request: Request, next: Next) -> Response {
    require(Scope::Read, api, request, next).await
}

pub(super) async fn require_operate(api: State<Api>, request: Request, next: Next) -> Response {
    require(Scope::Operate, api, request, next).await
}
