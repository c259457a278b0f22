//! What these tests need besides the cluster; all but the trap is shared.

pub mod trap;
