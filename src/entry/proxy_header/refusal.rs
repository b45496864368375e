//! Why connections are refused for their PROXY header, and the response for each reason.

use http::StatusCode;
use thiserror::Error;

use super::HeaderFault;
use crate::{http::Refusal, metrics::RefusalReason};

/// Why a connection is refused for its PROXY header, or for having none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProxyHeaderRefusal {
    /// Something else came instead of a header.
    #[error(
        "this port takes connections with a PROXY protocol header before anything else, and this one \
         has none: connect to the proxy, or have it send one"
    )]
    Missing,
    /// The header is not as it has to be.
    #[error("the PROXY protocol header is malformed: it needs {0}")]
    Malformed(&'static str),
    /// The header is longer than it may be.
    #[error(
        "the PROXY protocol header is too long: it may have 107 bytes in version 1, 4096 in version 2"
    )]
    TooLong,
    /// The header's checksum is not the one of its bytes.
    #[error("the PROXY protocol header has been changed on its way: its checksum is wrong")]
    ChecksumWrong,
    /// The header did not arrive in time.
    #[error("the PROXY protocol header took too long")]
    TimedOut,
    /// The peer is no proxy that is believed.
    #[error("this port believes PROXY protocol headers of some addresses only, and not of yours")]
    Untrusted,
}

impl From<HeaderFault> for ProxyHeaderRefusal {
    fn from(fault: HeaderFault) -> Self {
        match fault {
            HeaderFault::Malformed(expected) => Self::Malformed(expected),
            HeaderFault::TooLong => Self::TooLong,
            HeaderFault::ChecksumWrong => Self::ChecksumWrong,
        }
    }
}

impl From<ProxyHeaderRefusal> for Refusal {
    fn from(reason: ProxyHeaderRefusal) -> Self {
        let status = match reason {
            ProxyHeaderRefusal::Missing
            | ProxyHeaderRefusal::Malformed(_)
            | ProxyHeaderRefusal::TooLong
            | ProxyHeaderRefusal::ChecksumWrong => StatusCode::BAD_REQUEST,
            ProxyHeaderRefusal::TimedOut => StatusCode::REQUEST_TIMEOUT,
            ProxyHeaderRefusal::Untrusted => StatusCode::FORBIDDEN,
        };
        Self { status, headers: &[], text: reason.to_string() }
    }
}

impl From<&ProxyHeaderRefusal> for RefusalReason {
    fn from(reason: &ProxyHeaderRefusal) -> Self {
        match reason {
            ProxyHeaderRefusal::Missing => Self::ProxyHeaderMissing,
            ProxyHeaderRefusal::Malformed(_) => Self::ProxyHeaderMalformed,
            ProxyHeaderRefusal::TooLong => Self::ProxyHeaderTooLong,
            ProxyHeaderRefusal::ChecksumWrong => Self::ProxyHeaderChecksumWrong,
            ProxyHeaderRefusal::TimedOut => Self::ProxyHeaderTimedOut,
            ProxyHeaderRefusal::Untrusted => Self::ProxyHeaderUntrusted,
        }
    }
}
