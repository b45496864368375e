//! Flags about the way to the server: through which proxy, to which address, announced by which
//! header, and whether redirects are followed.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use clap::ArgAction;

use super::{
    PlanError,
    proxy_variables::{self, NamedProxy},
    values::AddressList,
};
use crate::{
    drive::redirects,
    wire::{
        connector::Connector,
        proxy::{Destination, Proxy},
        proxy_header::{ProxyHeaderVersion, ProxyHeaders},
        redirect::Trail,
        resolution::{self, Resolution},
        route::{ProxyOrigin, Route},
        stream::Endpoint,
        target::{ResolveError, Target, look_up, resolve},
    },
};

/// Flags about the way to the server.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = super::CONNECTIONS)]
pub struct WayInArgs {
    /// Connect through this proxy: http:// (CONNECT), socks5:// (names are looked up here) or
    /// socks5h:// (by the proxy), each with HOST:PORT, or USER:PASSWORD@ before it [default: that of the
    /// variable `ALL_PROXY`, but for hosts of `NO_PROXY` and of this machine]
    #[arg(
        long, value_name = "URL", conflicts_with_all = ["no_proxy", "unix_socket"],
        value_parser = proxy_or_none
    )]
    pub proxy: Option<ProxyFlag>,

    /// Connect without a proxy, whatever `ALL_PROXY` says
    #[arg(long)]
    pub no_proxy: bool,

    /// Connect to ADDRESS where a URL, a redirect or a proxy says HOST:PORT, or with "*" any host;
    /// repeatable, and several addresses (A,B) are taken in turn. Host field, name in TLS and checks
    /// of certificates stay those of HOST
    #[arg(
        long, value_name = "HOST:PORT:ADDRESS", action = ArgAction::Append,
        conflicts_with = "unix_socket"
    )]
    pub resolve: Vec<Resolution>,

    /// Begin each connection with a PROXY protocol header, before TLS: from the connection's own
    /// address, or of a Unix socket from nobody (LOCAL)
    #[arg(long, value_name = "VERSION")]
    pub send_proxy: Option<ProxyHeaderVersion>,

    /// Name these addresses in turn as the clients in the headers, such as 10.0.0.1-10.0.0.200
    #[arg(long, value_name = "LIST", requires = "send_proxy")]
    pub send_proxy_source: Option<AddressList>,

    /// Go where the server redirects to (301, 302, 303, 307, 308), over 10 redirects at most and not
    /// from wss:// to ws://: one connection finds out before the load
    #[arg(long)]
    pub follow: bool,
}

/// A proxy, or `''` for none.
#[derive(Clone, Debug)]
pub struct ProxyFlag(Option<Proxy>);

fn proxy_or_none(text: &str) -> Result<ProxyFlag, String> {
    if text.is_empty() {
        return Ok(ProxyFlag(None));
    }
    text.parse().map(|proxy| ProxyFlag(Some(proxy)))
}

impl WayInArgs {
    /// The connector to `target`, or with `--follow` to where that redirects to in the end.
    /// `connector_to` makes one, and is told whether it is to another server than that of `target`.
    pub(super) fn connector(
        &self,
        target: &Target,
        connector_to: impl Fn(&Target, bool) -> Result<Connector, PlanError>,
    ) -> Result<Connector, PlanError> {
        if !self.follow {
            return connector_to(target, false);
        }
        let mut trail = Trail::new(target);
        loop {
            let connector = || connector_to(trail.last(), trail.has_left_its_server());
            // The one that asks is kept by the streams that it opens.
            let asking = Arc::new(connector()?);
            match redirects::location(&asking).map_err(PlanError::Follow)? {
                Some(location) => trail.follow(&location)?,
                None => return Ok(connector()?.redirected_from(trail.urls_before())),
            }
        }
    }

    /// The way to `target`, or to a Unix socket instead. Names are looked up, for as long as
    /// `timeout` each.
    pub(super) fn route(
        &self,
        target: &Target,
        unix_socket: Option<&Path>,
        timeout: Duration,
    ) -> Result<Route, PlanError> {
        let by_hand = self.addresses(target.host(), target.port());
        let is_by_hand = !by_hand.is_empty();
        let route = match (unix_socket, self.proxy_to(target)?) {
            (Some(path), _) => {
                Route::to_server(vec![Endpoint::Unix(path.to_owned())], target.port())
            }
            (None, None) => {
                let (host, port) = (target.host(), target.port());
                let addresses = if is_by_hand {
                    by_hand
                } else {
                    vec![looked_up(target.url(), || resolve(host, port, timeout))?]
                };
                let endpoints = addresses.into_iter().map(Endpoint::Tcp).collect();
                Route::to_server(endpoints, target.port())
            }
            (None, Some(NamedProxy { proxy, origin })) => {
                let (host, port) = (proxy.host(), proxy.port());
                let mut addresses = self.addresses(host, port);
                if addresses.is_empty() {
                    addresses.push(looked_up(proxy.url(), || resolve(host, port, timeout))?);
                }
                let endpoints = addresses.into_iter().map(Endpoint::Tcp).collect();
                let destinations = if is_by_hand {
                    by_hand.into_iter().map(Destination::Address).collect()
                } else {
                    vec![destination(target, &proxy)?]
                };
                Route::through(proxy, origin, endpoints, destinations, target.port())
            }
        };
        Ok(route.resolved_by_hand(is_by_hand).announced_by(self.headers()))
    }

    /// Where `--resolve` says that this is; empty if it does not.
    fn addresses(&self, host: &str, port: u16) -> Vec<SocketAddr> {
        let addresses = resolution::addresses(&self.resolve, host, port);
        addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect()
    }

    /// The proxy on the way to `target`: that of the flag, else that of a variable.
    fn proxy_to(&self, target: &Target) -> Result<Option<NamedProxy>, PlanError> {
        match &self.proxy {
            _ if self.no_proxy => Ok(None),
            Some(ProxyFlag(proxy)) => {
                let named = |proxy| NamedProxy { proxy, origin: ProxyOrigin::Flag };
                Ok(proxy.clone().map(named))
            }
            None => {
                let variable = |name: &str| std::env::var_os(name);
                proxy_variables::proxy_to(target.host(), target.port(), variable)
            }
        }
    }

    fn headers(&self) -> Option<ProxyHeaders> {
        let sources = self.send_proxy_source.as_ref();
        let sources = sources.map_or_else(Vec::new, |list| list.as_slice().to_vec());
        self.send_proxy.map(|version| ProxyHeaders::new(version, sources))
    }
}

/// What `proxy` is asked for. A proxy that looks names up is told the URL's; of the addresses that are
/// looked up here, the first one counts, since a connection to find out would go around the proxy.
fn destination(target: &Target, proxy: &Proxy) -> Result<Destination, PlanError> {
    let (host, port) = (target.host(), target.port());
    match host.parse() {
        Ok(address) => Ok(Destination::Address(SocketAddr::new(address, port))),
        Err(_) if proxy.takes_names() => Ok(Destination::Name(host.to_owned(), port)),
        Err(_) => looked_up(target.url(), || look_up(host, port).map(|(first, _)| first))
            .map(Destination::Address),
    }
}

fn looked_up(
    url: &str,
    resolve: impl FnOnce() -> Result<SocketAddr, ResolveError>,
) -> Result<SocketAddr, PlanError> {
    resolve().map_err(|cause| PlanError::Resolve { url: url.to_owned(), cause })
}
