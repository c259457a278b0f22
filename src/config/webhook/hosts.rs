//! The hosts that a webhook may be sent to, if the operator lists them.

use url::Host;

use super::address::Listing;
use crate::config::reader::Reader;

const VARIABLE: &str = "WARMPROOF_WEBHOOK_HOSTS";

/// A list of hosts, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hosts(Option<Vec<Pattern>>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// This host and no other.
    Exactly(Host),
    /// Every name that ends in this; it begins with a dot.
    Below(String),
}

impl Hosts {
    /// Reads the list. An entry that is not a host is a fault.
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let Some(text) = reader.optional_text(VARIABLE) else { return Self(None) };
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let patterns: Option<Vec<Pattern>> = entries.map(Pattern::parse).collect();
        if patterns.as_ref().is_none_or(Vec::is_empty) {
            let hint = "set it to hosts or `*.suffix` patterns without scheme and port, separated by commas";
            reader.fault(VARIABLE, "holds an entry that is not a host", hint);
        }
        Self(patterns)
    }

    /// Whether a host is listed; `None` if there is a list that does not hold it.
    pub(super) fn listing(&self, host: &Host<&str>) -> Option<Listing> {
        let Some(patterns) = &self.0 else { return Some(Listing::Unlisted) };
        patterns.iter().any(|pattern| pattern.matches(host)).then_some(Listing::Listed)
    }
}

impl Pattern {
    fn parse(entry: &str) -> Option<Self> {
        let suffix = entry.strip_prefix("*.");
        // The parser of hosts accepts a star.
        if suffix.unwrap_or(entry).contains('*') {
            return None;
        }
        if let Some(suffix) = suffix {
            return match Host::parse(suffix).ok()? {
                Host::Domain(suffix) => Some(Self::Below(format!(".{}", rootless(&suffix)))),
                Host::Ipv4(_) | Host::Ipv6(_) => None,
            };
        }
        // An IPv6 address has brackets within an address and often none in a list.
        let address = entry.parse().ok().map(Host::Ipv6);
        let host = address.or_else(|| Host::parse(entry).ok())?;
        Some(Self::Exactly(match host {
            Host::Domain(name) => Host::Domain(rootless(&name).to_owned()),
            Host::Ipv4(_) | Host::Ipv6(_) => host,
        }))
    }

    fn matches(&self, host: &Host<&str>) -> bool {
        match (self, host) {
            (Self::Exactly(Host::Domain(listed)), Host::Domain(name)) => listed == rootless(name),
            (Self::Exactly(Host::Ipv4(listed)), Host::Ipv4(address)) => listed == address,
            (Self::Exactly(Host::Ipv6(listed)), Host::Ipv6(address)) => listed == address,
            (Self::Below(suffix), Host::Domain(name)) => {
                rootless(name).strip_suffix(suffix.as_str()).is_some_and(|rest| !rest.is_empty())
            }
            (Self::Exactly(_) | Self::Below(_), _) => false,
        }
    }
}

/// A name without the dot of the root, which means the same host.
fn rootless(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}
