//! HTTP server: how many connections a process keeps, and for how long.
//!
//! Each connection costs a descriptor, and the same descriptors carry probes and the database's connections. So a
//! listener keeps at most half of what the process may have. A connection that sends nothing is closed; where too many
//! are open, the one that has been idle longest goes first.

mod connections;
mod watched;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use connections::{Connections, Dropped};
use watched::{Counted, Watched};

/// Most bytes of a connection that are read ahead: heads fit, and bodies are read as they are taken.
const READ_AHEAD_MAX: usize = 64 << 10;
/// The same bound for HTTP/2, for each stream and for each connection.
const WINDOW: u32 = 64 << 10;
/// How long connections may stay open after `stop`: a client that never ends its request must not
/// keep the process.
const GRACE: Duration = Duration::from_secs(20);
/// How long a head may take, and how long a connection may wait for its next request: longer than load balancers keep
/// theirs, so that none of them sends a request into a connection that is just closed.
const HEAD_MAX: Duration = Duration::from_secs(75);
/// Connections that a listener keeps even where descriptors are very few, and at most.
const CONNECTIONS: std::ops::RangeInclusive<u64> = 16..=8192;
/// How long no connection is accepted after the process ran out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What one listener may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Most connections at a time.
    pub(crate) connections_max: usize,
    /// How long an answer may take to begin and to go on.
    pub(crate) answer_max: Duration,
    /// What counts a dropped connection, by the reason.
    pub(crate) count_dropped: fn(&'static str),
}

impl Bounds {
    /// Half of the descriptors of the process, whose limit is raised as far as it may be.
    pub(crate) fn of_process(answer_max: Duration, count_dropped: fn(&'static str)) -> Self {
        let descriptors = descriptors().unwrap_or(1024);
        let connections_max = (descriptors / 2).clamp(*CONNECTIONS.start(), *CONNECTIONS.end());
        Self {
            connections_max: usize::try_from(connections_max).unwrap_or(usize::MAX),
            answer_max,
            count_dropped,
        }
    }
}

/// How many descriptors this process may have, after the soft limit was raised to the hard one.
fn descriptors() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return Ok(hard);
    }
    Ok(soft)
}

/// Serves until `stop` is cancelled, then finishes the requests in flight, for [`GRACE`] at most.
pub(crate) async fn serve(listener: TcpListener, router: Router, bounds: Bounds, stop: CancellationToken) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).max_buf_size(READ_AHEAD_MAX);
    // No pings of ours: a connection on which only they moved would never seem stuck.
    builder.http2().initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let (connections, open) = (Arc::new(Connections::new(bounds)), GracefulShutdown::new());
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                connections.dropped(Dropped::NotAccepted, Some(&error));
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(connection) = connections.admit().await else { continue };
        let service = TowerToHyperService::new(Counted::new(router.clone(), &connection));
        let stream = TokioIo::new(Watched::new(stream, &connection));
        let served = open.watch(builder.serve_connection(stream, service).into_owned());
        let connections = Arc::clone(&connections);
        tokio::spawn(async move {
            tokio::select! {
                ended = served => {
                    if let Err(error) = ended {
                        tracing::debug!(error, "a connection failed");
                    }
                }
                why = connection.is_to_be_dropped(bounds) => connections.dropped(why, None),
            }
            connections.ended(&connection);
        });
    }
    drop(listener);
    if timeout(GRACE, open.shutdown()).await.is_err() {
        tracing::warn!("connections were still open after the grace period");
    }
}

/// Errors of a connection that was closed before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
