//! A failover of two real servers under load: a primary, a standby that streams from it with synchronous commit,
//! `kill -9`, a promotion, and the old primary back as a standby. Every schedule that was answered is still there.

#![allow(missing_docs, unreachable_pub, reason = "a test binary has no outside")]
#![allow(clippy::disallowed_methods, reason = "tests read rows and clocks from outside")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails at once")]
#![allow(clippy::print_stdout, reason = "a test prints what it measured")]

mod failing_over;
mod pair;
mod standby_away;
