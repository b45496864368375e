//! Network: where a server listens, and how connections come in.

use std::net::SocketAddr;

use clap::Args;

use crate::config::values::{ValueError, Within, group_defaults, parse_switch};

/// Where a server listens, and how connections come in.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Network")]
pub struct Network {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(
        long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9001",
        value_parser = parse_address
    )]
    pub listen: SocketAddr,

    /// Share the port with other programs that share it too, instead of refusing to start
    #[arg(long, value_parser = parse_switch)]
    pub reuse_port: bool,

    /// How many connections may wait to be accepted, at each worker; the kernel caps it
    ///
    /// The kernel ignores further connections, whose clients try again after a second. The default
    /// equals that of the kernel's cap, `net.core.somaxconn`.
    #[arg(long, value_name = "COUNT", default_value = "4096")]
    pub backlog: Within<u32, 1, { 1 << 20 }>,

    /// Congestion control of accepted connections, such as reno or bbr [default: the system's]
    #[arg(long, value_name = "NAME")]
    pub tcp_congestion: Option<String>,
}

impl Default for Network {
    fn default() -> Self {
        group_defaults()
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, ValueError> {
    text.parse().map_err(|_| {
        let expected =
            "an IP address and a port are needed: 127.0.0.1:9001, 0.0.0.0:80, [::1]:9001";
        ValueError::Unreadable(expected.to_owned())
    })
}
