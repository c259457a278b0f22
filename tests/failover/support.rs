//! What these tests share with the others.

#![allow(dead_code, reason = "shared with other test binaries, which use more of it")]

#[path = "../it/support/dispatch.rs"]
pub mod dispatch;
#[path = "../it/support/wait.rs"]
pub mod wait;
