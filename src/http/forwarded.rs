//! For whom proxies say that they send a request: `Forwarded` (RFC 7239) and `X-Forwarded-For`.
//!
//! A request passes proxies one after the other, and each appends where it came from. So the last
//! address is what the nearest proxy has seen, and the one before it is worth as much as the proxy that
//! this address belongs to. The client is the last address that belongs to no trusted proxy. What
//! stands before it is the client's own words, and is not looked at.
//!
//! Whether the nearest proxy is trusted is left to whoever asks. The invariant: an address is believed
//! only if trusted proxies alone stand behind it, and if both fields name it where both are there: a
//! proxy that writes one of them may pass on whatever its client has put into the other.

use std::net::{IpAddr, Ipv6Addr};

use http::{HeaderMap, HeaderName, header::FORWARDED};

use crate::{
    protocol::token::is_token_byte,
    trust::{TrustedPeers, is_trusted},
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The most trusted proxies that are followed: more than stand in any row.
const HOPS_MAX: usize = 32;

/// The client of a request, as proxies have seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardedClient {
    /// The address. IPv4 is never written as IPv6.
    pub ip: IpAddr,
    /// The port, where it is told.
    pub port: Option<u16>,
}

/// The client of a request that comes from a trusted proxy; `None` if it is not told, or not in a way
/// that can be believed. Then the proxy is all that is known.
pub fn forwarded_client(headers: &HeaderMap, trusted: &[TrustedPeers]) -> Option<ForwardedClient> {
    let has = |name| headers.contains_key(name);
    let forwarded = || farthest(rows_backwards(headers, FORWARDED, forwarded_row), trusted);
    let for_client = || farthest(rows_backwards(headers, X_FORWARDED_FOR, for_row), trusted);
    match (has(FORWARDED), has(X_FORWARDED_FOR)) {
        (true, false) => forwarded(),
        (false, true) => for_client(),
        (false, false) => None,
        (true, true) => {
            let (first, second) = (forwarded()?, for_client()?);
            let port = first.port.or(second.port);
            (first.ip == second.ip).then_some(ForwardedClient { port, ..first })
        }
    }
}

/// Where a request came from, as a proxy says it.
#[derive(Clone, Copy)]
enum Node {
    /// An address.
    Known(ForwardedClient),
    /// The proxy does not know, does not say, or is not understood.
    Unknown,
}

/// The nodes of a field line, the first first.
type Row = Vec<Node>;

/// All nodes of a field, the last first. A line that is malformed is one node without an address.
fn rows_backwards(
    headers: &HeaderMap,
    name: HeaderName,
    read: impl Fn(&str) -> Row,
) -> impl Iterator<Item = Node> {
    // The lines of a field are one list, in their order (RFC 9110 §5.3).
    let lines = headers.get_all(name).iter().rev();
    lines.flat_map(move |line| {
        let row = line.to_str().map_or_else(|_| vec![Node::Unknown], &read);
        row.into_iter().rev()
    })
}

/// The farthest node that trusted proxies vouch for.
fn farthest(
    nodes: impl Iterator<Item = Node>,
    trusted: &[TrustedPeers],
) -> Option<ForwardedClient> {
    let mut farthest = None;
    for node in nodes.take(HOPS_MAX) {
        // What stands before one that names no address has been seen by nobody who is known.
        let Node::Known(node) = node else { break };
        farthest = Some(node);
        if !is_trusted(trusted, Some(node.ip)) {
            break;
        }
    }
    farthest
}

/// The nodes of a line of `X-Forwarded-For`, which no standard describes: addresses with commas
/// between them, some with a port, some in brackets.
fn for_row(line: &str) -> Row {
    let elements = line.split(',').map(|element| element.trim_matches([' ', '\t']));
    elements.filter(|element| !element.is_empty()).map(Node::of).collect()
}

/// The nodes of a line of `Forwarded`.
fn forwarded_row(line: &str) -> Row {
    elements(line).unwrap_or_else(|| vec![Node::Unknown])
}

