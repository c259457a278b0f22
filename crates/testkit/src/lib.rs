//! What the tests need: a private server, databases of their own, dispatches to schedule,
//! the API, a platform, processes to kill and a network to cut.

#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "its only users are the tests of this repository")]
#![allow(clippy::disallowed_methods, reason = "tests read rows and clocks from outside")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails at once")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test names what it expects and refuses the rest")]
#![allow(clippy::print_stdout, reason = "a test prints what it measured")]
#![allow(
    clippy::return_self_not_must_use,
    clippy::must_use_candidate,
    reason = "tests use what they ask for"
)]

pub mod api;
pub mod audit;
pub mod db;
pub mod dispatch;
pub mod gateway;
pub mod lives;
pub mod logs;
pub mod page;
pub mod platform;
pub mod pooler;
pub mod process;
pub mod proxy;
pub mod receiver;
pub mod sql;
pub mod stage;
pub mod wait;
