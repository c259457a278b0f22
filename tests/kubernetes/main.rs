//! The kubernetes backend against a real API server; `make test-kubernetes` starts one.
//!
//! There is no scheduler and no kubelet: pods stay pending unless a test acts as the kubelet.
//! Each test has a namespace of its own, and works with the rights docs/operating.md asks for.

#![allow(missing_docs, unreachable_pub, reason = "a test binary has no outside")]
#![allow(clippy::disallowed_methods, reason = "tests read rows and clocks from outside")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails at once")]
#![allow(clippy::print_stdout, reason = "a test prints its seed")]

mod cluster;
mod support;

mod creates;
mod lost_dispatches;
mod options;
mod refusals;
