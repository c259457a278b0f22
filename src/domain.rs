//! The vocabulary and the rules: pure values, no I/O, no clock.
//!
//! Everything here can be tested without a database. A type in this layer may
//! derive serde, but it never holds a connection and never asks for the time.

pub mod backoff;
pub mod claim;
pub mod dispatch;
pub mod ids;
pub mod outcome;
pub mod pool;
pub mod status;
pub mod verdict;
pub mod verification;
pub mod wilson;
