//! Which peers are believed when they say for whom they speak: those of some networks, and those of
//! Unix sockets. Who asks, and what is believed then, is left to others.
//!
//! The invariant: an IPv4 address is IPv4, however it is written. An IPv4-mapped IPv6 address is in the
//! networks of IPv4 and in none of IPv6.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use thiserror::Error;

/// The addresses that begin with the same bits. A single address is a subnet with one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The lowest address, which has no bits behind the prefix.
    address: IpAddr,
    /// How many bits are alike: at most 32 of IPv4, at most 128 of IPv6.
    prefix_len: u8,
}

/// Peers that are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedPeers {
    /// Those whose addresses are in a subnet.
    Subnet(Subnet),
    /// Those of Unix sockets, which are processes of this machine.
    Local,
}

/// Why a text names no trusted peers.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TrustError {
    /// The text has another form.
    #[error(
        "expected an IP address, or a network such as 10.0.0.0/8 or 2001:db8::/32, or unix for \
         whoever comes by a Unix socket"
    )]
    Unreadable,
    /// The length of the prefix is no number, or larger than the address has bits.
    #[error("the length of the prefix must be from 0 to {max}, not {text}")]
    PrefixLen {
        /// What stands there.
        text: String,
        /// The bits of an address.
        max: u8,
    },
    /// An address has bits behind its prefix: it may be that too much is trusted.
    #[error("has bits behind its prefix: write {0}")]
    BitsBehindPrefix(TrustedPeers),
}

/// How a peer of a Unix socket is written.
const LOCAL: &str = "unix";

impl Subnet {
    /// The subnet of an address that has this prefix. Bits behind the prefix are left out.
    fn new(address: IpAddr, prefix_len: u8) -> Self {
        let address = match address {
            IpAddr::V4(it) => Ipv4Addr::from_bits(it.to_bits() & mask_v4(prefix_len)).into(),
            IpAddr::V6(it) => Ipv6Addr::from_bits(it.to_bits() & mask_v6(prefix_len)).into(),
        };
        Self { address, prefix_len }
    }

    /// Whether an address is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                ip.to_bits() & mask_v4(self.prefix_len) == own.to_bits()
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                ip.to_bits() & mask_v6(self.prefix_len) == own.to_bits()
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// The first bits of an IPv4 address.
fn mask_v4(prefix_len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0)
}

/// The first bits of an IPv6 address.
fn mask_v6(prefix_len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix_len)).unwrap_or(0)
}

/// Whether a peer is one of the trusted: one with this address, or one of a Unix socket (`None`).
pub fn is_trusted(trusted: &[TrustedPeers], ip: Option<IpAddr>) -> bool {
    trusted.iter().any(|peers| match (peers, ip) {
        (TrustedPeers::Subnet(subnet), Some(ip)) => subnet.contains(ip),
        (TrustedPeers::Local, None) => true,
        (TrustedPeers::Subnet(_), None) | (TrustedPeers::Local, Some(_)) => false,
    })
}

impl FromStr for TrustedPeers {
    type Err = TrustError;

