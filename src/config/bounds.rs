//! Bounds: how many connections there may be, and how fast they may come.

use clap::Args;

use crate::{
    config::values::{Within, group_defaults},
    http::HEADER_FIELDS_MAX,
};

/// How many connections there may be, and how fast they may come.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Bounds")]
pub struct Bounds {
    /// Most connections at a time; more get 503 [default: what the limit on open files leaves]
    ///
    /// The bound is above the number of descriptors that a process may have.
    #[arg(long, value_name = "COUNT")]
    pub connections_max: Option<Within<u32, 1, { 1 << 30 }>>,

    /// Most connections of an address at a time; more get 429; 0 for no bound
    ///
    /// A provider gives a customer a /64 of IPv6 addresses or more, so such a block counts as one.
    /// It is off by default, since behind a proxy all clients have one address.
    #[arg(long, value_name = "COUNT", default_value = "0")]
    pub connections_per_ip_max: Within<u32, 0, { 1 << 30 }>,

    /// Most connections with a handshake or another request in progress, on all workers; more get 503
    ///
    /// A half-open handshake takes 14 KB, so the default bounds what they take together to 230 MB.
    /// A lower one is reached by clients that all come back at once. A connection over HTTP/1.1 counts
    /// again from the first byte of a later request to its response, and not between requests; over
    /// HTTP/2 it counts until its first request, and streams have a bound of their own.
    #[arg(long, value_name = "COUNT", default_value = "16384")]
    pub handshakes_max: Within<u32, 1, { 1 << 30 }>,

    /// Connections of an address in a second; more get 429; 0 for no bound
    ///
    /// An address that was quiet for a second may open as many at once. It is off by default, since
    /// behind a proxy all clients have one address.
    #[arg(long, value_name = "COUNT", default_value = "0")]
    pub connect_rate_per_ip: Within<u32, 0, 1_000_000>,

    /// Most header fields of a request; one with more gets 431
    ///
    /// The default is the most that monoio-http's decoder takes. The length of the whole head is
    /// bounded beside it.
    #[arg(long, value_name = "COUNT", default_value = "96")]
    pub header_fields_max: Within<u32, 1, { HEADER_FIELDS_MAX as u64 }>,
}

impl Default for Bounds {
    fn default() -> Self {
        group_defaults()
    }
}
