//! Faulty networks: callers hang up, connections are half-open, and no verification is lost.

mod dead_hosts;
mod half_open;
mod hang_ups;
