//! What these tests need: an engine, a registry, a way to kill a worker in the middle; the rest is shared.

pub mod engine;
pub mod registry;
pub mod trap;
