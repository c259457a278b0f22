//! The Docker backend against a real engine, whose containers start real attempts on the simulated platform.
//!
//! `make test-docker` starts the engine and runs these.

#![allow(missing_docs, unreachable_pub, reason = "a test binary has no outside")]
#![allow(clippy::disallowed_methods, reason = "tests read rows and clocks from outside")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails at once")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test names what it expects and refuses the rest")]
#![allow(clippy::print_stdout, reason = "a test prints its seed")]

mod support;

mod container;
mod leftovers;
mod lost_dispatches;
mod networks;
mod pull;
mod races;
mod slow_pull;