    fn from_str(text: &str) -> Result<Self, TrustError> {
        if text == LOCAL {
            return Ok(Self::Local);
        }
        let (address, prefix_len) = match text.split_once('/') {
            Some((address, prefix_len)) => (address, Some(prefix_len)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_| TrustError::Unreadable)?;
        let bits = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        let max = bits(written);
        let prefix_len = match prefix_len {
            None => max,
            Some(text) => {
                let is_number = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
                let len = if is_number { text.parse().ok() } else { None };
                len.filter(|len| *len <= max)
                    .ok_or_else(|| TrustError::PrefixLen { text: text.to_owned(), max })?
            }
        };
        // A network of IPv4-mapped addresses is one of IPv4, unless it has others too.
        let address = written.to_canonical();
        let subnet = match prefix_len.checked_sub(max - bits(address)) {
            Some(prefix_len) => Subnet::new(address, prefix_len),
            None => Subnet::new(written, prefix_len),
        };
        let peers = Self::Subnet(subnet);
        if subnet.address == address || subnet.address == written {
            Ok(peers)
        } else {
            Err(TrustError::BitsBehindPrefix(peers))
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl fmt::Display for TrustedPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subnet(subnet) => subnet.fmt(f),
            Self::Local => f.write_str(LOCAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trusts(trusted: &str, ip: &str) -> bool {
        is_trusted(&[trusted.parse().unwrap()], Some(ip.parse().unwrap()))
    }

    #[test]
    fn addresses_are_in_networks_of_their_family() {
        for (trusted, inside, outside) in [
            (
                "192.0.2.7",
                &["192.0.2.7", "::ffff:192.0.2.7"][..],
                &["192.0.2.6", "::192.0.2.7"][..],
            ),
            ("10.0.0.0/8", &["10.0.0.0", "10.255.255.255"], &["11.0.0.0", "9.255.255.255", "::"]),
            ("192.0.2.8/30", &["192.0.2.8", "192.0.2.11"], &["192.0.2.12", "192.0.2.7"]),
            (
                "0.0.0.0/0",
                &["0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"],
                &["::", "2001:db8::1"],
            ),
            ("::/0", &["::", "2001:db8::1", "::1.2.3.4"], &["0.0.0.0", "::ffff:1.2.3.4"]),
            ("2001:db8::/33", &["2001:db8:7fff::1"], &["2001:db8:8000::", "2001:db9::"]),
            ("::1", &["::1"], &["::2", "127.0.0.1"]),
            ("::ffff:10.0.0.0/104", &["10.1.2.3", "::ffff:10.1.2.3"], &["11.0.0.0", "::10.1.2.3"]),
            ("::ffff:0:0/96", &["10.1.2.3"], &["::1"]),
        ] {
            for ip in inside {
                assert!(trusts(trusted, ip), "{ip} is in {trusted}");
            }
            for ip in outside {
                assert!(!trusts(trusted, ip), "{ip} is not in {trusted}");
            }
        }
    }

    #[test]
    fn unix_sockets_are_trusted_only_by_name() {
        let parse = |texts: &[&str]| -> Vec<TrustedPeers> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        assert!(is_trusted(&parse(&["10.0.0.0/8", "unix"]), None));
        assert!(!is_trusted(&parse(&["0.0.0.0/0", "::/0"]), None));
        assert!(!is_trusted(&parse(&["unix"]), Some(Ipv4Addr::LOCALHOST.into())));
        assert!(!is_trusted(&[], None));
    }

    #[test]
    fn texts_that_are_no_network_are_refused_with_what_is_allowed() {
        for (text, expected) in [
            ("", "expected an IP address"),
            ("example.org", "expected an IP address"),
            ("10.0.0/8", "expected an IP address"),
            ("10.0.0.1:80", "expected an IP address"),
            ("[::1]", "expected an IP address"),
            ("fe80::1%eth0", "expected an IP address"),
            ("Unix", "expected an IP address"),
            ("10.0.0.0/33", "must be from 0 to 32, not 33"),
            ("10.0.0.0/", "must be from 0 to 32, not "),
            ("10.0.0.0/+8", "must be from 0 to 32, not +8"),
            ("10.0.0.0/8/8", "must be from 0 to 32, not 8/8"),
            ("10.0.0.0/255.0.0.0", "must be from 0 to 32, not 255.0.0.0"),
            ("::/129", "must be from 0 to 128, not 129"),
            ("::/999999999999", "must be from 0 to 128, not 999999999999"),
            ("10.0.0.1/8", "has bits behind its prefix: write 10.0.0.0/8"),
            ("2001:db8::1/32", "has bits behind its prefix: write 2001:db8::/32"),
            ("::ffff:10.0.0.1/104", "has bits behind its prefix: write 10.0.0.0/8"),
        ] {
            let refusal = text.parse::<TrustedPeers>().unwrap_err().to_string();
            assert!(refusal.contains(expected), "{text}: {refusal}");
        }
    }

    proptest! {
        /// Bits are compared one by one here.
        #[test]
        fn subnet_has_the_addresses_with_its_first_bits(
            own: u128, other: u128, prefix_len in 0..=128_u8, flipped in 0..128_u32,
        ) {
            let subnet = Subnet::new(Ipv6Addr::from_bits(own).into(), prefix_len);
            for ip in [other, own ^ (1 << flipped), own] {
                let alike = (0..u32::from(prefix_len)).all(|at| (own ^ ip) >> (127 - at) & 1 == 0);
                let ip = IpAddr::from(Ipv6Addr::from_bits(ip));
                // IPv4-mapped ones are none of IPv6.
                prop_assert_eq!(subnet.contains(ip), alike && ip.to_canonical() == ip);
            }
        }

        #[test]
        fn what_is_shown_is_read_as_the_same(address: [u8; 16], prefix_len in 0..=128_u8) {
            let [a, b, c, d, ..] = address;
            for subnet in [
                Subnet::new(Ipv6Addr::from(address).into(), prefix_len),
                Subnet::new(Ipv4Addr::new(a, b, c, d).into(), prefix_len % 33),
            ] {
                prop_assert_eq!(subnet.to_string().parse(), Ok(TrustedPeers::Subnet(subnet)));
            }
        }
    }
}
