//! Lines: what a process writes to stdout and stderr, through a bounded queue and a thread of its own.
//!
//! A reader that stops reading fills the pipe, and a write then waits for ever. So no task of the program writes
//! itself: it puts its line into the queue, and a line that finds the queue full is dropped and counted.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::metrics;

/// Lines that wait for the reader; with events of about a kilobyte, 8 MB.
const QUEUE_MAX: usize = 8192;

/// A stream of lines. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lines(NonBlocking);

/// Writes what the queue still holds when it is dropped, for a second at most.
#[must_use = "dropping it ends the stream"]
#[derive(Debug)]
pub struct Flush(#[expect(dead_code, reason = "works by being dropped")] WorkerGuard);

/// What is counted of one stream.
struct Counted {
    stream: &'static str,
    lost: ErrorCounter,
    reported: usize,
}

static STREAMS: Mutex<Vec<Counted>> = Mutex::new(Vec::new());

/// Starts a stream, `events` or `logs` in metrics, with a thread that writes it.
pub fn start(stream: &'static str, to: impl Write + Send + 'static) -> (Lines, Flush) {
    let builder = NonBlockingBuilder::default().buffered_lines_limit(QUEUE_MAX).lossy(true);
    let (lines, guard) = builder.thread_name(stream).finish(to);
    let counted = Counted { stream, lost: lines.error_counter(), reported: 0 };
    STREAMS.lock().unwrap_or_else(PoisonError::into_inner).push(counted);
    (Lines(lines), Flush(guard))
}

impl Lines {
    /// Queues one line; its newline is added here.
    pub fn send(&self, mut line: String) {
        line.push('\n');
        // Fails only after the process has begun to end.
        let _ = self.0.clone().write_all(line.as_bytes());
    }

    pub(super) fn writer(&self) -> NonBlocking {
        self.0.clone()
    }
}

/// Counts the lines that were dropped since the last call, and warns at the first ones of a stream.
pub fn report_dropped() {
    for stream in STREAMS.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
        let lost = stream.lost.dropped_lines();
        let more = lost.saturating_sub(stream.reported);
        if more > 0 && stream.reported == 0 {
            tracing::warn!(
                stream = stream.stream,
                "lines are dropped, because their reader does not read; warmproof_events_dropped_total counts them"
            );
        }
        metrics::lines_dropped(stream.stream, more);
        stream.reported = lost;
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// A pipe whose reader reads nothing until it is allowed to.
    struct Stalled(Receiver<()>);

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_and_never_a_wait() {
        let (reads, stalled) = channel();
        let (lines, flush) = start("events", Stalled(stalled));
        for _ in 0..QUEUE_MAX + 10 {
            lines.send("a line".to_owned());
        }
        assert!(
            (8..=10).contains(&lines.0.error_counter().dropped_lines()),
            "one or two are with the writer"
        );
        drop(reads);
        drop(flush);
    }
}
