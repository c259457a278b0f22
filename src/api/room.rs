//! Room: how many bytes of bodies are in flight at a time.
//!
//! A body is kept, read and compressed before its rows are written. Without a bound, requests to a slow
//! database would fill the memory. With the bound they wait in order, before their bodies are read.

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::Semaphore;

use super::Api;

/// Bodies in flight, in KiB. The memory for handling them is several times that.
const ROOM_KIB: usize = 16 << 10;

/// Room for bodies, and for one of the largest in any case.
pub(super) fn new(body_bytes_max: usize) -> Semaphore {
    Semaphore::new(ROOM_KIB.max(kib(body_bytes_max)))
}

/// Lets a request through when there is room for its body, and keeps the room until it is answered.
pub(super) async fn wait(State(api): State<Api>, request: Request, next: Next) -> Response {
    let largest = api.config.body_bytes_max;
    let kib = u32::try_from(kib(length(request.body(), largest))).unwrap_or(u32::MAX);
    // Never closed; and if it were, a request without room is better than none.
    let _room = api.room.acquire_many(kib).await;
    next.run(request).await
}

/// How long the body may become: its declared length, at most the largest that is accepted.
fn length(body: &Body, largest: usize) -> usize {
    let said = body.size_hint().exact().and_then(|length| usize::try_from(length).ok());
    said.unwrap_or(largest).min(largest)
}

fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_counts_as_it_says_and_never_as_more_than_is_taken() {
        assert_eq!(length(&Body::from("x".repeat(3000)), 4096), 3000);
        assert_eq!(length(&Body::from("x".repeat(9000)), 4096), 4096);
        assert_eq!(length(&Body::empty(), 4096), 0);
        let unknown = Body::from_stream(futures_util::stream::empty::<Result<Vec<u8>, std::io::Error>>());
        assert_eq!(length(&unknown, 4096), 4096);
    }

    #[test]
    fn one_of_the_largest_always_finds_room() {
        assert_eq!(new(1024).available_permits(), ROOM_KIB);
        assert_eq!(new(64 << 20).available_permits(), 64 << 10);
        assert_eq!((kib(0), kib(1), kib(1024), kib(1025)), (0, 1, 1, 2));
    }
}
