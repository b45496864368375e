//! The proxy that the environment names: `ALL_PROXY`, and which hosts are reached without it,
//! `NO_PROXY`. Each counts in lower case first, as with curl, and not at all if it is empty.
//!
//! `HTTP_PROXY` is not read, for the reason that curl gives: a program that a web server starts (CGI)
//! has it from a request's `Proxy` field, from anybody. `HTTPS_PROXY` and `http_proxy` are not read
//! either: they are set for downloads, and a load that took them would measure the proxy unasked.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::PlanError;
use crate::wire::{proxy::Proxy, route::ProxyOrigin, secrets::masked};

const ALL_PROXY: [&str; 2] = ["all_proxy", "ALL_PROXY"];
const NO_PROXY: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// A proxy, and who has named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedProxy {
    pub(super) proxy: Proxy,
    pub(super) origin: ProxyOrigin,
}

/// The proxy of these variables on the way to a host. There is none to this machine, whatever they
/// say: a load through a proxy to a server beside the generator is one that nobody has meant.
pub(super) fn proxy_to(
    host: &str,
    port: u16,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<NamedProxy>, PlanError> {
    let value = |name: &'static str| {
        let value = variable(name).filter(|value| !value.is_empty())?;
        Some((name, value.to_string_lossy().into_owned()))
    };
    let Some((name, url)) = ALL_PROXY.into_iter().find_map(value) else {
        return Ok(None);
    };
    let exceptions = NO_PROXY.into_iter().find_map(value);
    if is_this_machine(host) || exceptions.is_some_and(|(_, list)| is_listed(&list, host, port)) {
        return Ok(None);
    }
    match url.parse() {
        Ok(proxy) => Ok(Some(NamedProxy { proxy, origin: ProxyOrigin::Variable(name) })),
        Err(cause) => Err(PlanError::ProxyVariable { name, value: masked(&url), cause }),
    }
}

