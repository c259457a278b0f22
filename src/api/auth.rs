//! Bearer tokens and what they allow. Tokens are hashed before they are compared, so that neither length
//! nor content leaks.
//!
//! One token may come from the environment and allows everything; the others stand in the database. Those
//! are read once in a while, so a revoked one is good for a few seconds more, and none costs a query a call.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use super::Api;
use super::problem::Problem;
use crate::store::audit::Actor;
use crate::store::token::{Scope, StoredToken, hash};
use crate::store::{Store, StoreError};

/// How long the list is trusted; so long a revoked token may still be good.
const TRUSTED_FOR: Duration = Duration::from_secs(5);
/// How soon an unknown token has the list read again, so that a new one is good at once.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// What the environment's token is called in the audit.
const ENVIRONMENT_NAME: &str = "environment";

/// Who calls, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) name: String,
    scopes: Vec<Scope>,
}

impl Caller {
    /// Whether the token has this scope.
    pub(crate) fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// For the audit.
    pub(crate) fn actor(&self) -> Actor {
        Actor(self.name.clone())
    }
}

/// The tokens that are good.
pub(crate) struct Tokens {
    environment: Option<[u8; 32]>,
    stored: Mutex<Option<(Instant, Vec<StoredToken>)>>,
}

impl Tokens {
    pub(super) fn new(environment: Option<&SecretString>) -> Self {
        let environment = environment.map(|token| hash(token.expose_secret()));
        Self { environment, stored: Mutex::default() }
    }

    /// Whose token this is; `None` if it is nobody's.
    pub(crate) async fn recognise(&self, store: &Store, token: &str) -> Result<Option<Caller>, StoreError> {
        let presented = hash(token);
        // First, so that it is good while the database is away.
        if self.environment.is_some_and(|known| bool::from(known.ct_eq(&presented))) {
            return Ok(Some(Caller { name: ENVIRONMENT_NAME.to_owned(), scopes: Scope::ALL.to_vec() }));
        }
        for trusted_for in [TRUSTED_FOR, READ_AGAIN_AFTER] {
            if self.age().is_none_or(|age| age >= trusted_for) {
                let read = store.tokens().await?;
                *self.lock() = Some((Instant::now(), read));
            }
            if let Some(caller) = self.find(&presented) {
                return Ok(Some(caller));
            }
        }
        Ok(None)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Vec<StoredToken>)>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn age(&self) -> Option<Duration> {
        self.lock().as_ref().map(|(read_at, _)| read_at.elapsed())
    }

    fn find(&self, presented: &[u8; 32]) -> Option<Caller> {
        let stored = self.lock();
        let (_, tokens) = stored.as_ref()?;
        let known = tokens
            .iter()
            .find(|token| token.revoked_at.is_none() && bool::from(token.hash.as_slice().ct_eq(presented)))?;
        let scopes = known.scopes.iter().filter_map(|word| Scope::parse(word)).collect();
        Some(Caller { name: known.name.clone(), scopes })
    }
}

/// The bearer token of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Lets a request pass whose token has the scope, and tells the handler who calls.
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

/// The same for each scope, as a layer wants it.
pub(super) async fn require_schedule(api: State<Api>, request: Request, next: Next) -> Response {
    require(Scope::Schedule, api, request, next).await
}

pub(super) async fn require_read(api: State<Api>, request: Request, next: Next) -> Response {
    require(Scope::Read, api, request, next).await
}

pub(super) async fn require_operate(api: State<Api>, request: Request, next: Next) -> Response {
    require(Scope::Operate, api, request, next).await
}
