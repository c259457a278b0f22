//! Networks as they are: callers hang up, connections are half-open, and no promise is lost by it.

mod half_open;
mod hang_ups;
