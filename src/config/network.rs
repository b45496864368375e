//! Network: where a server listens, and how connections come in.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::Args;

use crate::config::{
    listen::{Listen, SocketMode},
    values::{ValueError, Within, group_defaults, parse_switch},
};

/// Where a server listens, and how connections come in.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Network")]
pub struct Network {
    /// Where to listen, with tls+ in front for TLS; port 0 takes a free one; repeatable
    ///
    /// `[::]` takes connections of IPv4 too, unless an address of IPv4 with the same port is named
    /// beside it. A Unix socket's file is removed when the server stops, and one that a dead server
    /// has left is replaced.
    #[arg(
        long,
        value_name = "[tls+]ADDRESS:PORT|unix:PATH",
        default_value = "127.0.0.1:9001",
        value_delimiter = ','
    )]
    pub listen: Vec<Listen>,

    /// Permissions of the files of Unix sockets; to connect takes that of writing
    #[arg(long, value_name = "MODE", default_value = "660")]
    pub unix_mode: SocketMode,

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

    /// Socket file by which a new server with the same flag takes over from this one [default: none]
    #[arg(long, value_name = "PATH")]
    pub takeover: Option<TakeoverPath>,
}

/// The path of a takeover's socket file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeoverPath(PathBuf);

impl TakeoverPath {
    /// Bytes of the longest path. A socket's address has 108 bytes, and until it is renamed the file's
    /// name is 12 bytes longer.
    pub const LEN_MAX: usize = 95;
}

impl FromStr for TakeoverPath {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let len = text.len();
        if text.is_empty() || len > Self::LEN_MAX || text.contains('\0') || text.ends_with('/') {
            let max = Self::LEN_MAX;
            let expected =
                format!("a path of a file is needed, of 1 to {max} bytes, and this has {len}");
            return Err(ValueError::Unreadable(expected));
        }
        Ok(Self(text.into()))
    }
}

impl AsRef<Path> for TakeoverPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for TakeoverPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl Default for Network {
    fn default() -> Self {
        group_defaults()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_a_takeover_fits_a_socket_address() {
        let longest = "a".repeat(TakeoverPath::LEN_MAX);
        for path in ["/run/ringecho/takeover", "takeover", &longest] {
            assert_eq!(path.parse::<TakeoverPath>().unwrap().to_string(), path);
        }
        for path in ["", "/run/", "a\0b", &format!("{longest}a")] {
            let refusal = path.parse::<TakeoverPath>().unwrap_err().to_string();
            assert!(refusal.contains("of 1 to 95 bytes"), "{refusal}");
        }
    }
}
