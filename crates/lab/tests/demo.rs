//! The demo, as a user runs it, only shorter.

use std::process::{Command, Stdio};

use serde_json::Value;

#[test]
fn a_short_demo_loses_nothing_and_says_so_in_its_last_line() {
    let output = Command::new(env!("CARGO_BIN_EXE_warmproof-lab"))
        .args(["demo", "--seconds", "12", "--dead-share", "0.2", "--json"])
        .stdin(Stdio::null())
        .env_remove("WARMPROOF_DATABASE_URL")
        .output()
        .expect("the demo runs");
    let stdout = String::from_utf8(output.stdout).expect("text");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    let tally: Value = serde_json::from_str(stdout.lines().last().expect("a last line")).expect("JSON");
    for zero in ["double_starts", "lost", "unaccounted"] {
        assert_eq!(tally[zero], 0, "{tally}");
    }
    assert_eq!(tally["workers_killed"], 1, "{tally}");
    assert!(tally["silent_losses"].as_u64() > Some(0), "nothing was put to the test: {tally}");
    assert_eq!(tally["recovered"], tally["silent_losses"], "{tally}");
    assert!(tally["hits"].as_u64() > tally["silent_losses"].as_u64(), "{tally}");
}
