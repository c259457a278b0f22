//! Request ids: a caller's own id goes into logs and answers, so it is short and printable.

use axum::http::{HeaderName, HeaderValue, Request};

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longer ids are cut.
const BYTES_MAX: usize = 128;

/// Cuts a caller's id to what may be logged and answered. One of which nothing is left counts as absent, and the
/// request gets one of ours.
pub(super) fn bound<B>(mut request: Request<B>) -> Request<B> {
    let Some(given) = request.headers().get(HEADER) else { return request };
    let is_printable = |byte: &&u8| (b'!'..=b'~').contains(*byte);
    let kept: Vec<u8> = given.as_bytes().iter().take_while(is_printable).take(BYTES_MAX).copied().collect();
    match HeaderValue::from_bytes(&kept) {
        Ok(value) if !kept.is_empty() => drop(request.headers_mut().insert(HEADER, value)),
        Ok(_) | Err(_) => drop(request.headers_mut().remove(HEADER)),
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounded(id: &[u8]) -> Option<String> {
        let request = Request::builder().header(HEADER, id).body(()).expect("a request");
        let bounded = bound(request);
        bounded.headers().get(HEADER).map(|id| id.to_str().expect("printable").to_owned())
    }

    #[test]
    fn an_id_is_cut_at_what_cannot_be_printed_and_at_its_longest() {
        assert_eq!(bounded(b"req-1").as_deref(), Some("req-1"));
        assert_eq!(bounded("req-1\u{a0}x".as_bytes()).as_deref(), Some("req-1"));
        assert_eq!(bounded(b"req 1").as_deref(), Some("req"));
        assert_eq!(bounded(&[b'a'; 4000]).map(|id| id.len()), Some(BYTES_MAX));
        assert_eq!(bounded(b" "), None);
        assert_eq!(bounded(&[0xff, b'a']), None);
    }
}
