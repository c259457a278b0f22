//! Settings, read from the environment once, checked all at once.

pub mod platform;
pub mod postgres;
