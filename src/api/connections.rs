//! Connections: what each may hold before anybody looks at it.
//!
//! A server reads ahead of the handler, and reads more the more a connection brings: up to 400 KB of each by default,
//! which over 256 connections is more than all bodies that are in flight. So reading ahead has a bound of its own.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Most bytes of a connection that are read ahead: heads fit, and bodies are read as they are taken.
const READ_AHEAD_MAX: usize = 64 << 10;
/// The same for a stream, and for a connection, of HTTP/2.
const WINDOW: u32 = 64 << 10;
/// How long connections may stay open after `stop`: a client that never ends its request must not
/// keep the process.
const GRACE: Duration = Duration::from_secs(20);

/// Serves until `stop` is cancelled, then finishes the requests in flight, for [`GRACE`] at most.
pub(super) async fn serve(
    mut listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(READ_AHEAD_MAX);
    builder.http2().initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let open = GracefulShutdown::new();
    // Refused connections are tried again in there, and a lack of descriptors is waited out.
    while let Some((stream, _)) = stop.run_until_cancelled(Listener::accept(&mut listener)).await {
        let service = TowerToHyperService::new(router.clone());
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = open.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error, "a connection broke");
            }
        });
    }
    drop(listener);
    if timeout(GRACE, open.shutdown()).await.is_err() {
        tracing::warn!("connections were still open after the grace period");
    }
    Ok(())
}
