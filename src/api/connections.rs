//! Connections: how much each may hold before a handler reads it.
//!
//! The server reads ahead of the handler, by default up to 400 KB of each connection. Over 256 connections
//! that is more than all bodies in flight, so reading ahead has a bound of its own.

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
/// The same bound for HTTP/2, for each stream and for each connection.
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
    // `accept` retries connections that failed, and waits while the process has no descriptor left.
    while let Some((stream, _)) = stop.run_until_cancelled(Listener::accept(&mut listener)).await {
        let service = TowerToHyperService::new(router.clone());
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = open.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error, "a connection failed");
            }
        });
    }
    drop(listener);
    if timeout(GRACE, open.shutdown()).await.is_err() {
        tracing::warn!("connections were still open after the grace period");
    }
    Ok(())
}
