//! Networks as they are: callers hang up, connections are half-open, and no promise is lost by it.

mod dead_hosts;
mod half_open;
mod hang_ups;
