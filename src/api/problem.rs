//! Problem bodies (RFC 9457): one error shape for every refusal.

use std::str::FromStr;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tower::BoxError;
use utoipa::ToSchema;

use crate::domain::ids::IdError;
use crate::store::token::Scope;
use crate::store::{Remedy, StoreError};

/// A refusal, ready to be sent.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

/// One field that is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct FieldError {
    /// JSON pointer (RFC 6901) into the body, or the name of a parameter.
    pub(super) field: String,
    /// What is wrong and what is expected.
    pub(super) message: String,
}

/// Longest part of a caller's own text that an answer repeats, in bytes.
const REPEATED_BYTES_MAX: usize = 200;

/// A name of its type; if it is none, `errors` says why and at which field.
pub(super) fn parsed_name<N: FromStr<Err = IdError>>(
    field: &str,
    name: Option<String>,
    errors: &mut Vec<FieldError>,
) -> Option<N> {
    let parsed = name?.parse().map_err(|problem: IdError| FieldError::new(field, problem.to_string()));
    parsed.map_err(|error| errors.push(error)).ok()
}

impl FieldError {
    /// A fault at a place. Both texts may repeat what the caller sent and are cut.
    pub(super) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        let (mut field, mut message) = (field.into(), message.into());
        for text in [&mut field, &mut message] {
            if text.len() > REPEATED_BYTES_MAX {
                text.truncate(text.floor_char_boundary(REPEATED_BYTES_MAX));
                text.push('…');
            }
        }
        Self { field, message }
    }

    /// A fault of a JSON reader. For a missing or duplicate key the reader names the object around it.
    pub(super) fn at(place: &str, message: &str) -> Self {
        let key = ["missing field `", "duplicate field `"]
            .iter()
            .find_map(|start| message.strip_prefix(start)?.strip_suffix('`'));
        Self::new(key.map_or_else(|| place.to_owned(), |key| format!("{place}/{key}")), message)
    }

    /// The place, in words.
    fn place(&self) -> String {
        if self.field.is_empty() { "the body".to_owned() } else { format!("`{}`", self.field) }
    }
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, title, status: status.as_u16(), detail: detail.into(), errors: Vec::new() }
    }

    /// The body is no JSON at all.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "urn:warmproof:malformed-json", "The body is not JSON", detail)
    }

    /// Well-formed, but fields are missing or wrong. Nothing was written.
    pub(super) fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] => format!("{}: {}; nothing was written", one.place(), one.message),
            many => format!("{} fields are wrong; nothing was written", many.len()),
        };
        let title = "The request is not valid";
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "urn:warmproof:invalid", title, detail) }
    }

    /// Something changed during the request. A part of it may be written.
    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "urn:warmproof:conflict",
            "Something changed meanwhile",
            detail,
        )
    }

    /// Another transaction holds the row. Nothing was written.
    pub(super) fn busy(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "urn:warmproof:busy",
            "Another transaction holds the verification",
            detail,
        )
    }

    /// More than one request may hold.
    pub(super) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "urn:warmproof:too-large",
            "The request is too large",
            detail,
        )
    }

    /// No token, or an unknown one.
    pub(super) fn unauthorized() -> Self {
        let detail = "send `Authorization: Bearer <token>`; `warmproof token create` makes one";
        Self::new(StatusCode::UNAUTHORIZED, "urn:warmproof:unauthorized", "Not authorized", detail)
    }

    /// A good token that does not allow this.
    pub(super) fn forbidden(scope: Scope) -> Self {
        let detail = format!(
            "this token does not have the scope `{0}`; make one with `warmproof token create NAME --scope {0}`",
            scope.as_str()
        );
        Self::new(StatusCode::FORBIDDEN, "urn:warmproof:forbidden", "Not allowed", detail)
    }

    /// The path, or what it names, does not exist.
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "urn:warmproof:not-found", "Not found", detail)
    }

    /// The path exists, but does not take this method.
    pub(super) fn method_not_allowed() -> Self {
        let detail = "this path does not take this method; docs/api.md lists what it takes";
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "urn:warmproof:method-not-allowed",
            "Method not allowed",
            detail,
        )
    }

    /// The database failed. The reason is logged, not sent.
    pub(super) fn database(error: &StoreError) -> Self {
        tracing::warn!(%error, "a request failed on the database");
        let detail = match error.remedy() {
            Remedy::Repeat => "the database failed; repeat the request, it is safe to repeat".to_owned(),
            // Repeating does not help until an operator acts.
            Remedy::Migrate | Remedy::Configure | Remedy::Mend(_) => error.in_public(),
        };
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "urn:warmproof:database",
            "The database is not available",
            detail,
        )
    }

    /// It took too long.
    pub(super) fn timeout(error: &BoxError) -> Self {
        tracing::warn!(%error, "a request took too long and was stopped");
        let detail = "no answer within the api's time limit; repeat the request, it is safe to repeat";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "urn:warmproof:timeout", "The request took too long", detail)
    }

    /// A defect of ours.
    pub(super) fn internal() -> Self {
        let detail = "this is a defect of Warmproof; its log has the details under this request's id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "urn:warmproof:internal", "Internal error", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
