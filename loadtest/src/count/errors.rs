//! The kinds of errors, how often each happened and why: what adds up, and what a result says of it.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

use crate::{text::numbers::grouped, verify::received::WrongEcho};

/// The kinds that errors are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The socket could not connect, or TLS could not be spoken.
    Connect,
    /// The proxy could not be reached, or gave no connection to the server.
    Proxy,
    /// The answer to the opening handshake does not open the connection.
    Handshake,
    /// Opening the connection took too long.
    Timeout,
    /// A message is not the echo that it should be. [`WrongEchoCounts`] tells them apart.
    Wrong,
    /// A message was sent and no echo of it came.
    Missing,
    /// The server ended the connection before its time.
    Closed,
    /// The server violated RFC 6455. The connection is given up.
    Protocol,
}

impl ErrorKind {
    /// Whether it happens to connections that are not open yet, and to no others.
    pub(crate) fn keeps_from_opening(self) -> bool {
        match self {
            Self::Connect | Self::Proxy | Self::Handshake | Self::Timeout => true,
            Self::Wrong | Self::Missing | Self::Closed | Self::Protocol => false,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Proxy => "proxy",
            Self::Handshake => "handshake",
            Self::Timeout => "timeout",
            Self::Wrong => "wrong",
            Self::Missing => "missing",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
        })
    }
}

/// How often each kind of error happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ErrorCounts {
    /// [`ErrorKind::Connect`]
    pub connect: u64,
    /// [`ErrorKind::Proxy`]. Earlier results have none.
    #[serde(default)]
    pub proxy: u64,
    /// [`ErrorKind::Handshake`]
    pub handshake: u64,
    /// [`ErrorKind::Timeout`]
    pub timeout: u64,
    /// [`ErrorKind::Wrong`]
    pub wrong: u64,
    /// [`ErrorKind::Missing`]
    pub missing: u64,
    /// [`ErrorKind::Closed`]
    pub closed: u64,
    /// [`ErrorKind::Protocol`]
    pub protocol: u64,
    /// All of them.
    pub total: u64,
}

impl ErrorCounts {
    pub(super) fn add(&mut self, kind: ErrorKind, count: u64) {
        let counter = match kind {
            ErrorKind::Connect => &mut self.connect,
            ErrorKind::Proxy => &mut self.proxy,
            ErrorKind::Handshake => &mut self.handshake,
            ErrorKind::Timeout => &mut self.timeout,
            ErrorKind::Wrong => &mut self.wrong,
            ErrorKind::Missing => &mut self.missing,
            ErrorKind::Closed => &mut self.closed,
            ErrorKind::Protocol => &mut self.protocol,
        };
        *counter += count;
        self.total += count;
    }

    /// Adds others.
    pub(crate) fn merge(&mut self, other: Self) {
        // Adding each kind adds up the total.
        let Self { connect, proxy, handshake, timeout, wrong, missing, closed, protocol, total: _ } =
            other;
        for (kind, count) in [
            (ErrorKind::Connect, connect),
            (ErrorKind::Proxy, proxy),
            (ErrorKind::Handshake, handshake),
            (ErrorKind::Timeout, timeout),
            (ErrorKind::Wrong, wrong),
            (ErrorKind::Missing, missing),
            (ErrorKind::Closed, closed),
            (ErrorKind::Protocol, protocol),
        ] {
            self.add(kind, count);
        }
    }
}

/// How often a message was not the echo that it should be, by what was wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct WrongEchoCounts {
    /// Bytes were other ones.
    pub corrupted: u64,
    /// Bytes were missing at the end.
    pub truncated: u64,
    /// Bytes were added at the end.
    pub extended: u64,
    /// A text came back as binary, or the other way round.
    pub retyped: u64,
    /// The echo came after that of a later message.
    pub reordered: u64,
    /// The echo had come before.
    pub duplicated: u64,
    /// No message on its way was like it.
    pub unasked: u64,
}

impl WrongEchoCounts {
    pub(super) fn of(&mut self, wrong: WrongEcho) -> &mut u64 {
        match wrong {
            WrongEcho::Differs { .. } | WrongEcho::NotDeflated => &mut self.corrupted,
            WrongEcho::TooShort(_) => &mut self.truncated,
            WrongEcho::TooLong(_) => &mut self.extended,
            WrongEcho::TextAsBinary | WrongEcho::BinaryAsText => &mut self.retyped,
            WrongEcho::Late => &mut self.reordered,
            WrongEcho::Repeated => &mut self.duplicated,
            WrongEcho::Unasked => &mut self.unasked,
        }
    }

    /// Adds others.
    pub(crate) fn merge(&mut self, other: Self) {
        let Self { corrupted, truncated, extended, retyped, reordered, duplicated, unasked } =
            other;
        self.corrupted += corrupted;
        self.truncated += truncated;
        self.extended += extended;
        self.retyped += retyped;
        self.reordered += reordered;
        self.duplicated += duplicated;
        self.unasked += unasked;
    }
}

impl fmt::Display for ErrorCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connect, proxy, handshake, timeout, wrong, missing, closed, protocol, total } =
            *self;
        if total == 0 {
            return f.write_str("none");
        }
        write_counts(
            f,
            &[
                (connect, "connect"),
                (proxy, "proxy"),
                (handshake, "handshake"),
                (timeout, "timeout"),
                (wrong, "wrong"),
                (missing, "missing"),
                (closed, "closed"),
                (protocol, "protocol"),
            ],
        )
    }
}

impl fmt::Display for WrongEchoCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { corrupted, truncated, extended, retyped, reordered, duplicated, unasked } =
            *self;
        write_counts(
            f,
            &[
                (corrupted, "corrupted"),
                (truncated, "truncated"),
                (extended, "extended"),
                (retyped, "retyped"),
                (reordered, "reordered"),
                (duplicated, "duplicated"),
                (unasked, "unasked"),
            ],
        )
    }
}

/// Writes those counts that are not zero, with their kinds.
fn write_counts(f: &mut fmt::Formatter<'_>, counts: &[(u64, &str)]) -> fmt::Result {
    let mut separator = "";
    for (count, kind) in counts.iter().filter(|(count, _)| *count > 0) {
        write!(f, "{separator}{} {kind}", grouped(*count))?;
        separator = ", ";
    }
    Ok(())
}

/// One reason for errors.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Cause {
    /// The kind that it is counted under.
    pub kind: ErrorKind,
    /// A name for scripts, of those errors of TLS and HTTP/2 and of those refusals that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Cow<'static, str>>,
    /// What happened.
    pub cause: String,
    /// How often.
    pub count: u64,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}x)", self.kind, self.cause, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_happened_are_listed() {
        let mut errors = ErrorCounts::default();
        assert_eq!(errors.to_string(), "none");
        errors = ErrorCounts { wrong: 1, missing: 2000, total: 2001, ..errors };
        assert_eq!(errors.to_string(), "1 wrong, 2,000 missing");
    }
}
