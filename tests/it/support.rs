//! What the tests stand on: a private server, databases of their own, dispatches to schedule.

pub mod db;
pub mod dispatch;
