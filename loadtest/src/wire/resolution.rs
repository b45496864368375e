//! Where a host and a port are by order of `--resolve`, instead of where a resolver says: the Host
//! field, the name in TLS and the check of the certificate stay those of the URL.

use std::{net::IpAddr, str::FromStr};

const EXPECTED: &str = "expected HOST:PORT:ADDRESS[,ADDRESS...], such as example.com:443:127.0.0.1";

/// Stands for every host.
const ANY_HOST: &str = "*";

/// One such order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// A name or an address; an IPv6 address without its brackets.
    host: String,
    port: u16,
    /// At least one.
    addresses: Vec<IpAddr>,
}

impl FromStr for Resolution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, rest) = match text.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once("]:"),
            None => text.split_once(':'),
        }
        .filter(|(host, _)| !host.is_empty())
        .ok_or_else(|| format!("there is no host in it; {EXPECTED}"))?;
        let (port, addresses) =
            rest.split_once(':').ok_or_else(|| format!("there is no address in it; {EXPECTED}"))?;
        let port = port.parse().ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| format!("the port has to be 1 to 65535; {EXPECTED}"))?;
        let address = |text: &str| {
            let text = text.trim();
            let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
            let parsed = bare.unwrap_or(text).parse();
            parsed.map_err(|_| format!("{text:?} is no address; {EXPECTED}"))
        };
        let addresses = addresses.split(',').map(address).collect::<Result<_, _>>()?;
        Ok(Self { host: host.to_owned(), port, addresses })
    }
}

/// Where these orders say that a host and a port are, in their order; empty if they do not say. What
/// is said of any host counts where nothing is said of this one.
pub(crate) fn addresses(orders: &[Resolution], host: &str, port: u16) -> Vec<IpAddr> {
    let of = |wanted: &str| -> Vec<IpAddr> {
        let is_meant =
            |order: &&Resolution| order.host.eq_ignore_ascii_case(wanted) && order.port == port;
        orders.iter().filter(is_meant).flat_map(|order| order.addresses.clone()).collect()
    };
    let own = of(host);
    if own.is_empty() { of(ANY_HOST) } else { own }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_found_by_host_and_port() {
        let orders: Vec<Resolution> = [
            "example.com:443:127.0.0.1,[::1]",
            "Example.COM:443:127.0.0.2",
            "[2001:db8::1]:80:2001:db8::2",
            "*:443:10.0.0.1",
        ]
        .iter()
        .map(|order| order.parse().unwrap())
        .collect();
        for (host, port, expected) in [
            ("EXAMPLE.com", 443, &["127.0.0.1", "::1", "127.0.0.2"][..]),
            ("example.com", 80, &[]),
            ("2001:db8::1", 80, &["2001:db8::2"]),
            ("other.example", 443, &["10.0.0.1"]),
            ("other.example", 80, &[]),
        ] {
            let expected: Vec<IpAddr> = expected.iter().map(|it| it.parse().unwrap()).collect();
            assert_eq!(addresses(&orders, host, port), expected, "{host}:{port}");
        }
    }

    #[test]
    fn other_orders_are_refused_with_the_reason() {
        for (text, reason) in [
            ("", "there is no host in it; "),
            (":443:127.0.0.1", "there is no host in it; "),
            ("[::1:443:127.0.0.1", "there is no host in it; "),
            ("example.com:443", "there is no address in it; "),
            ("example.com:https:127.0.0.1", "the port has to be 1 to 65535; "),
            ("example.com:0:127.0.0.1", "the port has to be 1 to 65535; "),
            ("example.com:443:localhost", "\"localhost\" is no address; "),
            ("example.com:443:127.0.0.1,", "\"\" is no address; "),
        ] {
            let refused = text.parse::<Resolution>().unwrap_err();
            assert!(refused.starts_with(reason) && refused.ends_with(EXPECTED), "{refused}");
        }
    }
}
