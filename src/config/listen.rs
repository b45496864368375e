//! Where something listens: an address and a port, or the path of a Unix socket, with TLS or without.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use crate::config::values::ValueError;

/// Where something listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// An address and a port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// Where a server listens, and what is spoken there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Listen {
    /// Where.
    pub address: ListenAddress,
    /// TLS is spoken.
    pub speaks_tls: bool,
}

/// The permissions of a Unix socket's file, of which writing is what connecting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(u32);

/// The longest path that the address of a Unix socket holds, in bytes.
const SOCKET_PATH_LEN_MAX: usize = 107;

const UNIX: &str = "unix:";

/// What stands before an address at which TLS is spoken.
const TLS: &str = "tls+";

impl FromStr for ListenAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let Some(path) = text.strip_prefix(UNIX) else {
            return text.parse().map(Self::Tcp).map_err(|_| {
                let expected = "an IP address and a port, or unix: and a path are needed: \
                     127.0.0.1:9001, [::1]:9001, unix:/run/ringecho/echo.sock";
                ValueError::Unreadable(expected.to_owned())
            });
        };
        let len = path.len();
        if path.is_empty() || len > SOCKET_PATH_LEN_MAX || path.contains('\0') {
            let expected = format!(
                "the path of a Unix socket has 1 to {SOCKET_PATH_LEN_MAX} bytes, and this has {len}"
            );
            return Err(ValueError::Unreadable(expected));
        }
        Ok(Self::Unix(path.into()))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl FromStr for Listen {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (address, speaks_tls) = match text.strip_prefix(TLS) {
            Some(address) => (address, true),
            None => (text, false),
        };
        Ok(Self { address: address.parse()?, speaks_tls })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.speaks_tls { TLS } else { "" })?;
        self.address.fmt(f)
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self { address: ListenAddress::Tcp(address), speaks_tls: false }
    }
}

impl Listen {
    /// The address of IP; `None` for a Unix socket.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        match self.address {
            ListenAddress::Tcp(address) => Some(address),
            ListenAddress::Unix(_) => None,
        }
    }
}

impl SocketMode {
    /// The permissions, as in `chmod`.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for SocketMode {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_digit());
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
        mode.map(Self).ok_or_else(|| {
            let expected = "the permissions of a file are needed, in octal: 600, 660, 0666";
            ValueError::Unreadable(expected.to_owned())
        })
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03o}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike_and_others_are_refused() {
        for text in ["127.0.0.1:9101", "[::1]:0", "unix:/run/a.sock", "unix:a.sock"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
            for text in [text.to_owned(), format!("tls+{text}")] {
                assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
            }
        }
        for text in
            ["9101", "localhost:9101", "unix:", "/run/a.sock", "", "tls+", "tls+tls+[::1]:1"]
        {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
        let path = |len| format!("unix:{}", "a".repeat(len)).parse::<ListenAddress>();
        assert!(path(SOCKET_PATH_LEN_MAX).is_ok());
        let refusal = path(SOCKET_PATH_LEN_MAX + 1).unwrap_err().to_string();
        assert!(refusal.contains("1 to 107 bytes, and this has 108"), "{refusal}");
    }

    #[test]
    fn mode_is_octal() {
        for (text, bits) in [("600", 0o600), ("0660", 0o660), ("000", 0), ("777", 0o777)] {
            assert_eq!(text.parse::<SocketMode>().unwrap().bits(), bits);
        }
        for text in ["", "8", "0", "888", "1777", "00600", "+66", "rw-"] {
            assert!(text.parse::<SocketMode>().is_err(), "{text}");
        }
    }
}
