//! How connections got to the server, as a result tells it; and the doubts that follow from it.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    text::{
        numbers::{counted, grouped},
        warning::{Warning, WarningCode},
    },
    wire::{connector::Connector, proxy_header::ProxyHeaderVersion},
};

/// Addresses that the text names, at most.
const ADDRESSES_SHOWN: usize = 3;

/// Whatever lay between a connection and the URL that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct WayIn {
    /// The proxy; `None` without.
    pub proxy: Option<ProxyWay>,
    /// The PROXY protocol headers; `None` without.
    pub proxy_header: Option<HeaderWay>,
    /// Where `--resolve` said that the server is; empty if it did not.
    pub resolved: Vec<SocketAddr>,
    /// The URLs that redirected to the result's, the one that was asked for first; empty if none did.
    pub redirects: Vec<String>,
}

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ProxyWay {
    /// Its URL, without user and password.
    pub url: String,
    /// Who has named it: `--proxy`, or a variable.
    pub from: String,
}

/// Headers of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct HeaderWay {
    /// Their form.
    pub version: ProxyHeaderVersion,
    /// How many addresses they named in turn; `None` if they named the connections' own.
    pub sources: Option<usize>,
}

impl WayIn {
    /// The way of connections; `None` if they go straight to the URL that was asked for.
    pub(crate) fn of(connector: &Connector) -> Option<Self> {
        let route = connector.route();
        let way_in = Self {
            proxy: route.proxy().map(|(proxy, origin)| ProxyWay {
                url: proxy.url().to_owned(),
                from: origin.name().to_owned(),
            }),
            proxy_header: route.headers().map(|headers| HeaderWay {
                version: headers.version(),
                sources: Some(headers.sources()).filter(|sources| *sources > 0),
            }),
            resolved: route.addresses_by_hand(),
            redirects: connector.redirects().to_vec(),
        };
        let Self { proxy, proxy_header, resolved, redirects } = &way_in;
        let is_straight = proxy.is_none()
            && proxy_header.is_none()
            && resolved.is_empty()
            && redirects.is_empty();
        (!is_straight).then_some(way_in)
    }

    /// What matters of it where runs are held against each other: what kind of proxy there was, and
    /// what was sent before everything else. Where proxy and server are does not.
    pub(crate) fn kind(way_in: Option<&Self>) -> (Option<&str>, Option<ProxyHeaderVersion>) {
        let proxy = way_in.and_then(|it| it.proxy.as_ref()?.url.split("://").next());
        (proxy, way_in.and_then(|it| Some(it.proxy_header?.version)))
    }

    /// The doubt about latencies that have a proxy in them.
    pub(crate) fn doubt(way_in: Option<&Self>) -> Option<Warning> {
        let ProxyWay { url, from } = way_in?.proxy.as_ref()?;
        let variable = if from.starts_with("--") { "" } else { " (--no-proxy does without it)" };
        let text = format!(
            "connections went through the proxy {url}, which {from} names: times and errors are its \
             own and the server's together{variable}"
        );
        Some(Warning::new(WarningCode::ThroughProxy, text))
    }
}

impl fmt::Display for WayIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { proxy, proxy_header, resolved, redirects } = self;
        let mut parts = Vec::new();
        if let Some(ProxyWay { url, from }) = proxy {
            parts.push(format!("through {url} ({from})"));
        }
        if !resolved.is_empty() {
            let shown = resolved.iter().take(ADDRESSES_SHOWN).map(ToString::to_string);
            let addresses = shown.collect::<Vec<_>>().join(", ");
            let more = match resolved.len().saturating_sub(ADDRESSES_SHOWN) {
                0 => String::new(),
                more => format!(" and {} more", grouped(more as u64)),
            };
            parts.push(format!("at {addresses}{more} (--resolve)"));
        }
        if let Some(HeaderWay { version, sources }) = proxy_header {
            let version = version.name();
            let sources = sources.map_or_else(String::new, |sources| {
                format!(" as {}", counted(sources as u64, "client"))
            });
            parts.push(format!("announced by PROXY {version}{sources}"));
        }
        if !redirects.is_empty() {
            parts.push(format!("redirected from {}", redirects.join(", ")));
        }
        f.write_str(&parts.join(", "))
    }
}

/// Writes the way in, if there was anything on it, as a line below the URL.
pub(crate) fn write_way_in(f: &mut fmt::Formatter<'_>, way_in: Option<&WayIn>) -> fmt::Result {
    way_in.map_or(Ok(()), |way_in| writeln!(f, "  {way_in}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_in_is_told_in_one_line() {
        let nothing =
            WayIn { proxy: None, proxy_header: None, resolved: Vec::new(), redirects: Vec::new() };
        let version = ProxyHeaderVersion::V2;
        let header = |sources| Some(HeaderWay { version, sources });
        let proxy = ProxyWay { url: "http://p:1".to_owned(), from: "ALL_PROXY".to_owned() };
        let resolved: Vec<_> = (1..=5).map(|port| ([127, 0, 0, 1], port).into()).collect();
        for (way_in, text) in [
            (WayIn { proxy_header: header(None), ..nothing.clone() }, "announced by PROXY v2"),
            (
                WayIn { resolved: resolved[..1].to_vec(), ..nothing.clone() },
                "at 127.0.0.1:1 (--resolve)",
            ),
            (
                WayIn {
                    proxy: Some(proxy),
                    proxy_header: header(Some(200)),
                    resolved,
                    redirects: ["ws://h/", "ws://i/"].map(str::to_owned).to_vec(),
                },
                "through http://p:1 (ALL_PROXY), at 127.0.0.1:1, 127.0.0.1:2, 127.0.0.1:3 and 2 more \
                 (--resolve), announced by PROXY v2 as 200 clients, redirected from ws://h/, ws://i/",
            ),
        ] {
            assert_eq!(way_in.to_string(), text);
        }
    }
}
