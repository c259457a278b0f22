//! What these tests need besides the cluster; all but the trap is shared.

#[path = "../it/support/db.rs"]
pub mod db;
#[path = "../it/support/gateway.rs"]
pub mod gateway;
#[path = "../it/support/platform.rs"]
pub mod platform;
#[path = "../it/support/pooler.rs"]
pub mod pooler;
#[path = "../it/support/process.rs"]
pub mod process;
#[path = "../it/support/receiver.rs"]
pub mod receiver;
#[path = "../it/support/stage.rs"]
pub mod stage;
#[path = "../it/support/wait.rs"]
pub mod wait;

pub mod trap;
