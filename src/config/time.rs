//! Time: how long clients may take, and how long they may be silent.

use std::time::Duration;

use clap::Args;

use crate::config::values::{Within, group_defaults};

// In seconds.
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// How long clients may take, and how long they may be silent.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Time")]
pub struct Time {
    /// How long a client may take for its request head
    ///
    /// A body has as long again, and each further request on a connection as long from its first byte.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub handshake_timeout: Within<Duration, 1, HOUR>,

    /// How long a client may be without a request between two of them; 0s for one request each
    ///
    /// The default is longer than the 60 s for which common load balancers keep a connection: a
    /// server that closes first may meet the next request on its way.
    #[arg(long, value_name = "TIME", default_value = "75s")]
    pub http_keep_alive: Within<Duration, 0, HOUR>,

    /// Silence after which a client is sent a Ping; 0s for never
    ///
    /// The Ping keeps middleboxes from forgetting the connection. The default is that of ASP.NET
    /// Core.
    #[arg(long, value_name = "TIME", default_value = "2m")]
    pub keep_alive_interval: Within<Duration, 0, DAY>,

    /// Silence after that Ping for which a client is given up
    #[arg(long, value_name = "TIME", default_value = "20s")]
    pub keep_alive_timeout: Within<Duration, 1, HOUR>,

    /// How long a client may be without a message until it is closed with 1001; 0s for ever
    ///
    /// Pings and Pongs are no messages. Only the time between two messages counts, in either
    /// direction. Off by default, since keep-alive already finds clients that are gone.
    #[arg(long, value_name = "TIME", default_value = "0s")]
    pub idle_timeout: Within<Duration, 0, DAY>,

    /// How long a client may take no byte of what it was sent
    ///
    /// A client that takes some, however slowly, goes on. The default is shorter than the time
    /// within which keep-alive finds such a client.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub write_timeout: Within<Duration, 1, HOUR>,

    /// How old a connection may become until it is closed with 1001; 0s for any age
    ///
    /// Each connection has up to a tenth less, so that those which came together do not end
    /// together. A message that is then under way has a tenth, or the close timeout, to end.
    #[arg(long, value_name = "TIME", default_value = "0s")]
    pub lifetime_max: Within<Duration, 0, { 30 * DAY }>,

    /// How long a closed connection waits for the client to end it too
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub close_timeout: Within<Duration, 1, HOUR>,

    /// How long a stopping server still accepts, while /healthz says already that it is not ready
    ///
    /// A load balancer asks every few seconds, and sends clients here until it has learned of it.
    #[arg(long, value_name = "TIME", default_value = "0s")]
    pub drain_delay: Within<Duration, 0, HOUR>,

    /// Time over which a stopping server spreads its Close frames
    ///
    /// Clients that are closed at once come back at once, to a server that may still be starting.
    #[arg(long, value_name = "TIME", default_value = "0s")]
    pub drain_spread: Within<Duration, 0, HOUR>,

    /// How long a stopping server waits for its clients to close, after the last Close frame
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub drain_timeout: Within<Duration, 0, HOUR>,

    /// Silence after which a client is told to go to the server that has taken over
    ///
    /// A Close frame may cross a message that is on its way. The default is longer than most round
    /// trips. Clients that are never silent for so long are told at the end of the drain timeout.
    #[arg(long, value_name = "TIME", default_value = "200ms")]
    pub drain_quiet: Within<Duration, 0, MINUTE>,
}

impl Default for Time {
    fn default() -> Self {
        group_defaults()
    }
}
