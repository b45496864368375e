//! Proxies: whose word is taken for who the client is.

use std::net::IpAddr;

use clap::{Args, ValueEnum};

use crate::{
    config::{ConfigError, values::group_defaults},
    trust::{TrustedPeers, is_trusted},
};

/// Whose word is taken for who the client is.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Proxies")]
pub struct Proxies {
    /// PROXY protocol header that proxies put before each connection: off, required, optional
    ///
    /// It is off by default, since nothing keeps a client that reaches the port from sending one.
    #[arg(long, value_name = "NAME", default_value = "off")]
    pub proxy_protocol: ProxyProtocol,

    /// Proxy whose PROXY headers are believed: an address, a network, or unix; repeatable [default:
    /// none]
    ///
    /// There is no default, since whoever is believed may name any client: all bounds of an address
    /// and all logs rest on it.
    #[arg(long, value_name = "ADDRESS[/LEN]", value_delimiter = ',')]
    pub proxy_from: Vec<TrustedPeers>,

    /// Proxy whose Forwarded and X-Forwarded-For are believed, written alike; repeatable [default:
    /// none]
    ///
    /// Nothing is believed by default, for the same reason.
    #[arg(long, value_name = "ADDRESS[/LEN]", value_delimiter = ',')]
    pub forwarded_from: Vec<TrustedPeers>,
}

/// What is done about headers of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxyProtocol {
    /// None is expected, and one that comes is refused.
    Off,
    /// Each connection begins with one, and comes from a trusted proxy.
    Required,
    /// A trusted proxy may send one. Others are clients, and send none.
    Optional,
}

/// The most networks that a flag names. Each connection is compared with all of them.
const TRUSTED_MAX: usize = 1024;

impl Default for Proxies {
    fn default() -> Self {
        group_defaults()
    }
}

impl Proxies {
    /// Whether PROXY headers of a peer are believed: of one with this address, or of a Unix socket's
    /// (`None`).
    pub fn believe_header_of(&self, ip: Option<IpAddr>) -> bool {
        self.proxy_protocol != ProxyProtocol::Off && is_trusted(&self.proxy_from, ip)
    }

    /// Whether what a request of a peer says of its way here is believed.
    pub fn believe_request_of(&self, ip: Option<IpAddr>) -> bool {
        is_trusted(&self.forwarded_from, ip)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (flag, trusted) in
            [("--proxy-from", &self.proxy_from), ("--forwarded-from", &self.forwarded_from)]
        {
            if trusted.len() > TRUSTED_MAX {
                let (number, max) = (trusted.len(), TRUSTED_MAX);
                return Err(ConfigError::TrustedTooMany { flag, number, max });
            }
        }
        let is_off = self.proxy_protocol == ProxyProtocol::Off;
        if !is_off && self.proxy_from.is_empty() {
            return Err(ConfigError::ProxyUnnamed);
        }
        Ok(())
    }
}
