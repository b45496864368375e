//! Observation: what an operator sees of a server beside its log.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use clap::Args;

use crate::config::values::{ValueError, group_defaults};

/// What an operator sees of a server beside its log.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Observation")]
pub struct Observation {
    /// Where metrics, status and connections are served, apart from the echo [default: off]
    ///
    /// It is off by default, since it tells whoever can reach it the addresses of all clients.
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH")]
    pub admin_listen: Option<AdminAddress>,

    /// File that gets a line of JSON for each connection at its end; - is stdout [default: off]
    #[arg(long, value_name = "PATH")]
    pub access_log: Option<AccessLogTarget>,
}

/// Where the admin listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// An address and a port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// Where the access log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// The process's stdout.
    Stdout,
    /// A file, which is appended to.
    File(PathBuf),
}

/// The longest path that the address of a Unix socket holds, in bytes.
const SOCKET_PATH_LEN_MAX: usize = 107;

impl FromStr for AdminAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let Some(path) = text.strip_prefix("unix:") else {
            return text.parse().map(Self::Tcp).map_err(|_| {
                let expected = "an IP address and a port, or unix: and a path are needed: \
                     127.0.0.1:9101, [::1]:9101, unix:/run/ringecho/admin.sock";
                ValueError::Unreadable(expected.to_owned())
            });
        };
        if path.is_empty() || path.len() > SOCKET_PATH_LEN_MAX || path.contains('\0') {
            let expected = format!(
                "the path of a Unix socket has 1 to {SOCKET_PATH_LEN_MAX} bytes, and this has {}",
                path.len()
            );
            return Err(ValueError::Unreadable(expected));
        }
        Ok(Self::Unix(path.into()))
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for AccessLogTarget {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "" => Err(ValueError::Unreadable("a path is needed, or - for stdout".to_owned())),
            "-" => Ok(Self::Stdout),
            path => Ok(Self::File(path.into())),
        }
    }
}

impl fmt::Display for AccessLogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("-"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl Default for Observation {
    fn default() -> Self {
        group_defaults()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike_and_others_are_refused() {
        for text in ["127.0.0.1:9101", "[::1]:0", "unix:/run/a.sock", "unix:a.sock"] {
            assert_eq!(text.parse::<AdminAddress>().unwrap().to_string(), text);
        }
        for text in ["9101", "localhost:9101", "unix:", "/run/a.sock", ""] {
            assert!(text.parse::<AdminAddress>().is_err(), "{text}");
        }
        let path = |len| format!("unix:{}", "a".repeat(len)).parse::<AdminAddress>();
        assert!(path(SOCKET_PATH_LEN_MAX).is_ok());
        let refusal = path(SOCKET_PATH_LEN_MAX + 1).unwrap_err().to_string();
        assert!(refusal.contains("1 to 107 bytes, and this has 108"), "{refusal}");
    }
}
