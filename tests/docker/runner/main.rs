//! The runner inside the image of `FROM scratch`: starts its run's attempt, completes it, and ends.
//!
//! Built by `scripts/dockerd`, static and by itself. `LINGER` keeps it alive afterwards, as a runner is
//! that polls for warm starts; `EXIT` ends it at once with that code and without any request.

use std::env::var;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Ok(code) = var("EXIT") {
        return ExitCode::from(code.parse::<u8>().expect("an exit code"));
    }
    let (run, snapshot) = (needed("TRIGGER_RUN_ID"), needed("TRIGGER_SNAPSHOT_ID"));
    // The machine's own name for it, so that a wrong hostname fails the run.
    let name = std::fs::read_to_string("/etc/hostname").expect("a host name");
    assert_eq!(name.trim(), needed("TRIGGER_RUNNER_ID"), "the hostname is the runner's id");
    let started = post(&run, &snapshot, "start", r#"{"isWarmStart":false}"#);
    if let Some(snapshot) = started.as_deref().and_then(snapshot_of) {
        let body = format!(r#"{{"completion":{{"ok":true,"id":"{run}","outputType":"application/json"}}}}"#);
        post(&run, &snapshot, "complete", &body);
    }
    if var("LINGER").is_ok() {
        loop {
            std::thread::park();
        }
    }
    ExitCode::SUCCESS
}

fn needed(variable: &str) -> String {
    var(variable).unwrap_or_else(|_| panic!("{variable} is not set"))
}

/// Asks the platform; the answer's body, if it is a success.
fn post(run: &str, snapshot: &str, action: &str, body: &str) -> Option<String> {
    // A static program has no resolver to ask.
    let host = needed("TRIGGER_SUPERVISOR_API_DOMAIN").replace("localhost", "127.0.0.1");
    let address = format!("{host}:{}", needed("TRIGGER_SUPERVISOR_API_PORT"));
    let mut platform = TcpStream::connect(&address).expect("a connection to the platform");
    let path = format!("/engine/v1/worker-actions/runs/{run}/snapshots/{snapshot}/attempts/{action}");
    write!(
        platform,
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
         x-trigger-worker-instance-name: {name}\r\nx-trigger-worker-managed-secret: {secret}\r\n\
         content-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}",
        token = needed("WORKER_TOKEN"),
        name = needed("TRIGGER_RUNNER_ID"),
        secret = needed("MANAGED_SECRET"),
        length = body.len(),
    )
    .expect("a request");
    let mut answer = String::new();
    platform.read_to_string(&mut answer).expect("an answer");
    println!("{action}: {}", answer.lines().next().unwrap_or_default());
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}

/// The friendly id of the answer's snapshot.
fn snapshot_of(answer: &str) -> Option<String> {
    let from = answer.find("\"snapshot_")? + 1;
    Some(answer[from..].split('"').next()?.to_owned())
}
