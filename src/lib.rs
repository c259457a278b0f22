//! Durable proof that a warm start really started.
#![doc = ""]

pub mod domain;

pub mod config;
pub mod shutdown;
pub mod telemetry;
mod transport;

pub mod platform;
pub mod postgres;
pub mod store;
pub mod workload;

pub mod caller;
pub mod scheduler;

pub mod admin;
pub mod api;
pub mod simulator;
pub mod supervisor;
pub mod worker;

pub mod bench;

pub mod cli;
