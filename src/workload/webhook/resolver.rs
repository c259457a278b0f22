//! Resolves the receiver's name, and returns only addresses that may be called.
//!
//! The connection goes to the very address that was checked, so a name that resolves differently
//! a moment later cannot bypass the check.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::config::webhook::address::{self, Listing, Refusal};

/// A resolver for one host.
pub(super) struct GuardedResolver {
    listing: Listing,
}

impl GuardedResolver {
    pub(super) fn new(listing: Listing) -> Self {
        Self { listing }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let listing = self.listing;
        Box::pin(async move {
            // The client sets the port.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Addrs = Box::new(allowed(found, listing)?.into_iter());
            Ok(allowed)
        })
    }
}

/// Those of a name's addresses that may be called; an error if there are addresses and all are refused.
fn allowed(found: impl Iterator<Item = SocketAddr>, listing: Listing) -> Result<Vec<SocketAddr>, Refusal> {
    let mut refused = None;
    let mut allowed = Vec::new();
    for address in found {
        match address::check(address.ip(), listing) {
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

    fn of(addresses: &[&str], listing: Listing) -> Result<Vec<String>, Refusal> {
        let found = addresses.iter().map(|address| SocketAddr::new(address.parse().expect("an address"), 0));
        Ok(allowed(found, listing)?.iter().map(|address| address.ip().to_string()).collect())
    }

    #[test]
    fn only_the_harmless_of_several_addresses_are_kept() {
        let mixed = ["169.254.169.254", "1.1.1.1", "10.0.0.1"];
        assert_eq!(of(&mixed, Listing::Unlisted), Ok(vec!["1.1.1.1".to_owned()]));
        assert_eq!(of(&mixed, Listing::Listed), Ok(vec!["1.1.1.1".to_owned(), "10.0.0.1".to_owned()]));
    }

    #[test]
    fn a_name_without_a_harmless_address_is_refused() {
        assert_eq!(of(&["10.0.0.1"], Listing::Unlisted), Err(Refusal::Unlisted { kind: "a private" }));
        assert_eq!(of(&["169.254.169.254"], Listing::Listed), Err(Refusal::Never { kind: "a link-local" }));
        assert_eq!(of(&[], Listing::Listed), Ok(Vec::new()));
    }
}
