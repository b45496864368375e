//! What a thread has counted, and how counts add up.

use std::{collections::BTreeMap, fmt, io, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::latency::Histograms;
use crate::{
    text::numbers::grouped,
    verify::verifier::{Violation, WrongEcho},
    wire::handshake::HandshakeError,
};

/// The most different causes of errors that are kept apart; further ones are only counted.
const CAUSES_MAX: usize = 16;

/// What can go wrong with one connection.
#[derive(Debug, Error)]
pub(crate) enum ConnectionError {
    #[error("{}", explain_connect(.0))]
    Connect(io::Error),
    #[error("TLS: {}", explain_tls(.0))]
    Tls(io::Error),
    #[error("not connected after {0:?}")]
    ConnectTimeout(Duration),
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    #[error("the server closed the connection during the opening handshake")]
    HandshakeCutOff,
    #[error("the connection was not open after {0:?}")]
    OpeningTimeout(Duration),
    #[error("{0}")]
    Violation(Violation),
    #[error("the server sent a Close frame with {}", describe_code(*.0))]
    ClosedWith(Option<u16>),
    #[error("the server ended the connection without a Close frame")]
    EndOfStream,
    #[error("the connection broke: {0}")]
    Broken(io::Error),
}

fn describe_code(code: Option<u16>) -> String {
    code.map_or_else(|| "no code".to_owned(), |code| format!("code {code}"))
}

/// The cause, and the command that mends it where there is one.
fn explain_connect(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => format!(
            "{error}; no local port is left for another connection to this address: \
             sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\""
        ),
        _ if error.raw_os_error() == Some(nix::errno::Errno::EMFILE as i32) => {
            format!("{error}; raise the limit on open files: ulimit -n 1048576")
        }
        _ => error.to_string(),
    }
}

/// The cause, and the flags that mend it where there are some.
fn explain_tls(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::InvalidCertificate(_)) => {
            format!("{error}; name whom to trust with --ca FILE, or use --insecure")
        }
        _ => error.to_string(),
    }
}

/// The kinds that errors are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The socket could not connect, or TLS could not be spoken.
    Connect,
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
            Self::Connect | Self::Handshake | Self::Timeout => true,
            Self::Wrong | Self::Missing | Self::Closed | Self::Protocol => false,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Handshake => "handshake",
            Self::Timeout => "timeout",
            Self::Wrong => "wrong",
            Self::Missing => "missing",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
        })
    }
}

impl ConnectionError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Connect(_) | Self::Tls(_) => ErrorKind::Connect,
            Self::Handshake(_) | Self::HandshakeCutOff => ErrorKind::Handshake,
            Self::ConnectTimeout(_) | Self::OpeningTimeout(_) => ErrorKind::Timeout,
            Self::Violation(_) => ErrorKind::Protocol,
            Self::ClosedWith(_) | Self::EndOfStream | Self::Broken(_) => ErrorKind::Closed,
        }
    }
}

