//! Turns SIGTERM and SIGINT into a token that any task may watch.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGTERM or SIGINT of this process.
///
/// Later signals change nothing: each process drains under a deadline of its own.
///
/// # Errors
/// The process may not register signal handlers.
pub fn on_signal() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = token.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping on signal");
        stop.cancel();
    });
    Ok(token)
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
