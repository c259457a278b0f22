//! Benchmarks of the product on one private PostgreSQL, with the server's own limit beside them.
//!
//! Every figure that is compared is measured in one run on one cluster. Loads are bounded in
//! count and time and stay on this machine. Nothing here is on any path of the product.

pub mod context;
pub mod figures;

pub use context::{Context, Scale};
