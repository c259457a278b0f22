//! Resolves the receiver's name, and hands out only addresses that may be called.
//!
//! The connection goes to the very address that was checked, so a name that changes its meaning
//! in between gains nothing.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::config::webhook::address::{self, Refusal, Standing};

/// A resolver for one host.
pub(super) struct GuardedResolver {
    standing: Standing,
}

impl GuardedResolver {
    pub(super) fn new(standing: Standing) -> Self {
        Self { standing }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let standing = self.standing;
        Box::pin(async move {
            // The port is the client's to set.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Addrs = Box::new(allowed(found, standing)?.into_iter());
            Ok(allowed)
        })
    }
}

/// Those of a name's addresses that may be called; an error if there were some and none may.
fn allowed(found: impl Iterator<Item = SocketAddr>, standing: Standing) -> Result<Vec<SocketAddr>, Refusal> {
    let mut refused = None;
    let mut allowed = Vec::new();
    for address in found {
        match address::check(address.ip(), standing) {
            Ok(()) => allowed.push(address),
            Err(refusal) => refused = Some(refusal),
        }
    }
    match refused {
        Some(refusal) if allowed.is_empty() => Err(refusal),
        Some(_) | None => Ok(allowed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(addresses: &[&str], standing: Standing) -> Result<Vec<String>, Refusal> {
        let found = addresses.iter().map(|address| SocketAddr::new(address.parse().expect("an address"), 0));
        Ok(allowed(found, standing)?.iter().map(|address| address.ip().to_string()).collect())
    }

    #[test]
    fn of_several_addresses_the_harmless_ones_are_left() {
        let mixed = ["169.254.169.254", "1.1.1.1", "10.0.0.1"];
        assert_eq!(of(&mixed, Standing::Unlisted), Ok(vec!["1.1.1.1".to_owned()]));
        assert_eq!(of(&mixed, Standing::Listed), Ok(vec!["1.1.1.1".to_owned(), "10.0.0.1".to_owned()]));
    }

    #[test]
    fn a_name_without_a_harmless_address_is_refused() {
        assert_eq!(of(&["10.0.0.1"], Standing::Unlisted), Err(Refusal::Unlisted { kind: "a private" }));
        assert_eq!(of(&["169.254.169.254"], Standing::Listed), Err(Refusal::Never { kind: "a link-local" }));
        assert_eq!(of(&[], Standing::Listed), Ok(Vec::new()));
    }
}
