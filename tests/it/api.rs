//! The HTTP API, asked over HTTP.

mod bad_input;
mod busy;
mod cancel;
mod health;
mod hostile;
mod limits;
mod lookup;
mod openapi;
mod operate;
mod schedule;
mod secrets;
