//! Refusals of requests, each as one value that any HTTP can write.
//!
//! Each layer that refuses has a small enum of its reasons, which one exhaustive match turns into a
//! [`Refusal`]; the reasons of HTTP are [`RequestRefusal`]. The writer in
//! [`response`](super::response) knows no reasons.

use http::StatusCode;
use thiserror::Error;

use super::{echo_paths::EchoPaths, foreign::ForeignProtocol, route::Methods};
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
    /// The request line alone is longer than that.
    #[error("the request line is longer than 8 KiB")]
    TargetTooLong,
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
    #[error("a request begins with its request line, and empty lines came")]
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
    /// The method is known, but not possible here; these are.
    #[error("only {} are possible here", .0.for_people())]
    MethodNotAllowed(Methods),
    /// The method is not known at all.
    #[error("this method is not known here")]
    MethodUnknown,
    /// The client expects something else than a 100.
    #[error("nothing but 100-continue can be expected of this server")]
    ExpectationUnknown,
    /// It cannot be told for certain where the request ends.
    #[error(
        "the length of a body is told in one way: by Content-Length, once, as a number, or over \
         HTTP/1.1 by Transfer-Encoding: chunked"
    )]
    LengthUnclear,
    /// The request should have a body, and nothing tells its length.
    #[error("a request with a body needs Content-Length over HTTP/1.0")]
    LengthMissing,
    /// The body is coded in a way that is not known.
    #[error("the only transfer coding that is known here is chunked")]
    TransferCodingUnknown,
    /// The chunks of the body have a wrong form.
    #[error("the body is not made of chunks as its head says")]
    BodyMalformed,
    /// The body is longer than this.
    #[error("the body is longer than {0} bytes")]
    BodyTooLong(u64),
    /// The body did not arrive in time.
    #[error("the body took too long")]
    BodyTimedOut,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// A plain request came where TLS is spoken.
    #[error("this port speaks TLS: use https:// or wss://")]
    TlsExpected,
}

impl RequestRefusal {
    /// Whether it is certain where the refused request ends, so that another may follow. An opening
    /// handshake that is refused ends its connection (RFC 6455 §7.2.2).
    pub fn keeps_framing(&self) -> bool {
        matches!(self, Self::PathUnknown(_) | Self::MethodNotAllowed(_) | Self::MethodUnknown)
    }
}

impl From<RequestRefusal> for Refusal {
    fn from(reason: RequestRefusal) -> Self {
        use RequestRefusal::{
            BodyMalformed, BodyTimedOut, BodyTooLong, ExpectationUnknown, Foreign, HeadTooLong,
            HeaderFieldsTooMany, HostInvalid, LengthMissing, LengthUnclear, LineEndBare,
            LinesEmpty, Malformed, MethodNotAllowed, MethodUnknown, NoEcho, PathUnknown, Stopping,
            TargetTooLong, TimedOut, TlsExpected, TransferCodingUnknown, VersionUnsupported,
        };
        let (status, headers): (_, &[_]) = match reason {
            HeadTooLong | HeaderFieldsTooMany(_) => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &[])
            }
            TargetTooLong => (StatusCode::URI_TOO_LONG, &[]),
            Malformed | Foreign(_) | LinesEmpty | LineEndBare | HostInvalid | LengthUnclear
            | BodyMalformed | TlsExpected => (StatusCode::BAD_REQUEST, &[]),
            TimedOut | BodyTimedOut => (StatusCode::REQUEST_TIMEOUT, &[]),
            VersionUnsupported => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, &[]),
            PathUnknown(_) | NoEcho(_) => (StatusCode::NOT_FOUND, &[]),
            MethodNotAllowed(methods) => (StatusCode::METHOD_NOT_ALLOWED, methods.fields()),
            MethodUnknown | TransferCodingUnknown => (StatusCode::NOT_IMPLEMENTED, &[]),
            ExpectationUnknown => (StatusCode::EXPECTATION_FAILED, &[]),
            LengthMissing => (StatusCode::LENGTH_REQUIRED, &[]),
            BodyTooLong(_) => (StatusCode::PAYLOAD_TOO_LARGE, &[]),
            Stopping => (StatusCode::SERVICE_UNAVAILABLE, &[]),
        };
        Self { status, headers, text: reason.to_string() }
    }
}

impl From<&RequestRefusal> for RefusalReason {
    fn from(reason: &RequestRefusal) -> Self {
        match reason {
            RequestRefusal::HeadTooLong => Self::HeadTooLong,
            RequestRefusal::TargetTooLong => Self::TargetTooLong,
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
            RequestRefusal::MethodNotAllowed(_) => Self::MethodNotAllowed,
            RequestRefusal::MethodUnknown => Self::MethodUnknown,
            RequestRefusal::ExpectationUnknown => Self::ExpectationUnknown,
            RequestRefusal::LengthUnclear => Self::LengthUnclear,
            RequestRefusal::LengthMissing => Self::LengthMissing,
            RequestRefusal::TransferCodingUnknown => Self::TransferCodingUnknown,
            RequestRefusal::BodyMalformed => Self::BodyMalformed,
            RequestRefusal::BodyTooLong(_) => Self::BodyTooLong,
            RequestRefusal::BodyTimedOut => Self::BodyTimedOut,
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
        for (methods, allow, text) in [
            (Methods::Get, "GET, HEAD", "only GET and HEAD are possible here"),
            (Methods::Page, "GET, HEAD, OPTIONS", "only GET, HEAD and OPTIONS are possible here"),
        ] {
            let refusal = Refusal::from(RequestRefusal::MethodNotAllowed(methods));
            assert_eq!(refusal.status, StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(refusal.headers, [("Allow", allow)]);
            assert_eq!(refusal.text, text);
        }
    }
}
