//! Benchmarks of the product on one private PostgreSQL, with the server's own limit beside them.
//!
//! Figures are compared only if they come from one run on one cluster. Loads are bounded in
//! count and time and stay on this machine. The product never calls this module.

pub mod burst;
pub mod cancel;
pub mod cancel_heavy;
pub mod check;
pub mod claimer;
pub mod context;
pub mod depth;
pub mod execute;
pub mod figures;
pub mod fleet;
pub mod held;
pub mod http;
pub mod idle;
pub mod lag;
pub mod life;
pub mod limit;
pub mod load;
pub mod memory;
pub mod message;
pub mod neighbour;
pub mod pace;
pub mod platform;
pub mod probe;
pub mod process;
pub mod reading;
pub mod rows;
pub mod schedule;
pub mod server;
pub mod spent;
pub mod wal;

pub use context::{Context, Scale};
