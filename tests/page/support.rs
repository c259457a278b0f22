//! The support that these tests share with the others.

#[path = "../it/support/pooler.rs"]
pub mod pooler;
#[path = "../it/support/process.rs"]
pub mod process;
#[path = "../it/support/wait.rs"]
pub mod wait;
