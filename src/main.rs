//! The `warmproof` binary.

fn main() {}