/// How often each kind of error happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ErrorCounts {
    /// [`ErrorKind::Connect`]
    pub connect: u64,
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
    fn add(&mut self, kind: ErrorKind, count: u64) {
        let counter = match kind {
            ErrorKind::Connect => &mut self.connect,
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
        for (kind, count) in [
            (ErrorKind::Connect, other.connect),
            (ErrorKind::Handshake, other.handshake),
            (ErrorKind::Timeout, other.timeout),
            (ErrorKind::Wrong, other.wrong),
            (ErrorKind::Missing, other.missing),
            (ErrorKind::Closed, other.closed),
            (ErrorKind::Protocol, other.protocol),
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
    fn of(&mut self, wrong: WrongEcho) -> &mut u64 {
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
        let Self { connect, handshake, timeout, wrong, missing, closed, protocol, total } = *self;
        if total == 0 {
            return f.write_str("none");
        }
        write_counts(
            f,
            &[
                (connect, "connect"),
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

/// What a thread has counted since it last handed that over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Connections whose opening handshake succeeded.
    pub(crate) opened: u64,
    /// Connections whose messages are compressed, also those that were opened again.
    pub(crate) compressed: u64,
    /// Opened connections that an error ended.
    pub(crate) lost: u64,
    /// Lost connections that were opened again.
    pub(crate) reopened: u64,
    /// Correct echoes that arrived, in all.
    pub(crate) echoes: u64,
    /// Correct echoes that arrived in the measured window.
    pub(crate) echoes_measured: u64,
    /// Bytes of payload of these.
    pub(crate) payload_measured: u64,
    pub(crate) histograms: Histograms,
    pub(crate) errors: ErrorCounts,
    pub(crate) wrong_echoes: WrongEchoCounts,
    causes: BTreeMap<(ErrorKind, String), u64>,
}

impl Tally {
    /// Counts what went wrong with one connection.
    #[cold]
    pub(crate) fn count_error(&mut self, error: &ConnectionError) {
        self.count(error.kind(), error.to_string(), 1);
    }

    /// Counts a message that is not the echo that it should be.
    #[cold]
    pub(crate) fn count_wrong(&mut self, wrong: WrongEcho) {
        *self.wrong_echoes.of(wrong) += 1;
        self.count(ErrorKind::Wrong, wrong.to_string(), 1);
    }

    /// Counts messages whose echo never came.
    #[cold]
    pub(crate) fn count_missing(&mut self, messages: usize) {
        self.errors.add(ErrorKind::Missing, messages as u64);
    }

    fn count(&mut self, kind: ErrorKind, cause: String, count: u64) {
        self.errors.add(kind, count);
        self.note_cause((kind, cause), count);
    }

    fn note_cause(&mut self, cause: (ErrorKind, String), count: u64) {
        let known = self.causes.len();
        if known < CAUSES_MAX || self.causes.contains_key(&cause) {
            *self.causes.entry(cause).or_default() += count;
        }
    }

    /// Forgets everything, but keeps the memory.
    pub(crate) fn clear(&mut self) {
        let Self {
            opened,
            compressed,
            lost,
            reopened,
            echoes,
            echoes_measured,
            payload_measured,
            histograms,
            errors,
            wrong_echoes,
            causes,
        } = self;
        for count in [opened, compressed, lost, reopened, echoes, echoes_measured, payload_measured]
        {
            *count = 0;
        }
        histograms.clear();
        *errors = ErrorCounts::default();
        *wrong_echoes = WrongEchoCounts::default();
        causes.clear();
    }

    /// Adds another one's counts.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.opened += other.opened;
        self.compressed += other.compressed;
        self.lost += other.lost;
        self.reopened += other.reopened;
        self.echoes += other.echoes;
        self.echoes_measured += other.echoes_measured;
        self.payload_measured += other.payload_measured;
        self.wrong_echoes.merge(other.wrong_echoes);
        self.histograms.merge(&other.histograms);
        self.errors.merge(other.errors);
        for (cause, count) in &other.causes {
            self.note_cause(cause.clone(), *count);
        }
    }

    /// Why errors happened, most frequent first, as far as they were kept apart.
    pub(crate) fn causes(&self) -> Vec<Cause> {
        let mut causes: Vec<Cause> = self
            .causes
            .iter()
            .map(|((kind, cause), count)| Cause {
                kind: *kind,
                cause: cause.clone(),
                count: *count,
            })
            .collect();
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.count));
        causes
    }
}

/// One reason for errors.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Cause {
    /// The kind that it is counted under.
    pub kind: ErrorKind,
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
    fn causes_are_bounded_and_counts_are_not() {
        let mut total = Tally::default();
        for thread in 0..2 {
            let mut tally = Tally::default();
            for at in 0..100 {
                tally.count_wrong(WrongEcho::TooShort(at + 50 * thread));
            }
            tally.count_missing(7);
            total.merge(&tally);
        }
        assert_eq!(total.errors.wrong, 200);
        assert_eq!(total.wrong_echoes.truncated, 200);
        assert_eq!(total.errors.missing, 14);
        assert_eq!(total.errors.total, 214);
        assert_eq!(total.causes().len(), CAUSES_MAX);
    }

    #[test]
    fn only_errors_that_happened_are_listed() {
        let mut errors = ErrorCounts::default();
        assert_eq!(errors.to_string(), "none");
        errors = ErrorCounts { wrong: 1, missing: 2000, total: 2001, ..errors };
        assert_eq!(errors.to_string(), "1 wrong, 2,000 missing");
    }
}
