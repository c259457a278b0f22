//! The deployment token: whether workloads get one, and what signs it (platform.md §5.2).

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use secrecy::SecretString;

use super::reader::Reader;

/// When tokens expire by default: a fixed day, so that equal deployments get equal tokens.
const EXPIRES_AT_DEFAULT: &str = "2032-01-01T00:00:00.000Z";

/// Whether workloads get a signed token.
#[derive(Debug, Clone)]
pub enum TokenConfig {
    /// `WORKLOAD_TOKEN_ENFORCEMENT=disabled`, the default: workloads get the deployment's friendly id.
    Disabled,
    /// Workloads get a signed token.
    Signed(SigningConfig),
}

/// How tokens are signed.
#[derive(Debug, Clone)]
pub struct SigningConfig {
    /// `WORKLOAD_TOKEN_ENFORCEMENT`: what supervisors do with a bad token; we sign in both modes.
    pub enforcement: Enforcement,
    /// `WORKLOAD_TOKEN_SECRET`: must equal the supervisors', or their runners' calls are refused.
    pub secret: SecretString,
    /// `WORKLOAD_TOKEN_EXP`: when tokens expire, an instant; 2032-01-01 by default.
    ///
    /// Too early and running workloads lose their access; it must equal the supervisors' for equal tokens.
    pub expires_at: DateTime<Utc>,
}

/// What supervisors do with a bad token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// They count it and go on.
    Log,
    /// They refuse the call.
    Enforce,
}

impl TokenConfig {
    /// Reads this concern; faults stay with the reader. Secret and expiry are read only if tokens are signed.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let variable = "WORKLOAD_TOKEN_ENFORCEMENT";
        let enforcement = match reader.text_or(variable, "disabled").as_str() {
            "disabled" => return Some(Self::Disabled),
            "log" => Some(Enforcement::Log),
            "enforce" => Some(Enforcement::Enforce),
            _ => {
                reader.fault(variable, "is not a known mode", "set it to `disabled`, `log` or `enforce`");
                None
            }
        };
        let hint = "set it to the supervisors' secret, or `WORKLOAD_TOKEN_ENFORCEMENT` to `disabled`";
        let secret = reader.secret("WORKLOAD_TOKEN_SECRET", hint);
        let expires_at = read_expiry(reader);
        let (enforcement, secret, expires_at) = (enforcement?, secret?, expires_at?);
        Some(Self::Signed(SigningConfig { enforcement, secret, expires_at }))
    }
}

fn read_expiry(reader: &mut Reader<'_>) -> Option<DateTime<Utc>> {
    let text = reader.text_or("WORKLOAD_TOKEN_EXP", EXPIRES_AT_DEFAULT);
    let instant = parse_instant(text.trim());
    if instant.is_none() {
        let hint = "set it to an instant such as `2032-01-01T00:00:00.000Z`";
        reader.fault("WORKLOAD_TOKEN_EXP", "is not an instant", hint);
    }
    instant
}

/// An RFC 3339 instant, or a bare date, which JavaScript takes for midnight UTC.
fn parse_instant(text: &str) -> Option<DateTime<Utc>> {
    match DateTime::parse_from_rfc3339(text) {
        Ok(instant) => Some(instant.to_utc()),
        Err(_) => text.parse::<NaiveDate>().ok().map(|date| date.and_time(NaiveTime::MIN).and_utc()),
    }
}
