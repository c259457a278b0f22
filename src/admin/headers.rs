//! The security headers of every answer: no script but ours, no frame, no caching.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

use super::Admin;

/// Nothing inline and nothing from another origin. The script sets styles through the CSSOM, which this
/// allows.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
/// Two years, as the preload lists of browsers require.
const HTTPS_ONLY: &str = "max-age=63072000";

/// Adds the headers to every answer of the page.
pub(super) async fn add(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let mut response = secure(next.run(request).await);
    if admin.config.address.secure == Some(true) {
        response
            .headers_mut()
            .insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HTTPS_ONLY));
    }
    response
}

/// Adds them to one answer. An answer that may be cached has its own `Cache-Control`.
pub(super) fn secure(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let all = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // Addresses hold ids. `no-referrer` would remove `Origin` from our own forms.
        (header::REFERRER_POLICY, "same-origin"),
    ];
    for (name, value) in all {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
