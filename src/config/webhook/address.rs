//! Which addresses a webhook may reach: the guard against calls to unintended places.
//!
//! Pure. A literal address is checked at start. A name is checked each time it is resolved, because
//! its address may change between a check and a call.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether the operator listed the receiver's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// `WARMPROOF_WEBHOOK_HOSTS` lists it.
    Listed,
    /// There is no list.
    Unlisted,
}

/// Why an address is not called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No setting allows it.
    #[error("{kind} address, which is never called")]
    Never {
        /// What kind of address it is, with its article.
        kind: &'static str,
    },
    /// The operator has to list the host first.
    #[error("{kind} address, which is called only if `WARMPROOF_WEBHOOK_HOSTS` lists the host")]
    Unlisted {
        /// What kind of address it is, with its article.
        kind: &'static str,
    },
}

/// Whether an address may be called.
///
/// # Errors
/// Why not.
pub fn check(address: IpAddr, listing: Listing) -> Result<(), Refusal> {
    match (reach(address), listing) {
        (Reach::Outside, _) | (Reach::Inside(_), Listing::Listed) => Ok(()),
        (Reach::Inside(kind), Listing::Unlisted) => Err(Refusal::Unlisted { kind }),
        (Reach::Nowhere(kind), _) => Err(Refusal::Never { kind }),
    }
}

/// Where an address leads.
enum Reach {
    /// A public address.
    Outside,
    /// This machine or a private network; a supervisor may be there.
    Inside(&'static str),
    /// An address that no receiver has, but where a cloud may serve credentials.
    Nowhere(&'static str),
}

const LOOPBACK: Reach = Reach::Inside("a loopback");
const PRIVATE: Reach = Reach::Inside("a private");
const UNSPECIFIED: Reach = Reach::Nowhere("an unspecified");
const LINK_LOCAL: Reach = Reach::Nowhere("a link-local");
const METADATA: Reach = Reach::Nowhere("a cloud metadata");
const MULTICAST: Reach = Reach::Nowhere("a multicast");
const DOCUMENTATION: Reach = Reach::Nowhere("a documentation");
const RESERVED: Reach = Reach::Nowhere("a reserved");
const BROADCAST: Reach = Reach::Nowhere("a broadcast");

fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => embedded(address).map_or_else(|| reach_v6(address), reach_v4),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        // Alibaba's and Azure's; the others are link-local.
        [100, 100, 100, 200] | [168, 63, 129, 16] => METADATA,
        [0, ..] => UNSPECIFIED,
        [127, ..] => LOOPBACK,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] | [198, 18 | 19, ..] => PRIVATE,
        [169, 254, ..] => LINK_LOCAL,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => DOCUMENTATION,
        [255, 255, 255, 255] => BROADCAST,
        [224..=239, ..] => MULTICAST,
        [192, 0, 0, _] | [240..=255, ..] => RESERVED,
        [..] => Reach::Outside,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    match address.segments() {
        // Amazon's and Google's.
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254] | [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254] => METADATA,
        [0, 0, 0, 0, 0, 0, 0, 0] => UNSPECIFIED,
        [0, 0, 0, 0, 0, 0, 0, 1] => LOOPBACK,
        // Unique local, the deprecated site-local, and a network's own translation prefix.
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] | [0x0064, 0xff9b, 1, ..] => PRIVATE,
        [0xfe80..=0xfebf, ..] => LINK_LOCAL,
        [0xff00..=0xffff, ..] => MULTICAST,
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => DOCUMENTATION,
        // Tunnels that hide the address they lead to.
        [0x2001, 0, ..] => RESERVED,
        [..] => Reach::Outside,
    }
}

/// The IPv4 address inside an IPv6 address: mapped, compatible, translated or tunnelled.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => return None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x0064, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => (high, low),
        [..] => return None,
    };
    Some(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(address: &str, listing: Listing) -> Option<String> {
        let address = address.parse().expect("an address");
        check(address, listing).err().map(|refusal| refusal.to_string())
    }

    #[test]
    fn addresses_of_the_world_are_called() {
        for address in
            ["1.1.1.1", "172.32.0.1", "100.128.0.1", "198.20.0.1", "2606:4700::1111", "::ffff:1.1.1.1"]
        {
            assert_eq!(refusal(address, Listing::Unlisted), None, "{address}");
        }
    }

    #[test]
    fn inner_addresses_are_called_only_when_their_host_is_listed() {
        let cases = [
            ("a loopback", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]),
            ("a private", ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"]),
            ("a private", ["fc00::1", "fdff::1", "fec0::1", "::ffff:10.0.0.1", "2002:a00:1::"]),
        ];
        for (kind, addresses) in cases {
            for address in addresses {
                let expected = format!(
                    "{kind} address, which is called only if `WARMPROOF_WEBHOOK_HOSTS` lists the host"
                );
                assert_eq!(refusal(address, Listing::Unlisted), Some(expected), "{address}");
                assert_eq!(refusal(address, Listing::Listed), None, "{address}");
            }
        }
    }

    #[test]
    fn what_leads_to_no_receiver_is_never_called() {
        let cases = [
            ("a link-local", ["169.254.169.254", "169.254.0.1", "fe80::1", "::ffff:169.254.169.254"]),
            ("a link-local", ["64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::169.254.169.254", "febf::1"]),
            ("a link-local", ["::ffff:0:169.254.169.254", "fe80::a9fe:a9fe", "169.254.170.2", "fe90::1"]),
            ("a cloud metadata", ["100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254"]),
            ("an unspecified", ["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"]),
            ("a multicast", ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"]),
            ("a documentation", ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"]),
            ("a reserved", ["240.0.0.1", "255.255.255.254", "192.0.0.192", "2001::1"]),
        ];
        for (kind, addresses) in cases {
            for address in addresses {
                let expected = Some(format!("{kind} address, which is never called"));
                assert_eq!(refusal(address, Listing::Listed), expected, "{address}");
                assert_eq!(refusal(address, Listing::Unlisted), expected, "{address}");
            }
        }
        let broadcast = Some("a broadcast address, which is never called".to_owned());
        assert_eq!(refusal("255.255.255.255", Listing::Listed), broadcast);
    }
}
