//! The platform's worker API, as a client sees it (platform.md §1).
//!
//! [`Client`] makes one request per call: no retry, no redirect, a timeout of its
//! own. The worker decides when to probe again, because a durable row can wait
//! where a request in flight only holds a slot. Nothing here judges what a
//! probe saw; that is [`crate::domain::verdict`].

pub mod wire;

mod call;
mod client;
mod probe;
mod prune;

pub use call::CallError;
pub use client::{Client, ClientError};

#[cfg(test)]
mod tests;
