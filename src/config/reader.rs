//! Reads variables one by one and collects every fault.
//!
//! Each concern reads all of its variables before it builds its struct, so one
//! start reports every fault. A faulty value of a variable with a default reads as
//! that default; once there is a fault, no settings are returned.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::environment::{Environment, Value};
use super::error::{ConfigError, ConfigErrors};
use super::number;

/// Longest part of a refused, non-secret value that a fault repeats, in characters.
const ECHO_CHARS_MAX: usize = 60;

/// One pass over an environment.
#[derive(Debug)]
pub struct Reader<'e> {
    environment: &'e Environment,
    faults: Vec<ConfigError>,
    asked: BTreeMap<&'static str, VariableDoc>,
}

/// What the documentation must state about a variable that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableDoc {
    /// The default, `required` or `none`.
    pub default: String,
    /// The bounds, such as `1 to 10`, where the value is a bounded number.
    pub bounds: Option<String>,
}

/// Runs `read` over the environment; any fault it noted turns its result into [`ConfigErrors`].
pub fn read_all<T>(
    environment: &Environment,
    read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
) -> Result<T, ConfigErrors> {
    let mut reader = Reader::new(environment);
    let value = read(&mut reader);
    match value {
        Some(value) if reader.faults.is_empty() => Ok(value),
        Some(_) | None => Err(ConfigErrors(reader.faults)),
    }
}

impl<'e> Reader<'e> {
    /// A reader that has read nothing yet.
    pub fn new(environment: &'e Environment) -> Self {
        Self { environment, faults: Vec::new(), asked: BTreeMap::new() }
    }

    /// Notes a fault of a variable; for checks across several of them.
    ///
    /// The same fault counts once: several concerns may read one variable.
    pub fn fault(&mut self, variable: &'static str, problem: impl Into<String>, hint: impl Into<String>) {
        let fault = ConfigError { pool: None, variable, problem: problem.into(), hint: hint.into() };
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    /// The environment that is read.
    pub fn environment(&self) -> &'e Environment {
        self.environment
    }

    /// Adds the faults that another reader found in a pool's own settings.
    ///
    /// A fault of the environment itself, which all pools share, was noted already or is noted once.
    pub fn adopt(&mut self, other: Reader<'_>, pool: &str) {
        self.asked.extend(other.asked);
        for fault in other.faults {
            if !self.faults.contains(&fault) {
                self.faults.push(ConfigError { pool: Some(pool.to_owned()), ..fault });
            }
        }
    }

    /// A text with a default that the documentation names, while the reader decides on its own.
    pub fn optional_text_or(&mut self, variable: &'static str, documented: &str) -> Option<String> {
        self.raw(variable, documented).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// A text. Unset and empty are the same, because the platform's supervisor tests for truthy values.
    pub fn optional_text(&mut self, variable: &'static str) -> Option<String> {
        self.raw(variable, "none").filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// A text that must be there.
    pub fn text(&mut self, variable: &'static str, hint: &str) -> Option<String> {
        let text = self.raw(variable, "required").map(str::to_owned);
        self.require(variable, text, hint)
    }

    /// A text with a default.
    pub fn text_or(&mut self, variable: &'static str, default: &str) -> String {
        let text = self.raw(variable, default).filter(|text| !text.is_empty());
        text.unwrap_or(default).to_owned()
    }

    /// One of a few words, or nothing.
    pub fn optional_one_of<'w>(&mut self, variable: &'static str, words: &[&'w str]) -> Option<&'w str> {
        let text = self.optional_text(variable)?;
        let known = words.iter().find(|word| **word == text).copied();
        if known.is_none() {
            let problem = format!("is not one of the allowed words: `{}`", echo(&text));
            self.fault(variable, problem, format!("set it to one of `{}`", words.join("`, `")));
        }
        known
    }

    /// One of a few words, with a default.
    pub fn one_of<'w>(&mut self, variable: &'static str, default: &'w str, words: &[&'w str]) -> &'w str {
        let known = self.optional_one_of(variable, words);
        self.asked.insert(variable, VariableDoc { default: default.to_owned(), bounds: None });
        known.unwrap_or(default)
    }

