//! Refusals of requests, each as one value that any HTTP can write.
//!
//! Each layer that refuses has a small enum of its reasons, which one exhaustive match turns into a
//! [`Refusal`]; the reasons of HTTP are [`RequestRefusal`]. The writer in
//! [`response`](super::response) knows no reasons.

use http::StatusCode;
use thiserror::Error;

use super::{echo_paths::EchoPaths, foreign::ForeignProtocol};
use crate::metrics::RefusalReason;

/// The response to a refused request, before an HTTP writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the response.
    pub status: StatusCode,
    /// Names and values of the header fields that this refusal needs beside those of every response.
    pub headers: &'static [(&'static str, &'static str)],
    /// The reason and what mends it, for people: one line without its end.
    pub text: String,
}

/// Why a request is refused, whatever path it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestRefusal {
    /// The head is longer than [`REQUEST_HEAD_LEN_MAX`](super::head::REQUEST_HEAD_LEN_MAX).
    #[error("the request head is longer than 8 KiB")]
    HeadTooLong,
    /// The head has more header fields than this.
    #[error("the request has more than {0} header fields")]
    HeaderFieldsTooMany(usize),
    /// The head is not HTTP/1.
    #[error("this is not an HTTP/1.1 request")]
    Malformed,
    /// The bytes are those of another protocol.
    #[error(transparent)]
    Foreign(ForeignProtocol),
    /// There are empty lines where the request line should be.
    #[error(
        "a request begins with its request line, and empty lines came; a PROXY protocol header \
         (version 2) begins so too: have the proxy before this port send none"
    )]
    LinesEmpty,
    /// A line ends with CR or LF alone.
    #[error("a line of a request head ends with CR and LF, and one came without the other")]
    LineEndBare,
    /// The head did not arrive in time.
    #[error("the request head took too long")]
    TimedOut,
    /// The request's version is neither HTTP/1.1 nor HTTP/1.0.
    #[error("only HTTP/1.1 is spoken here, and HTTP/1.0 for the page")]
    VersionUnsupported,
    /// `Host` is missing, repeated, or not a host.
    #[error("Host must be there once, with a host and an optional port")]
    HostInvalid,
    /// There is nothing at this path; upgrades are at the paths named here.
    #[error("there is nothing here: the page is at /, and upgrades are at {0}")]
    PathUnknown(EchoPaths),
    /// The request asks for an echo, and there is none at this path; upgrades are at the paths
    /// named here.
    #[error("there is no echo here: upgrades are at {0}")]
    NoEcho(EchoPaths),
    /// The method is neither GET nor HEAD.
    #[error("only GET and HEAD are possible here")]
    MethodNotAllowed,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// A plain request came where TLS is spoken.
    #[error("this port speaks TLS: use https:// or wss://")]
    TlsExpected,
}

impl From<RequestRefusal> for Refusal {
    fn from(reason: RequestRefusal) -> Self {
        use RequestRefusal::{
            Foreign, HeadTooLong, HeaderFieldsTooMany, HostInvalid, LineEndBare, LinesEmpty,
            Malformed, MethodNotAllowed, NoEcho, PathUnknown, Stopping, TimedOut, TlsExpected,
            VersionUnsupported,
        };
        let (status, headers): (_, &[_]) = match reason {
            HeadTooLong | HeaderFieldsTooMany(_) => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &[])
            }
            Malformed | Foreign(_) | LinesEmpty | LineEndBare | HostInvalid | TlsExpected => {
                (StatusCode::BAD_REQUEST, &[])
            }
            TimedOut => (StatusCode::REQUEST_TIMEOUT, &[]),
            VersionUnsupported => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, &[]),
            PathUnknown(_) | NoEcho(_) => (StatusCode::NOT_FOUND, &[]),
            MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, &[("Allow", "GET, HEAD")]),
            Stopping => (StatusCode::SERVICE_UNAVAILABLE, &[]),
        };
        Self { status, headers, text: reason.to_string() }
    }
}

impl From<&RequestRefusal> for RefusalReason {
    fn from(reason: &RequestRefusal) -> Self {
        match reason {
            RequestRefusal::HeadTooLong => Self::HeadTooLong,
            RequestRefusal::HeaderFieldsTooMany(_) => Self::HeaderFieldsTooMany,
            RequestRefusal::Malformed => Self::RequestMalformed,
            RequestRefusal::Foreign(_) => Self::ForeignProtocol,
            RequestRefusal::LinesEmpty => Self::LinesEmpty,
            RequestRefusal::LineEndBare => Self::LineEndBare,
            RequestRefusal::TimedOut => Self::HeadTimedOut,
            RequestRefusal::VersionUnsupported => Self::HttpVersionUnsupported,
            RequestRefusal::HostInvalid => Self::HostInvalid,
            RequestRefusal::PathUnknown(_) => Self::PathUnknown,
            RequestRefusal::NoEcho(_) => Self::NoEcho,
            RequestRefusal::MethodNotAllowed => Self::MethodNotAllowed,
            RequestRefusal::Stopping => Self::Stopping,
            RequestRefusal::TlsExpected => Self::PlainHttpOnTls,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_of_a_method_names_those_that_are_possible() {
        let refusal = Refusal::from(RequestRefusal::MethodNotAllowed);
        assert_eq!(refusal.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(refusal.headers, [("Allow", "GET, HEAD")]);
        assert_eq!(refusal.text, "only GET and HEAD are possible here");
    }
}
