//! The pools a worker serves: the platform, the backend and the first settings of each.
//!
//! Without a file all pools share the environment. With `WARMPROOF_POOLS_FILE` each pool may
//! name a backend and replace any variable of its platform and backend, under the same names:
//!
//! ```toml
//! [pools.default]
//!
//! [pools.gpu]
//! backend = "kubernetes"
//! cap = 100
//! [pools.gpu.env]
//! TRIGGER_API_URL = "https://gpu.platform.example"
//! TRIGGER_WORKER_TOKEN = "file:///run/secrets/gpu-worker-token"
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::environment::Environment;
use super::platform::PlatformConfig;
use super::reader::Reader;
use super::workload::WorkloadConfig;
use crate::domain::ids::PoolName;
use crate::domain::pool::{
    CAP, CAP_WINDOW_MS, COOL_DOWN_MS, DELAY_MS, FOLLOW_UP_AFTER_MS, OnConnect, PoolSettings,
};

const FILE: &str = "WARMPROOF_POOLS_FILE";
const NAMES: &str = "WARMPROOF_POOLS";

/// One pool as this worker serves it.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Its name.
    pub name: PoolName,
    /// The platform that is probed about its runs.
    pub platform: PlatformConfig,
    /// How its runs are started cold.
    pub workload: WorkloadConfig,
    /// Whether it has settings of its own besides the environment. Pools without any may share their clients.
    pub own: bool,
    /// Settings that the pool gets when it is first registered. After that, the settings in the database
    /// apply.
    pub initial: PoolSettings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    pools: BTreeMap<String, Entry>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    backend: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, toml::Value>,
    delay_ms: Option<u32>,
    cap: Option<u32>,
    cap_window_ms: Option<u32>,
    shadow: Option<bool>,
    on_connect: Option<OnConnect>,
    cool_down_ms: Option<u32>,
    /// 0: no follow-up.
    follow_up_after_ms: Option<u32>,
}

/// Reads the pools that are served, each with its platform and backend; faults stay with the reader.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<Vec<PoolConfig>> {
    let file = reader.optional_text(FILE).map(|path| read_file(reader, &path));
    let names = read_names(reader, file.as_ref());
    let entries: Vec<(PoolName, Entry)> = names
        .into_iter()
        .map(|name| {
            let entry = file.as_ref().and_then(|file| file.pools.get(name.as_str())).cloned();
            (name, entry.unwrap_or_default())
        })
        .collect();
    if entries.is_empty() && file.is_none() {
        // Faults of the shared environment are reported together with the missing names.
        let _ = (PlatformConfig::read(reader), WorkloadConfig::read(reader));
        return None;
    }
    let configs: Vec<Option<PoolConfig>> =
        entries.into_iter().map(|(name, entry)| entry.read(reader, name)).collect();
    configs.into_iter().collect()
}

fn read_file(reader: &mut Reader<'_>, path: &str) -> File {
    let hint = "write a table `[pools.NAME]` for each pool; docs/configuration.md shows one";
    let text = match std::fs::read_to_string(Path::new(path)) {
        Ok(text) => text,
        Err(error) => {
            reader.fault(FILE, format!("names a file that could not be read: {}", error.kind()), hint);
            return File::default();
        }
    };
    let file: File = match toml::from_str(&text) {
        Ok(file) => file,
        Err(error) => {
            // The parser's own text repeats the line, which may hold a secret.
            let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            reader.fault(FILE, format!("line {line}: {}", error.message()), hint);
            return File::default();
        }
    };
    if file.pools.is_empty() {
        reader.fault(FILE, "names no pool", hint);
    }
    file
}