    /// `true` or `1` in any case is true; every other text is false, and so is an empty one
    /// (platform.md §6).
    pub fn flag(&mut self, variable: &'static str, default: bool) -> bool {
        let text = self.raw(variable, if default { "true" } else { "false" });
        text.map_or(default, |text| matches!(text.trim().to_lowercase().as_str(), "true" | "1"))
    }

    /// A whole number within bounds.
    pub fn whole(&mut self, variable: &'static str, default: u64, bounds: RangeInclusive<u64>) -> u64 {
        let allowed = format!("{} to {}", bounds.start(), bounds.end());
        let text = self.raw(variable, &default.to_string()).map(str::to_owned);
        self.asked.entry(variable).and_modify(|asked| asked.bounds = Some(allowed.clone()));
        let Some(text) = text else { return default };
        let range = format!("set it to a whole number from {allowed}");
        let Some(value) = number::parse(&text) else {
            self.fault(variable, format!("is not a number: `{}`", echo(&text)), range);
            return default;
        };
        // Printed and read again, a whole number in range is exact; anything else fails to read.
        match format!("{value}").parse::<u64>() {
            Ok(whole) if bounds.contains(&whole) => whole,
            Ok(_) | Err(_) if value.fract() == 0.0 => {
                self.fault(variable, format!("is out of range: `{}`", echo(&text)), range);
                default
            }
            Ok(_) | Err(_) => {
                self.fault(variable, format!("is not a whole number: `{}`", echo(&text)), range);
                default
            }
        }
    }

    /// A count or a port: a whole number within bounds that fits 32 bits.
    pub fn count(&mut self, variable: &'static str, default: u32, bounds: RangeInclusive<u32>) -> u32 {
        let bounds = u64::from(*bounds.start())..=u64::from(*bounds.end());
        u32::try_from(self.whole(variable, default.into(), bounds)).unwrap_or(default)
    }

    /// A whole number within bounds, if it is set.
    pub fn optional_count(&mut self, variable: &'static str, bounds: RangeInclusive<u32>) -> Option<u32> {
        let allowed = format!("{} to {}", bounds.start(), bounds.end());
        let count = self.raw(variable, "none").map(|_| self.count(variable, *bounds.end(), bounds));
        self.asked.insert(variable, VariableDoc { default: "none".to_owned(), bounds: Some(allowed) });
        count
    }

    /// A duration in whole milliseconds within bounds.
    pub fn millis(
        &mut self,
        variable: &'static str,
        default_ms: u64,
        bounds_ms: RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_millis(self.whole(variable, default_ms, bounds_ms))
    }

    /// A number that counts only when it is set and not zero.
    pub fn optional_number(&mut self, variable: &'static str) -> Option<f64> {
        let text = self.raw(variable, "none")?.to_owned();
        match number::parse(&text) {
            Some(value) if value.is_finite() && value >= 0.0 => (value != 0.0).then_some(value),
            Some(_) | None => {
                let problem = format!("is not a number of at least 0: `{}`", echo(&text));
                self.fault(variable, problem, "set it to a number, or leave it out");
                None
            }
        }
    }

    /// A number within bounds.
    pub fn number(&mut self, variable: &'static str, default: f64, bounds: RangeInclusive<f64>) -> f64 {
        let text = self.raw(variable, &default.to_string()).map(str::to_owned);
        text.and_then(|text| self.checked_number(variable, &text, &bounds)).unwrap_or(default)
    }

    /// A number within bounds that may be left out; the empty text is 0, as it is for `Number()`.
    pub fn optional_number_in(&mut self, variable: &'static str, bounds: RangeInclusive<f64>) -> Option<f64> {
        let text = self.raw(variable, "none")?.to_owned();
        self.checked_number(variable, &text, &bounds)
    }

    /// A text with a default, whose empty value has a meaning of its own.
    pub fn text_or_empty(&mut self, variable: &'static str, default: &str) -> String {
        self.raw(variable, default).unwrap_or(default).to_owned()
    }

    /// A required address with scheme `http` or `https`, exactly as it was written.
    pub fn http_url(&mut self, variable: &'static str, hint: &str) -> Option<String> {
        let text = self.text(variable, hint)?;
        self.checked_http_url(variable, text)
    }

    /// An address with scheme `http` or `https`, exactly as it was written.
    pub fn optional_http_url(&mut self, variable: &'static str) -> Option<String> {
        let text = self.optional_text(variable)?;
        self.checked_http_url(variable, text)
    }

