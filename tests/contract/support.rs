//! What it shares with the other tests.

#[path = "../it/support/api.rs"]
pub mod api;
#[path = "../it/support/db.rs"]
pub mod db;
#[path = "../it/support/dispatch.rs"]
pub mod dispatch;
#[path = "../it/support/pooler.rs"]
pub mod pooler;
