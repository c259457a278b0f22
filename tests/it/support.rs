//! What the tests need: a private server, databases of their own, dispatches to schedule,
//! the API, a platform, processes to kill and a network to cut.

pub mod api;
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
