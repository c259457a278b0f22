//! The warm-start broker: holds long polls and writes messages to them (platform.md §4).

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::core::Core;
use super::options::RunnerKind;
use super::polls::{KIND_HEADER, POLL_HEADER};
use warmproof::domain::dispatch::Dispatch;
use warmproof::platform::wire::{BrokerConnectAnswer, WarmStartAnswer, WarmStartRequest};

pub(super) fn routes() -> axum::Router<Arc<Core>> {
    axum::Router::new().route("/connect", get(connect)).route("/warm-start", get(poll).post(dispatch))
}

async fn connect(State(core): State<Arc<Core>>) -> Json<BrokerConnectAnswer> {
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).ok();
    Json(BrokerConnectAnswer {
        connection_timeout_ms: ms(core.options.connection_timeout),
        keepalive_ms: ms(core.options.keepalive),
    })
}

async fn poll(State(core): State<Arc<Core>>, headers: HeaderMap) -> Response {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let kind = text(KIND_HEADER).and_then(RunnerKind::parse);
    let key = text(POLL_HEADER).and_then(|key| key.parse().ok());
    match core.broker.poll(key, kind).await {
        // The message itself, without an envelope.
        Some(dispatch) => {
            let json = [(header::CONTENT_TYPE, "application/json")];
            (json, dispatch.message.get().to_owned()).into_response()
        }
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn dispatch(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    let request = serde_json::from_slice::<WarmStartRequest>(&body).map_err(|error| error.to_string());
    let dispatch = request.and_then(|request| {
        Dispatch::parse(request.dequeued_message, None).map_err(|error| error.to_string())
    });
    match dispatch {
        Ok(dispatch) => {
            Json(WarmStartAnswer { did_warm_start: core.broker.dispatch(dispatch) }).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, Json(serde_json::json!({ "error": error }))).into_response(),
    }
}