/// `WARMPROOF_POOLS`, or all of the file, or `default`.
fn read_names(reader: &mut Reader<'_>, file: Option<&File>) -> Vec<PoolName> {
    let hint = "separate names with commas, such as `default,batch`";
    let of_file = file.map(|file| file.pools.keys().cloned().collect::<Vec<_>>().join(","));
    let default = of_file.unwrap_or_else(|| PoolName::default_pool().as_str().to_owned());
    let text = reader.optional_text_or(NAMES, "default");
    let text = text.unwrap_or(default);
    let mut pools = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match PoolName::parse(name) {
            Ok(pool) if pools.contains(&pool) => {}
            Ok(pool) => {
                if file.is_some_and(|file| !file.pools.is_empty() && !file.pools.contains_key(name)) {
                    let problem = format!("names `{name}`, which is not in the file of `{FILE}`");
                    reader.fault(NAMES, problem, format!("add a table `[pools.{name}]` to the file"));
                }
                pools.push(pool);
            }
            Err(error) => reader.fault(NAMES, format!("holds a bad name: {error}"), hint),
        }
    }
    if pools.is_empty() && file.is_none() {
        reader.fault(NAMES, "names no pool", hint);
    }
    pools
}

impl Entry {
    fn read(self, reader: &mut Reader<'_>, name: PoolName) -> Option<PoolConfig> {
        let initial = self.settings(reader, &name);
        if self.backend.is_none() && self.env.is_empty() {
            return PoolConfig::of(reader, name, false, initial);
        }
        let mut overlay = BTreeMap::new();
        for (variable, value) in self.env {
            match value {
                toml::Value::String(text) => drop(overlay.insert(variable, text)),
                toml::Value::Integer(number) => drop(overlay.insert(variable, number.to_string())),
                toml::Value::Float(number) => drop(overlay.insert(variable, number.to_string())),
                toml::Value::Boolean(flag) => drop(overlay.insert(variable, flag.to_string())),
                toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
                    let problem =
                        format!("pool `{name}`: `env.{variable}` must be a text, a number or a flag");
                    reader.fault(FILE, problem, "write what the variable would hold");
                }
            }
        }
        if let Some(backend) = self.backend {
            overlay.insert("WARMPROOF_BACKEND".to_owned(), backend);
        }
        let environment: Environment = reader.environment().with(overlay);
        let mut own = Reader::new(&environment);
        let config = PoolConfig::of(&mut own, name.clone(), true, initial);
        reader.adopt(own, name.as_str());
        config
    }

    fn settings(&self, reader: &mut Reader<'_>, name: &PoolName) -> PoolSettings {
        let bounds = [
            ("delay_ms", self.delay_ms, DELAY_MS),
            ("cap_window_ms", self.cap_window_ms, CAP_WINDOW_MS),
            ("cool_down_ms", self.cool_down_ms, COOL_DOWN_MS),
            ("follow_up_after_ms", self.follow_up_after_ms.filter(|after| *after > 0), FOLLOW_UP_AFTER_MS),
            ("cap", self.cap, CAP),
        ];
        for (key, value, range) in bounds {
            if value.is_some_and(|value| !range.contains(&value)) {
                let problem = format!("pool `{name}`: `{key}` is out of range");
                let (least, most) = (range.start(), range.end());
                reader.fault(FILE, problem, format!("set it to a whole number from {least} to {most}"));
            }
        }
        let default = PoolSettings::default();
        PoolSettings {
            delay_ms: self.delay_ms,
            cap: self.cap,
            cap_window_ms: self.cap_window_ms.unwrap_or(default.cap_window_ms),
            paused: false,
            shadow: self.shadow.unwrap_or(default.shadow),
            on_connect: self.on_connect.unwrap_or(default.on_connect),
            cool_down_ms: self.cool_down_ms.unwrap_or(default.cool_down_ms),
            follow_up_after_ms: match self.follow_up_after_ms {
                None => default.follow_up_after_ms,
                Some(0) => None,
                Some(after) => Some(after),
            },
        }
    }
}

impl PoolConfig {
    fn of(reader: &mut Reader<'_>, name: PoolName, own: bool, initial: PoolSettings) -> Option<Self> {
        let platform = PlatformConfig::read(reader);
        let workload = WorkloadConfig::read(reader);
        Some(Self { name, platform: platform?, workload: workload?, own, initial })
    }
}

#[cfg(test)]
mod tests;
