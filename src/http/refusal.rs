//! Why requests are refused.

use http::StatusCode;
use thiserror::Error;

use super::{echo_paths::EchoPaths, foreign::Foreign};

/// Why a request is refused, whatever path it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestRefusal {
    /// The head is longer than [`REQUEST_HEAD_LEN_MAX`], or has too many headers.
    #[error("the request head is longer than 8 KiB, or has more than 96 headers")]
    HeadTooLong,
    /// The head is not HTTP/1.
    #[error("this is not an HTTP/1.1 request")]
    Malformed,
    /// It is another protocol.
    #[error(transparent)]
    Foreign(Foreign),
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
    /// There is nothing at this path; upgrades are at these.
    #[error("there is nothing here: the page is at /, and upgrades are at {0}")]
    PathUnknown(EchoPaths),
    /// No echo is at this path, and the request is for one; upgrades are at these.
    #[error("there is no echo here: upgrades are at {0}")]
    NoEcho(EchoPaths),
    /// Another method than the path has.
    #[error("only GET and HEAD are possible here")]
    MethodNotAllowed,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

impl RequestRefusal {
    /// The status that answers the request.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::HeadTooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Malformed
            | Self::Foreign(_)
            | Self::LinesEmpty
            | Self::LineEndBare
            | Self::HostInvalid => StatusCode::BAD_REQUEST,
            Self::TimedOut => StatusCode::REQUEST_TIMEOUT,
            Self::VersionUnsupported => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::PathUnknown(_) | Self::NoEcho(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}
