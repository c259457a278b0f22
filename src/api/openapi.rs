//! The API's description (OpenAPI 3.1) at `/openapi.json`, made from the handlers themselves.
//!
//! docs/openapi.json is a copy; a test compares them.

use std::collections::BTreeMap;
use std::future::{Ready, ready};

use axum::body::Bytes;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{IntoResponses, Modify, OpenApi, ToSchema};

use super::problem::{FieldError, Problem};

/// The document around the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Warmproof",
        description = "Durable verification of warm starts. docs/api.md has the full description.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT")
    ),
    components(schemas(Problem, FieldError)),
    modifiers(&Tokens),
    tags(
        (name = "supervisors", description = "For supervisors: the scope `schedule`"),
        (name = "lookup", description = "For people and dashboards: the scope `read`"),
        (name = "operators", description = "For operators: the scope `operate`"),
        (name = "health", description = "For orchestrators and Prometheus: no token")
    )
)]
pub(super) struct Description;

struct Tokens;

impl Modify for Tokens {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let about =
            "`warmproof token create NAME --scope SCOPE` makes a token. Each route names the scope it needs.";
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(about)).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The description as bytes, and how to serve them.
pub(super) fn handler(
    document: &utoipa::openapi::OpenApi,
) -> impl Fn() -> Ready<axum::response::Response> + Clone + Send + Sync + 'static {
    // Made of strings and maps with strings as keys: it cannot fail.
    let mut text = serde_json::to_vec_pretty(document).unwrap_or_default();
    text.push(b'\n');
    let text = Bytes::from(text);
    move || ready(([(header::CONTENT_TYPE, "application/json")], text.clone()).into_response())
}

/// Refusals of every route that needs a token.
pub(super) struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[
            (401, "`unauthorized`: no token, or an unknown one"),
            (403, "`forbidden`: the token does not have the scope"),
            (500, "`internal`: a defect of Warmproof"),
            (503, "`database` or `conflict`: repeat the request, it is safe to repeat"),
            (504, "`timeout`: repeat the request, it is safe to repeat"),
        ])
    }
}

/// Refusals of a body.
pub(super) struct BodyRefusals;

impl IntoResponses for BodyRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[
            (400, "`malformed-json`: not JSON, cut off, or not UTF-8"),
            (413, "`too-large`: the body or the array is above its limit"),
            (422, "`invalid`: fields are missing, wrong or unknown; nothing was written"),
        ])
    }
}

/// A path or query that is not valid.
pub(super) struct Invalid;

impl IntoResponses for Invalid {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[(422, "`invalid`: a part of the path or the query is not valid")])
    }
}

/// Refusals of routes that name one thing.
pub(super) struct NotFound;

impl IntoResponses for NotFound {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[(404, "`not-found`: nothing has this name or id")])
    }
}

/// Refusals of a single call whose row stays held.
pub(super) struct Busy;

impl IntoResponses for Busy {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[(
            409,
            "`busy`: another open transaction holds the run's row; nothing was written, repeat the request later",
        )])
    }
}

fn problems(of: &[(u16, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let problem = |about: &str| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        ResponseBuilder::new().description(about).content("application/problem+json", content).build()
    };
    of.iter().map(|(status, about)| (status.to_string(), RefOr::T(problem(about)))).collect()
}

/// The fields that Warmproof reads from a dequeued message. It stores the whole message, byte for byte.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "a description; `domain::dispatch` reads it")]
pub(super) struct DequeuedMessage {
    /// The format's version.
    #[schema(pattern = "^1$")]
    version: String,
    snapshot: MessageSnapshot,
    run: MessageRun,
    /// When the platform dequeued it, by its clock.
    #[schema(value_type = String, format = DateTime)]
    dequeued_at: String,
    background_worker: MessageWorker,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "a description")]
struct MessageSnapshot {
    #[schema(pattern = "^snapshot_[0-9A-Za-z]+$", max_length = 200)]
    friendly_id: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "a description")]
struct MessageRun {
    #[schema(pattern = "^run_[0-9A-Za-z]+$", max_length = 200)]
    friendly_id: String,
    /// W3C trace context, if its run has one.
    #[schema(value_type = Option<Object>)]
    trace_context: Option<serde_json::Value>,
}

#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "a description")]
struct MessageWorker {
    /// The deployment's version, for reports.
    #[schema(min_length = 1, max_length = 200)]
    version: String,
}
