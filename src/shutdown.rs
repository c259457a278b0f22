//! Turns SIGTERM and SIGINT into a token that any task may watch.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Signals that come within this time of the first are the same one.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// A token that is cancelled by the first SIGTERM or SIGINT of this process. A second one ends the process at once:
/// what it has in flight is left to its leases, as when it is killed.
///
/// # Errors
/// The process may not register signal handlers.
pub fn on_signal() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => ("SIGTERM", SignalKind::terminate()),
                _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt()),
            }
        };
        let (name, _) = next().await;
        tracing::info!(signal = name, "stopping on signal");
        stop.cancel();
        let first = Instant::now();
        let (name, kind) = loop {
            let signal = next().await;
            // Some shells and supervisors pass one signal on twice.
            if first.elapsed() > SAME_SIGNAL {
                break signal;
            }
        };
        tracing::warn!(signal = name, "a second signal: ending at once");
        end(128 + kind.as_raw_value());
    });
    Ok(token)
}

/// Ends the process as a shell reports one that a signal ended.
#[expect(clippy::exit, reason = "the operator does not want to wait for anything any more")]
fn end(code: i32) -> ! {
    std::process::exit(code)
}

/// Cancels `stop` when standard input ends, which is how a child learns that its parent died.
pub fn on_stdin_closed(stop: CancellationToken) {
    // A separate thread, because a read of standard input cannot be cancelled.
    std::thread::spawn(move || {
        let ended = io::copy(&mut io::stdin().lock(), &mut io::sink());
        tracing::info!(
            error = ended.err().map(tracing::field::display),
            "stopping, standard input has closed"
        );
        stop.cancel();
    });
}
