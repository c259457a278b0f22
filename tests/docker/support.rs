//! What these tests need: an engine, a registry, a way to kill a worker in the middle; the rest is shared.

#[path = "../it/support/db.rs"]
pub mod db;
#[path = "../it/support/platform.rs"]
pub mod platform;
#[path = "../it/support/pooler.rs"]
pub mod pooler;
#[path = "../it/support/process.rs"]
pub mod process;
#[path = "../it/support/stage.rs"]
pub mod stage;
#[path = "../it/support/wait.rs"]
pub mod wait;

pub mod engine;
pub mod registry;
pub mod trap;
