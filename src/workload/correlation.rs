//! Headers that tie a backend's logs to the run (platform.md §5.6).

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::CreateRequest;

/// Leaves out a value that no header can hold: correlation is not worth a failed create.
pub(super) fn headers(create: &CreateRequest) -> HeaderMap {
    let baggage = create.request_id.as_ref().map(|_| {
        let (run, snapshot) = (&create.request.run.friendly_id, &create.request.snapshot.friendly_id);
        format!("run_id={run},snapshot_id={snapshot}")
    });
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (HeaderName::from_static("x-request-id"), create.request_id.as_ref()),
        (HeaderName::from_static("traceparent"), create.traceparent.as_ref()),
        (HeaderName::from_static("baggage"), baggage.as_ref()),
    ] {
        if let Some(Ok(value)) = value.map(|value| HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
    headers
}
