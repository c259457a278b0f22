//! Durable proof that a warm start really started.
//!
//! [Trigger.dev](https://trigger.dev) is a platform for background jobs. Its supervisor takes a run off the queue
//! and, instead of creating a new container for it, offers it to a runner that already waits: a *warm start*. The
//! broker between them answers *hit* once it has written the run to the runner's socket, and a hit does not prove
//! that a process has read it.
//!
//! Warmproof stores each hit as a row in PostgreSQL, with the moment at which a worker probes the run. If the run
//! has not moved by then, the worker cold-starts it.
//!
//! A supervisor needs [`Scheduler`]: [`connect`](Scheduler::connect), [`schedule`](Scheduler::schedule) after each
//! hit, [`schedule_in`](Scheduler::schedule_in) inside a transaction of its own, [`cancel`](Scheduler::cancel) when
//! the runner connects, and [`close`](Scheduler::close). Workers run as `warmproof worker`; a program that embeds
//! one begins with [`Worker::builder`](worker::Worker::builder).
//!
//! # Cargo features
//!
//! All are on by default. `docker` and `kubernetes` are the backends of cold starts that need a client of their own,
//! `ecr` adds tokens for Amazon's container registry to `docker`, and `otlp` sends traces. The gateway and the
//! webhook are always there.

#![forbid(unsafe_code)]

pub mod domain;

pub mod config;
pub mod shutdown;
pub mod telemetry;
mod transport;

pub mod platform;
pub mod store;
pub mod workload;

pub mod caller;
pub mod scheduler;

pub mod admin;
pub mod api;
pub mod worker;

pub mod cli;

pub use scheduler::Scheduler;
