//! Where Warmproof is shown, tried and measured. Nothing here is part of what ships.
//!
//! The simulator replaces the platform, and the small supervisor a real one; the demo runs the product
//! between them, and the benchmark measures it beside the limit of PostgreSQL itself. Modules name only the
//! public items of the product.

pub mod postgres;
pub mod product;
pub mod simulator;
pub mod supervisor;

pub mod bench;

pub mod cli;
