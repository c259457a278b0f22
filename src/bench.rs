//! Benchmarks of the product on one private PostgreSQL, with the server's own limit beside them.
//!
//! Every figure that is compared is measured in one run on one cluster. Loads are bounded in
//! count and time and stay on this machine. Nothing here is on any path of the product.

pub mod cancel;
pub mod check;
pub mod context;
pub mod execute;
pub mod figures;
pub mod idle;
pub mod life;
pub mod limit;
pub mod load;
pub mod memory;
pub mod process;
pub mod schedule;
pub mod server;
pub mod wal;

pub use context::{Context, Scale};
