//! Bad weather for minutes: storms of losses, brown-outs, runners that come back from the dead.
//!
//! One trial at a time, and apart from the other tests: each keeps the machine busy.

#![allow(missing_docs, unreachable_pub, reason = "a test binary has no outside")]
#![allow(clippy::disallowed_methods, reason = "tests read rows and clocks from outside")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails at once")]
#![allow(clippy::print_stdout, reason = "a test prints what it measured")]

mod brown_out;
mod double_start;
mod faults;
mod growth;
mod storm;

/// The trial that holds it has the machine to itself.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
