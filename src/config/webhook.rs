//! The webhook: which receiver is asked for cold starts, with which keys, and which addresses are allowed.
//!
//! Everything that needs no network is checked here: the scheme, the host, a literal address,
//! the form of the keys.

use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use super::reader::Reader;
use address::Listing;
use hosts::Hosts;

pub mod address;
mod hosts;

const URL: &str = "WARMPROOF_WEBHOOK_URL";
const SCHEMES: &str = "WARMPROOF_WEBHOOK_SCHEMES";
const SECRET: &str = "WARMPROOF_WEBHOOK_SECRET";
const SECRET_PREVIOUS: &str = "WARMPROOF_WEBHOOK_SECRET_PREVIOUS";

/// Lengths of a key in bytes, as Standard Webhooks requires.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A receiver of calls for cold starts.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// `WARMPROOF_WEBHOOK_URL`: the receiver.
    pub target: Target,
    /// `WARMPROOF_WEBHOOK_HOSTS`: whether it lists the target's host; without a list, any public host is
    /// allowed.
    pub listing: Listing,
    /// `WARMPROOF_WEBHOOK_SECRET`: the key each call is signed with, `whsec_` and base64.
    pub secret: SecretString,
    /// `WARMPROOF_WEBHOOK_SECRET_PREVIOUS`: signs each call too, while receivers learn the new key.
    pub secret_previous: Option<SecretString>,
    /// `WARMPROOF_WEBHOOK_TIMEOUT_MS`: longest a call may take; 10 s by default.
    ///
    /// Too low and starts that succeed count as uncertain; too high and a hanging receiver holds a
    /// fallback slot.
    pub timeout: Duration,
}

/// The receiver's address. Printed without path and query, which may hold a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Target(pub Url);

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.0.origin().ascii_serialization()).finish()
    }
}

impl WebhookConfig {
    /// Reads this concern; faults stay with the reader.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let schemes = read_schemes(reader);
        let hosts = Hosts::read(reader);
        let url = reader.http_url(URL, "set it to the address that takes calls for cold starts");
        let secret = reader
            .secret(SECRET, "set it to `whsec_` and 24 to 64 random bytes in base64, or to `file://<path>`");
        check_key(reader, SECRET, secret.as_ref());
        let secret_previous = reader.optional_secret(SECRET_PREVIOUS);
        check_key(reader, SECRET_PREVIOUS, secret_previous.as_ref());
        let timeout = reader.millis("WARMPROOF_WEBHOOK_TIMEOUT_MS", 10_000, 100..=60_000);
        let target = Target(Url::parse(&url?).ok()?);
        let listing = check_target(reader, &target.0, &schemes, &hosts);
        Some(Self { target, listing: listing?, secret: secret?, secret_previous, timeout })
    }
}

fn read_schemes(reader: &mut Reader<'_>) -> Vec<String> {
    let text = reader.text_or(SCHEMES, "https").to_lowercase();
    let schemes: Vec<String> =
        text.split(',').map(str::trim).filter(|scheme| !scheme.is_empty()).map(str::to_owned).collect();
    if schemes.is_empty() || !schemes.iter().all(|scheme| matches!(scheme.as_str(), "http" | "https")) {
        reader.fault(
            SCHEMES,
            "holds something else than schemes",
            "set it to `https`, `http` or `https,http`",
        );
        return vec!["https".to_owned()];
    }
    schemes
}

/// Checks the target as far as that needs no network.
fn check_target(reader: &mut Reader<'_>, url: &Url, schemes: &[String], hosts: &Hosts) -> Option<Listing> {
    if !schemes.iter().any(|scheme| scheme == url.scheme()) {
        let hint =
            "use `https`; if the network in between is safe, add `http` to `WARMPROOF_WEBHOOK_SCHEMES`";
        reader.fault(URL, "has a scheme that is not allowed", hint);
    }
    let host = url.host()?;
    let Some(listing) = hosts.listing(&host) else {
        let hint = "add its host to `WARMPROOF_WEBHOOK_HOSTS`, or correct the address";
        reader.fault(URL, "has a host that `WARMPROOF_WEBHOOK_HOSTS` does not list", hint);
        return None;
    };
    let literal = match host {
        Host::Domain(_) => return Some(listing),
        Host::Ipv4(address) => address.into(),
        Host::Ipv6(address) => address.into(),
    };
    if let Err(refusal) = address::check(literal, listing) {
        let hint = match refusal {
            address::Refusal::Never { .. } => "set it to the receiver's own address",
            address::Refusal::Unlisted { .. } => "add its host to `WARMPROOF_WEBHOOK_HOSTS`",
        };
        reader.fault(URL, format!("points to {refusal}"), hint);
        return None;
    }
    Some(listing)
}

/// Checks a key at start, so that an invalid key does not show only in refused calls.
fn check_key(reader: &mut Reader<'_>, variable: &'static str, secret: Option<&SecretString>) {
    let Some(secret) = secret else { return };
    let encoded = secret.expose_secret().strip_prefix("whsec_");
    let well_formed = encoded.is_some_and(|encoded| {
        let bytes = encoded.trim_end_matches('=').len() * 3 / 4;
        KEY_BYTES.contains(&bytes) && standardwebhooks::Webhook::new(encoded).is_ok()
    });
    if !well_formed {
        let hint = "make one with `echo whsec_$(openssl rand -base64 32)`";
        reader.fault(variable, "is not `whsec_` and 24 to 64 bytes in base64", hint);
    }
}

#[cfg(test)]
mod tests;