/// The same; `None` if the line is malformed.
fn elements(mut rest: &str) -> Option<Row> {
    //= https://www.rfc-editor.org/rfc/rfc7239#section-4
    //# Forwarded   = 1#forwarded-element
    //#
    //# forwarded-element =
    //#     [ forwarded-pair ] *( ";" [ forwarded-pair ] )
    let mut row = Row::new();
    let mut element = Element::default();
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        let name_len = rest.bytes().take_while(|byte| is_token_byte(*byte)).count();
        if name_len > 0 {
            let (name, behind) = rest.split_at(name_len);
            let (value, behind) = value(behind.strip_prefix('=')?)?;
            element.add(name, &value)?;
            rest = behind.trim_start_matches([' ', '\t']);
        }
        let separator = rest.chars().next();
        if separator != Some(';') {
            row.extend(element.node());
            element = Element::default();
        }
        match separator {
            None => return Some(row),
            Some(',' | ';') => rest = &rest[1..],
            Some(_) => return None,
        }
    }
}

/// What has been read of an element of `Forwarded`.
#[derive(Default)]
struct Element {
    has_pairs: bool,
    /// The node that the request came from.
    came_from: Option<Node>,
}

impl Element {
    fn add(&mut self, name: &str, value: &str) -> Option<()> {
        self.has_pairs = true;
        if name.eq_ignore_ascii_case("for") {
            //= https://www.rfc-editor.org/rfc/rfc7239#section-4
            //# Each parameter MUST NOT occur more than once per field-value.
            let is_first = self.came_from.replace(Node::of(value)).is_none();
            return is_first.then_some(());
        }
        Some(())
    }

    /// Its node, unless it is empty.
    fn node(&self) -> Option<Node> {
        self.has_pairs.then_some(self.came_from.unwrap_or(Node::Unknown))
    }
}

/// A token or a quoted string (RFC 9110 §5.6), and what stands behind it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let len = text.bytes().take_while(|byte| is_token_byte(*byte)).count();
        let (value, behind) = text.split_at(len);
        return (len > 0).then(|| (value.to_owned(), behind));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

impl Node {
    /// A node as it is written. Obfuscated ones, `unknown` and anything else name no address.
    fn of(text: &str) -> Self {
        address(text).map_or(Self::Unknown, Self::Known)
    }
}

