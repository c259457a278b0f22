//! Wide events: one flat JSON object per line, with keys in the supervisor's order (platform.md §7).

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use uuid::Uuid;

use super::lines::Lines;

/// Longest error text in an event, in UTF-8 bytes (platform.md §7).
const ERROR_BYTES_MAX: usize = 512;

/// One event, built key by key. Empty values are left out.
#[derive(Debug, Clone)]
pub struct WideEvent {
    fields: Vec<(&'static str, Value)>,
}

impl WideEvent {
    /// Starts an event with the leading keys of the supervisor's own events.
    #[must_use]
    pub fn new(op: &'static str, node_id: &str, trace_id: Option<&str>, started_at: DateTime<Utc>) -> Self {
        let event = Self { fields: Vec::with_capacity(40) };
        event
            .with("msg", "wide_event")
            .with("request_id", format!("req-{}", Uuid::new_v4().simple()))
            .with("trace_id", trace_id)
            .with("start_time", started_at.to_rfc3339_opts(SecondsFormat::Micros, true))
            .with("service", "warmproof")
            .with("version", env!("CARGO_PKG_VERSION"))
            .with("node_id", node_id)
            .with("op", op)
            .with("kind", "scheduled")
    }

    /// Adds a key; `null` and empty texts are left out.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if !value.is_null() && value.as_str() != Some("") {
            self.fields.push((key, value));
        }
        self
    }

    /// Adds an error text, cut at the length that the supervisor keeps.
    #[must_use]
    pub fn with_error(self, key: &'static str, text: Option<&str>) -> Self {
        self.with(key, text.map(|text| &text[..text.floor_char_boundary(ERROR_BYTES_MAX)]))
    }

    /// The value of a key, if it was set.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.fields.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

impl Serialize for WideEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len()))?;
        for (key, value) in &self.fields {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// Where events go.
#[derive(Debug, Clone)]
pub enum Events {
    /// Nowhere.
    Off,
    /// One line each, such as on stdout.
    Lines(Lines),
    /// To a sink that the embedding program brings.
    Custom(Arc<dyn EventSink>),
}

/// Takes events in place of stdout.
pub trait EventSink: fmt::Debug + Send + Sync {
    /// Takes one event. It is called on the worker's own tasks and must not block.
    fn emit(&self, event: WideEvent);
}

impl Events {
    /// Queues one event. A failure goes to the log and never to the caller (platform.md §7).
    pub fn emit(&self, event: WideEvent) {
        match self {
            Self::Off => {}
            // One line at a time, so that lines of several tasks never mix.
            Self::Lines(lines) => match serde_json::to_string(&event) {
                Ok(line) => lines.send(line),
                Err(error) => tracing::warn!(%error, "could not write a wide event"),
            },
            Self::Custom(sink) => sink.emit(event),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_object_in_the_supervisors_key_order() {
        let event = WideEvent::new(
            "warmstart.verify",
            "node-a",
            Some("0af7651916cd43dd8448eb211c80319c"),
            DateTime::UNIX_EPOCH,
        )
        .with("ok", true)
        .with("meta.run_id", "run_x")
        .with("region", None::<&str>);
        let line = serde_json::to_string(&event).expect("JSON");
        let keys = [
            "msg",
            "request_id",
            "trace_id",
            "start_time",
            "service",
            "version",
            "node_id",
            "op",
            "kind",
            "ok",
            "meta.run_id",
        ];
        let places: Vec<usize> = keys
            .iter()
            .map(|key| line.find(&format!("\"{key}\":")).unwrap_or_else(|| panic!("{key} in {line}")))
            .collect();
        assert!(places.is_sorted(), "{line}");
        assert!(line.contains(r#""start_time":"1970-01-01T00:00:00.000000Z""#), "{line}");
        assert!(!line.contains("region"), "{line}");
    }

    #[test]
    fn an_error_text_is_cut_at_a_character() {
        let long = "ä".repeat(400);
        let event = WideEvent::new("x", "n", None, DateTime::UNIX_EPOCH).with_error("error", Some(&long));
        let kept = event.get("error").and_then(Value::as_str).expect("an error");
        assert_eq!(kept.len(), 512);
    }
}
