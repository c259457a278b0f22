//! Checks the API against its own description: no 5xx, and no status, content type or body that it does not
//! describe. `make test-contract` runs it, because it needs schemathesis, which comes from Python's package index.

#![allow(missing_docs, unreachable_pub, reason = "a test binary has no outside")]
#![allow(clippy::disallowed_methods, reason = "it starts a program and reads its script's variables")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails at once")]
#![allow(clippy::print_stdout, reason = "a test prints what it measured")]

use std::env;
use std::process::{Command, ExitCode};

use serde_json::json;

use warmproof_testkit::api::{TOKEN, api, hit};

/// The checks against the description. Two are missing: that a bad request is refused, and that a good one is accepted,
/// because a schema cannot express all that makes a request good.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,unsupported_method,ignored_auth";
/// Runs of the description's examples, so that lookups find something.
const PENDING: &str = "run_mwtp8ui300000bj9lc3fwlbwr1";
const ENDED: &str = "run_mwtp8ui300000bj9lc3fwlbwr2";

#[tokio::main]
async fn main() -> ExitCode {
    let schemathesis = env::var("SCHEMATHESIS").unwrap();
    warmproof::telemetry::metrics::install();
    let api = api().await;
    for run in [PENDING, ENDED] {
        assert_eq!(api.schedule(&hit(run, "snapshot_cmwtp9rtf0000dh5amclokb91")).await.status, 201);
    }
    assert_eq!(api.cancel(&json!({"run_id": ENDED, "reason": "connected"})).await.status, 200);

    let mut command = Command::new(schemathesis);
    command
        .arg("run")
        .arg(format!("{}/openapi.json", api.url))
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .args(["--checks", CHECKS, "--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", &env::var("EXAMPLES").unwrap(), "--seed", &env::var("SEED").unwrap()])
        // It leaves caches where it runs.
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .args(["--workers", "1", "--no-color", "--generation-database", "none"]);
    let held = tokio::task::spawn_blocking(move || command.status()).await.unwrap().unwrap();
    api.db.assert_conserved().await;
    if held.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