/// An address, with a port or without (RFC 7239 §6).
fn address(text: &str) -> Option<ForwardedClient> {
    let (ip, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (address, behind) = bracketed.split_once(']')?;
        let ip = IpAddr::from(address.parse::<Ipv6Addr>().ok()?);
        (ip, if behind.is_empty() { None } else { Some(behind.strip_prefix(':')?) })
    } else if let Ok(ip) = text.parse() {
        // Some write IPv6 without brackets, and then no port.
        (ip, None)
    } else {
        let (address, port) = text.split_once(':')?;
        (IpAddr::V4(address.parse().ok()?), Some(port))
    };
    let port = match port {
        None => None,
        // A port may be obfuscated too.
        Some(port) if port.starts_with('_') => None,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
        Some(_) => return None,
    };
    Some(ForwardedClient { ip: ip.to_canonical(), port })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    /// The client of a request with these field lines, behind proxies of two networks that are trusted.
    fn client(lines: &[(&str, &str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let trusted = ["10.0.0.0/8", "fd00::/8", "unix"].map(|text| text.parse().unwrap());
        forwarded_client(&headers, &trusted).map(|ForwardedClient { ip, port }| match port {
            Some(port) => format!("{ip} {port}"),
            None => ip.to_string(),
        })
    }

    #[test]
    fn client_is_the_last_address_that_is_no_trusted_proxy() {
        for (line, expected) in [
            ("203.0.113.7", Some("203.0.113.7")),
            ("6.6.6.6, 203.0.113.7", Some("203.0.113.7")),
            ("6.6.6.6, 203.0.113.7, 10.1.1.1", Some("203.0.113.7")),
            ("6.6.6.6,203.0.113.7 ,\t10.1.1.1,fd00::1", Some("203.0.113.7")),
            ("10.0.0.9, 10.0.0.8", Some("10.0.0.9")),
            (", 203.0.113.7,, ", Some("203.0.113.7")),
            ("2001:db8::7", Some("2001:db8::7")),
            ("[2001:db8::7]", Some("2001:db8::7")),
            ("[2001:db8::7]:4711", Some("2001:db8::7 4711")),
            ("203.0.113.7:4711", Some("203.0.113.7 4711")),
            ("::ffff:203.0.113.7", Some("203.0.113.7")),
            ("6.6.6.6, ::ffff:10.0.0.1", Some("6.6.6.6")),
            // The nearest proxy does not know, or is not understood.
            ("6.6.6.6, unknown", None),
            ("6.6.6.6, _hidden", None),
            ("6.6.6.6, 203.0.113.256", None),
            ("6.6.6.6, 203.0.113.7:65536", None),
            ("6.6.6.6, 203.0.113.7:", None),
            ("6.6.6.6, \"203.0.113.7\"", None),
            ("6.6.6.6, fe80::1%eth0", None),
            ("6.6.6.6 203.0.113.7", None),
            ("", None),
            // A proxy is known that does not know.
            ("6.6.6.6, unknown, 10.0.0.1", Some("10.0.0.1")),
            ("6.6.6.6, \u{e4}", None),
        ] {
            assert_eq!(client(&[("x-forwarded-for", line)]).as_deref(), expected, "{line:?}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        for (line, expected) in [
            // The examples of the RFC, sections 4, 6 and 7.
            ("for=192.0.2.60;proto=http;by=203.0.113.43", Some("192.0.2.60")),
            ("For=\"[2001:db8:cafe::17]:4711\"", Some("2001:db8:cafe::17 4711")),
            ("for=192.0.2.43, for=198.51.100.17", Some("198.51.100.17")),
            ("for=\"_gazonk\"", None),
            ("for=_SEVKISEK", None),
            ("for=unknown", None),
            ("for=\"192.0.2.43:47011\"", Some("192.0.2.43 47011")),
            ("for=192.0.2.43,for=\"[2001:db8:cafe::17]\",for=unknown", None),
            ("for=_hidden, for=_SEVKISEK", None),
            ("for=192.0.2.43, for=10.0.0.1;by=10.0.0.2", Some("192.0.2.43")),
            // Letters of any case, and whatever may stand around and between.
            ("PROTO=https;FOR=192.0.2.1", Some("192.0.2.1")),
            (";for=192.0.2.1;;", Some("192.0.2.1")),
            ("proto=https ; for=192.0.2.1", Some("192.0.2.1")),
            ("for=6.6.6.6,, for=192.0.2.1 ,", Some("192.0.2.1")),
            ("for=\"192.0.2.1:_port\"", Some("192.0.2.1")),
            ("for=\"192\\.0.2.1\"", Some("192.0.2.1")),
            ("for=192.0.2.1;host=\"a,b;for=6.6.6.6\"", Some("192.0.2.1")),
            ("for=\"2001:db8::1\"", Some("2001:db8::1")),
            // The nearest proxy does not say where the request came from.
            ("for=6.6.6.6, proto=https", None),
            ("for=6.6.6.6, for=\"\"", None),
            // Nothing of a malformed line is believed, since it may have been malformed by its author.
            ("for=192.0.2.1;for=6.6.6.6", None),
            ("for=6.6.6.6, for=", None),
            ("for=6.6.6.6, for", None),
            ("for=6.6.6.6, for = 192.0.2.1", None),
            ("for=\"6.6.6.6, for=192.0.2.1", None),
            ("for=[2001:db8::1]", None),
            ("for=6.6.6.6 for=192.0.2.1", None),
            ("for=6.6.6.6;x=\"\\", None),
            ("", None),
        ] {
            assert_eq!(client(&[("forwarded", line)]).as_deref(), expected, "{line:?}");
        }
    }

    #[test]
    fn quote_that_a_client_leaves_open_hides_no_proxy_behind_it() {
        for behind in ["for=192.0.2.1", "for=\"[2001:db8::1]\"", "for=192.0.2.1;by=\"_p\""] {
            for own in ["for=6.6.6.6;x=\"", "for=\"6.6.6.6", "x=\"\\", "for=6.6.6.6;x=\"\\\""] {
                assert_eq!(client(&[("forwarded", &format!("{own}, {behind}"))]), None);
            }
        }
    }

    #[test]
    fn lines_of_a_field_are_one_list() {
        let x = "x-forwarded-for";
        assert_eq!(client(&[(x, "6.6.6.6"), (x, "192.0.2.1")]).as_deref(), Some("192.0.2.1"));
        let lines =
            [(x, "6.6.6.6, 192.0.2.1"), (x, "10.0.0.1"), (x, " "), (x, "10.0.0.2, fd00::2")];
        assert_eq!(client(&lines).as_deref(), Some("192.0.2.1"));
        let own = "forwarded";
        let lines = [(own, "for=\"6.6.6.6"), (own, "for=192.0.2.1"), (own, "for=10.0.0.1")];
        assert_eq!(client(&lines).as_deref(), Some("192.0.2.1"));
        // A malformed line hides what is before it.
        let lines = [(own, "for=6.6.6.6"), (own, "for=\""), (own, "for=10.0.0.1")];
        assert_eq!(client(&lines).as_deref(), Some("10.0.0.1"));
    }

    #[test]
    fn two_fields_are_believed_where_they_agree() {
        let both = |forwarded, x| client(&[("forwarded", forwarded), ("x-forwarded-for", x)]);
        assert_eq!(both("for=192.0.2.1", "192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(both("for=192.0.2.1", "192.0.2.1:80").as_deref(), Some("192.0.2.1 80"));
        assert_eq!(
            both("for=\"[::ffff:192.0.2.1]:7\"", "192.0.2.1").as_deref(),
            Some("192.0.2.1 7")
        );
        assert_eq!(both("for=6.6.6.6", "192.0.2.1"), None);
        assert_eq!(both("for=192.0.2.1", "6.6.6.6"), None);
        assert_eq!(both("for=_hidden", "192.0.2.1"), None);
        assert_eq!(both("for=192.0.2.1", ""), None);
    }

    #[test]
    fn no_more_proxies_are_followed_than_stand_in_any_row() {
        let row = |proxies| format!("192.0.2.1{}", ", 10.0.0.1".repeat(proxies));
        let of = |proxies| client(&[("x-forwarded-for", &row(proxies))]);
        assert_eq!(of(HOPS_MAX - 1).as_deref(), Some("192.0.2.1"));
        assert_eq!(of(HOPS_MAX).as_deref(), Some("10.0.0.1"));
    }

    proptest! {
        /// A proxy's own line, which comes last, is believed whatever its client has sent before.
        #[test]
        fn client_cannot_change_what_a_proxy_says_behind_it(
            lines in prop::collection::vec("[ -~\t\u{e4}]{0,40}", 0..4), ip: u32,
        ) {
            let ip = std::net::Ipv4Addr::from_bits(ip & 0x7fff_ffff | 0x4000_0000).to_string();
            for (name, own) in [("x-forwarded-for", ip.clone()), ("forwarded", format!("for={ip}"))] {
                let mut all: Vec<_> = lines.iter().map(|line| (name, line.as_str())).collect();
                all.push((name, &own));
                prop_assert_eq!(client(&all), Some(ip.clone()), "{:?}", all);
            }
        }

        #[test]
        fn any_line_is_read_without_a_panic(line in "[-fFoOrR=;,\"\\\\\\[\\]:.0-9a ]{0,40}") {
            for name in ["x-forwarded-for", "forwarded"] {
                client(&[(name, &line), (name, &line)]);
            }
        }
    }
}
