//! The demo as a user starts it, with tokens that the test knows.

use std::collections::BTreeMap;
use std::env;

use warmproof_testkit::process::{Process, Program};

/// The token of the demo's environment; it may do everything.
pub const OPERATOR: &str = "page-test-token-of-an-operator";

pub struct Demo {
    pub url: String,
    pub read_token: String,
    _process: Process,
}

impl Demo {
    /// Long enough for any machine; it is killed when the test is through, and takes all it started along.
    pub async fn start() -> Self {
        let mut environment = BTreeMap::new();
        for kept in ["PATH", "HOME", "TMPDIR", "WARMPROOF_PG_BIN"] {
            if let Ok(value) = env::var(kept) {
                environment.insert(kept.to_owned(), value);
            }
        }
        environment.insert("WARMPROOF_API_TOKEN".to_owned(), OPERATOR.to_owned());
        let arguments = ["demo", "--seconds", "900", "--runs-per-second", "6", "--dead-share", "0.2"];
        let process = Program::of_the_lab(&arguments, environment.clone()).start();
        let reported = |line: String| line.split_whitespace().nth(1).expect("an address").to_owned();
        let url = reported(process.prints("page     ").await).trim_end_matches('/').to_owned();
        let database = reported(process.prints("database ").await);
        environment.insert("WARMPROOF_DATABASE_URL".to_owned(), database);
        environment.insert("WARMPROOF_SCHEMA".to_owned(), "warmproof_demo".to_owned());
        let create = ["product", "token", "create", "page-reader", "--scope", "read"];
        let mut making = Program::of_the_lab(&create, environment).start();
        let read_token = making.prints("wp_").await;
        assert_eq!(making.ended().await, Some(0));
        Self { url, read_token, _process: process }
    }
}
