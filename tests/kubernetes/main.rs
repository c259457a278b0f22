//! The kubernetes backend against a real API server; `make test-kubernetes` starts one.
//!
//! There is no scheduler and no kubelet: pods stay pending unless a test plays the kubelet's part.
//! Each test has a namespace of its own, and works with the rights docs/operating.md asks for.

mod cluster;

mod creates;
mod options;
mod refusals;
