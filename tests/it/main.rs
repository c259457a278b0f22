//! Warmproof's behaviour with a real PostgreSQL, a simulated platform and real processes.

#![allow(missing_docs, unreachable_pub, reason = "a test binary has no outside")]
#![allow(clippy::disallowed_methods, reason = "tests read rows and clocks from outside")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails at once")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test names what it expects and refuses the rest")]
#![allow(clippy::print_stdout, reason = "a test prints what it measured")]

mod addresses;
mod admin;
mod api;
mod clocks;
mod coalesce;
mod commands;
mod connections;
mod disabled;
mod drain;
mod early;
mod five_behaviours;
mod follow_up;
mod gateway_uncertainty;
mod kills;
mod many_workers;
mod metrics;
mod network;
mod open_transactions;
mod outages;
mod pools;
mod rarer_ends;
mod redrive;
mod schema;
mod secrets;
mod servers;
mod sick_workers;
mod slow_creates;
mod sql_calls;
mod sql_counts;
mod sql_queries;
mod sql_roles;
mod stalled_readers;
mod status;
mod stopped_worker;
mod store_cancel;
mod store_claim;
mod store_conservation;
mod store_loss;
mod store_plans;
mod store_schedule;
mod store_settle;
mod takeover;
mod tls;
mod traces;
mod webhook;
mod wide_event;
