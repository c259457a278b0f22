//! The HTTP API: schedule, cancel and look up, for supervisors in any language.
//!
//! It owns parsing, limits and answers. It has no rule of its own: the store decides what a schedule
//! or a cancel means. Every refusal is a problem body that names the field, and a refused request
//! writes nothing.

mod auth;
mod body;
mod cancel;
mod gauges;
mod health;
mod openapi;
mod operate;
mod pending;
mod pools;
mod problem;
mod reports;
mod request_id;
mod room;
mod schedule;
mod verifications;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::error_handling::HandleErrorLayer;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, Request, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, ServiceBuilder};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::trace::TraceLayer;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Tokens;
use crate::config::api::ApiConfig;
use crate::scheduler::Calls;
use crate::store::Store;
use crate::telemetry::metrics;
use crate::transport::server::{self, Bounds};

use problem::Problem;

/// What every handler needs. Cheap to clone.
#[derive(Clone)]
struct Api(Arc<Inner>);

struct Inner {
    store: Store,
    calls: Calls,
    config: ApiConfig,
    tokens: Tokens,
    pools: pools::KnownPools,
    room: Semaphore,
    gauges: gauges::Gauges,
}

impl std::ops::Deref for Api {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Serves until `stop` is cancelled, then finishes the requests in flight.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    store: Store,
    config: ApiConfig,
    default_delay: Duration,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let answer_max = config.request_timeout;
    serve_router(listener, router(store, config, default_delay), answer_max, stop).await
}

/// Serves any routes like [`serve`]. A connection on which nothing moves for longer than `answer_max`, and for longer
/// than 75 s, is dropped.
///
/// # Errors
/// None at present: a listener that cannot accept tries again.
pub async fn serve_router(
    listener: TcpListener,
    router: Router,
    answer_max: Duration,
    stop: CancellationToken,
) -> std::io::Result<()> {
    server::serve(listener, router, Bounds::of_process(answer_max, metrics::connection_dropped), stop).await;
    Ok(())
}

/// The routes with their layers, for callers with a server of their own.
pub fn router(store: Store, config: ApiConfig, default_delay: Duration) -> Router {
    let request_id = HeaderName::from_static("x-request-id");
    let (limit, timeout) = (config.body_bytes_max, config.request_timeout);
    let api = Api(Arc::new(Inner {
        tokens: Tokens::new(config.token.as_ref()),
        calls: Calls::start(&store, default_delay),
        store,
        room: room::new(config.body_bytes_max),
        config,
        pools: pools::KnownPools::default(),
        gauges: gauges::Gauges::default(),
    }));
    let (routes, description) = routes(&api).split_for_parts();
    routes
        .route("/openapi.json", get(openapi::handler(&description)))
        .fallback(async || Problem::not_found("no such path; docs/api.md lists them"))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .with_state(api)
        .layer(
            ServiceBuilder::new()
                .layer(SetSensitiveRequestHeadersLayer::new([header::AUTHORIZATION]))
                .map_request(request_id::bound)
                .layer(SetRequestIdLayer::new(request_id.clone(), MakeRequestUuid))
                // The code that refuses a request logs why. A line at `error` for each 503 would repeat that.
                .layer(TraceLayer::new_for_http().make_span_with(request_span).on_failure(()))
                .layer(PropagateRequestIdLayer::new(request_id))
                // Answers hold runs and names: no browser guesses their type, and no cache keeps them.
                .layer(always(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
                .layer(always(header::CACHE_CONTROL, "no-store"))
                .layer(CatchPanicLayer::custom(after_panic))
                .layer(HandleErrorLayer::new(async |error: BoxError| Problem::timeout(&error)))
                .layer(tower::timeout::TimeoutLayer::new(timeout))
                .layer(DefaultBodyLimit::max(limit)),
        )
}

fn always(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
}

/// The routes with their descriptions, and what each needs of a token.
fn routes(api: &Api) -> OpenApiRouter<Api> {
    let state = || api.clone();
    // The last layer runs first, so a request without a valid token takes no room.
    let clients = OpenApiRouter::new()
        .routes(routes!(schedule::schedule))
        .routes(routes!(cancel::cancel))
        .route_layer(middleware::from_fn_with_state(state(), room::wait))
        .route_layer(middleware::from_fn_with_state(state(), auth::require_schedule));
    let readers = OpenApiRouter::new()
        .routes(routes!(verifications::by_id))
        .routes(routes!(verifications::of_run))
        .routes(routes!(pending::page))
        .routes(routes!(operate::pools))
        .routes(routes!(operate::workers))
        .routes(routes!(operate::audit))
        .routes(routes!(reports::silent_loss))
        .route_layer(middleware::from_fn_with_state(state(), auth::require_read));
    let operators = OpenApiRouter::new()
        .routes(routes!(pending::cancel_where))
        .routes(routes!(pending::probe_now))
        .routes(routes!(operate::change_pool))
        .route_layer(middleware::from_fn_with_state(state(), room::wait))
        .route_layer(middleware::from_fn_with_state(state(), auth::require_operate));
    OpenApiRouter::with_openapi(openapi::Description::openapi())
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(gauges::metrics))
        .merge(clients)
        .merge(readers)
        .merge(operators)
}

fn request_span<B>(request: &Request<B>) -> tracing::Span {
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    tracing::info_span!("request", method = %request.method(), path = request.uri().path(), request.id = id)
}

#[expect(clippy::needless_pass_by_value, reason = "the layer passes the panic by value")]
fn after_panic(panic: Box<dyn Any + Send>) -> Response {
    let message =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
    tracing::error!(panic = message.unwrap_or("not a text"), "a handler panicked");
    Problem::internal().into_response()
}
