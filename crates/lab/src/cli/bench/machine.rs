//! The machine that was measured, as Linux describes it.

use std::fs;
use std::thread::available_parallelism;

use serde_json::{Value, json};

/// Cores, memory and CPU model; what is unknown is null.
pub(super) fn machine() -> Value {
    let model = field("/proc/cpuinfo", "model name");
    let memory_kb: Option<u64> =
        field("/proc/meminfo", "MemTotal").and_then(|text| text.split_whitespace().next()?.parse().ok());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    json!({
        "cores": available_parallelism().ok().map(std::num::NonZero::get),
        "memory_mb": memory_kb.map(|kb| kb / 1024),
        "cpu": model,
        "kernel": kernel.as_deref().map(str::trim),
        "os": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
    })
}

/// The first `name : value` line of a file in `/proc`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}