    /// A secret, or `file://` and the path of the file that holds it, read once and trimmed. Its value is never repeated.
    pub fn secret(&mut self, variable: &'static str, hint: &str) -> Option<SecretString> {
        let text = self.text(variable, hint)?;
        self.content(variable, text)
    }

    /// The same, if it may be left out.
    pub fn optional_secret(&mut self, variable: &'static str) -> Option<SecretString> {
        let text = self.optional_text(variable)?;
        self.content(variable, text)
    }

    /// The file that a variable names by `file://`, if it does.
    pub fn file_of(&self, variable: &'static str) -> Option<PathBuf> {
        match self.environment.get(variable) {
            Value::Text(text) => text.strip_prefix("file://").map(PathBuf::from),
            Value::Unset | Value::NotUnicode => None,
        }
    }

    /// Whether a variable of another program is set.
    pub fn is_set(&self, variable: &str) -> bool {
        match self.environment.get(variable) {
            Value::Text(text) => !text.is_empty(),
            Value::NotUnicode => true,
            Value::Unset => false,
        }
    }

    /// The variables read so far.
    pub fn asked(&self) -> &BTreeMap<&'static str, VariableDoc> {
        &self.asked
    }

    fn raw(&mut self, variable: &'static str, default: &str) -> Option<&'e str> {
        self.asked.insert(variable, VariableDoc { default: default.to_owned(), bounds: None });
        match self.environment.get(variable) {
            Value::Unset => None,
            Value::Text(text) => Some(text),
            Value::NotUnicode => {
                self.fault(variable, "is not valid Unicode", "set it to UTF-8 text");
                None
            }
        }
    }

    /// The text itself, or the content of the file that it names.
    fn content(&mut self, variable: &'static str, text: String) -> Option<SecretString> {
        let Some(path) = text.strip_prefix("file://") else {
            return Some(SecretString::from(text));
        };
        match std::fs::read_to_string(Path::new(path)) {
            Ok(content) if content.trim().is_empty() => {
                self.fault(variable, "names an empty file", "write the secret into the file");
                None
            }
            Ok(content) => Some(SecretString::from(content.trim())),
            Err(error) => {
                // The kind, not the path: a secret with a stray `file://` before it must not be printed.
                let problem = format!("names a file that could not be read: {}", error.kind());
                self.fault(variable, problem, "check the path behind `file://` and the file's permissions");
                None
            }
        }
    }

    fn require(&mut self, variable: &'static str, text: Option<String>, hint: &str) -> Option<String> {
        match text {
            Some(text) if !text.is_empty() => Some(text),
            Some(_) => {
                self.fault(variable, "is empty", hint);
                None
            }
            None if self.faults.iter().any(|fault| fault.variable == variable) => None,
            None => {
                self.fault(variable, "is not set", hint);
                None
            }
        }
    }

    fn checked_number(
        &mut self,
        variable: &'static str,
        text: &str,
        bounds: &RangeInclusive<f64>,
    ) -> Option<f64> {
        let allowed = match bounds.end() {
            end if end.is_finite() => format!("{} to {end}", bounds.start()),
            _ => format!("at least {}", bounds.start()),
        };
        self.asked.entry(variable).and_modify(|asked| asked.bounds = Some(allowed.clone()));
        match number::parse(text) {
            Some(value) if value.is_finite() && bounds.contains(&value) => Some(value),
            Some(_) | None => {
                let problem = format!("is not a number of {allowed}: `{}`", echo(text));
                self.fault(variable, problem, format!("set it to a number of {allowed}"));
                None
            }
        }
    }

    fn checked_http_url(&mut self, variable: &'static str, text: String) -> Option<String> {
        let problem = match Url::parse(&text) {
            Ok(url) if !matches!(url.scheme(), "http" | "https") => "must start with `http://` or `https://`",
            // `fetch` in the platform's supervisor refuses these too, and a password here would appear in
            // logs.
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                "must not hold a user name or password"
            }
            Ok(_) => return Some(text),
            Err(_) => "is not a URL",
        };
        self.fault(variable, problem, "set it to an address such as `https://host.example`");
        None
    }
}

/// The start of a refused value, printable on one line.
fn echo(text: &str) -> String {
    text.chars().take(ECHO_CHARS_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