/// Whether a host is this machine by its name (RFC 6761 §6.3) or its address; the kernel takes the
/// unspecified one for a loopback address.
fn is_this_machine(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback() || address.is_unspecified(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Whether a list of exceptions has a host: as `*`, as a name that is the host's or that of a domain
/// above it, as an address, or as a network such as 10.0.0.0/8; each with a port, `NAME:PORT` and
/// `[ADDRESS]:PORT`, or for all ports. Commas or spaces stand between them.
fn is_listed(list: &str, host: &str, port: u16) -> bool {
    list.split([',', ' ']).filter(|entry| !entry.is_empty()).any(|entry| has(entry, host, port))
}

fn has(entry: &str, host: &str, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Some(network) = Network::parse(entry) {
        return host.parse().is_ok_and(|address| network.has(address));
    }
    let (name, entry_port) = match entry.rsplit_once(':') {
        Some((name, entry_port)) => (name, Some(entry_port)),
        None => (entry, None),
    };
    if entry_port.is_some_and(|entry_port| entry_port.parse() != Ok(port)) {
        return false;
    }
    if let Some(network) = Network::parse(name) {
        return host.parse().is_ok_and(|address| network.has(address));
    }
    let name = name.trim_start_matches('.').trim_end_matches('.').to_ascii_lowercase();
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let above = host.strip_suffix(&*name);
    !name.is_empty() && above.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug)]
struct Network {
    first: IpAddr,
    prefix_len: u32,
}

impl Network {
    /// `ADDRESS`, `[ADDRESS]` or `ADDRESS/BITS`.
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix_len) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
        let first: IpAddr = bare.unwrap_or(address).parse().ok()?;
        let len = if first.is_ipv4() { Ipv4Addr::BITS } else { Ipv6Addr::BITS };
        let prefix_len = prefix_len.unwrap_or(len);
        (prefix_len <= len).then_some(Self { first, prefix_len })
    }

    fn has(self, address: IpAddr) -> bool {
        let Self { first, prefix_len } = self;
        let same_bits = match (first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                (first.to_bits() ^ address.to_bits()).leading_zeros()
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                (first.to_bits() ^ address.to_bits()).leading_zeros()
            }
            _ => return false,
        };
        same_bits >= prefix_len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The proxy to a host, and the variable that names it, where these are set.
    fn proxy(variables: &[(&str, &str)], host: &str) -> Option<(String, &'static str)> {
        let value = |wanted: &str| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| OsString::from(value))
        };
        let named = proxy_to(host, 80, value).unwrap()?;
        Some((named.proxy.url().to_owned(), named.origin.name()))
    }

    #[test]
    fn the_first_variable_that_is_not_empty_counts() {
        let p1 = |name| Some(("socks5://p:1".to_owned(), name));
        for (variables, found) in [
            (&[][..], None),
            (&[("ALL_PROXY", "socks5://p:1")], p1("ALL_PROXY")),
            (&[("all_proxy", "socks5://p:1"), ("ALL_PROXY", "http://q:2")], p1("all_proxy")),
            (&[("all_proxy", ""), ("ALL_PROXY", "socks5://p:1")], p1("ALL_PROXY")),
            (&[("HTTP_PROXY", "http://q:2"), ("http_proxy", "http://q:2")], None),
            (&[("HTTPS_PROXY", "http://q:2"), ("https_proxy", "http://q:2")], None),
            (&[("ALL_PROXY", "socks5://p:1"), ("NO_PROXY", "h")], None),
            (
                &[("ALL_PROXY", "socks5://p:1"), ("NO_PROXY", "h"), ("no_proxy", "i")],
                p1("ALL_PROXY"),
            ),
        ] {
            assert_eq!(proxy(variables, "h"), found, "{variables:?}");
        }
    }

    #[test]
    fn no_variable_sends_a_load_to_this_machine_through_a_proxy() {
        let variables = [("ALL_PROXY", "http://me:secret@p:3128")];
        for host in
            ["localhost", "LOCALHOST.", "x.localhost", "127.0.0.9", "::1", "::ffff:127.0.0.1", "::"]
        {
            assert_eq!(proxy(&variables, host), None, "{host}");
        }
        for host in ["localhost.example.com", "notlocalhost", "10.0.0.1", "::2"] {
            assert!(proxy(&variables, host).is_some(), "{host}");
        }
    }

    #[test]
    fn hosts_are_excepted_by_name_address_and_network() {
        for (list, listed, others) in [
            ("*", &["h", "10.0.0.1"][..], &[][..]),
            ("example.com", &["example.com", "a.EXAMPLE.com", "example.com."], &["ample.com"]),
            (".example.com", &["example.com", "a.b.example.com"], &["badexample.com"]),
            (" a ,b,, c", &["a", "b", "c", "x.c"], &["d", "ac"]),
            ("a b", &["a", "b"], &["ab"]),
            ("a:80", &["a"], &["80"]),
            ("a:81,10.0.0.1:81,[::2]:81", &[], &["a", "10.0.0.1", "::2"]),
            ("10.0.0.1:80,[::2]:80", &["10.0.0.1", "::2"], &["10.0.0.2"]),
            ("10.0.0.0/8", &["10.255.0.1"], &["11.0.0.1", "::1", "x.10.0.0.0"]),
            ("2001:db8::/32,[::2]", &["2001:db8:1::", "::2"], &["2001:db9::", "10.0.0.1"]),
            ("0.0.0.0/0", &["1.2.3.4"], &["::1", "h"]),
            ("10.0.0.0/33", &[], &["10.0.0.0"]),
            ("", &[], &["h"]),
            (".", &[], &["h"]),
        ] {
            for (hosts, expected) in [(listed, true), (others, false)] {
                for host in hosts {
                    assert_eq!(is_listed(list, host, 80), expected, "{list:?}: {host}");
                }
            }
        }
    }
}
