//! Why a connection could not be opened, or ended before its time.

use std::{io, time::Duration};

use thiserror::Error;

use super::errors::ErrorKind;
use crate::{verify::received::Violation, wire::opening_error::OpeningError};

/// What can go wrong with one connection.
#[derive(Debug, Error)]
pub(crate) enum ConnectionError {
    #[error("{0}")]
    Opening(#[from] OpeningError),
    #[error("{0}")]
    Violation(Violation),
    #[error("the server sent a Close frame with {}", describe_code(*.0))]
    ClosedWith(Option<u16>),
    #[error("the server ended the connection without a Close frame")]
    EndOfStream,
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    #[error("no echo came within {0:?}")]
    EchoMissing(Duration),
    #[error("no Close frame came within {0:?} of ours")]
    CloseMissing(Duration),
    #[error("the server did not end TCP within {0:?} of its Close frame")]
    EndMissing(Duration),
}

fn describe_code(code: Option<u16>) -> String {
    code.map_or_else(|| "no code".to_owned(), |code| format!("code {code}"))
}

impl ConnectionError {
    /// The kind that it is counted by.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Opening(
                OpeningError::Connect(_) | OpeningError::ProxyHeader(_) | OpeningError::Tls(_),
            ) => ErrorKind::Connect,
            Self::Opening(OpeningError::Proxy { .. }) => ErrorKind::Proxy,
            Self::Opening(OpeningError::Handshake(_) | OpeningError::HandshakeCutOff) => {
                ErrorKind::Handshake
            }
            Self::Opening(
                OpeningError::ConnectTimeout(_)
                | OpeningError::OpeningTimeout(_)
                | OpeningError::ProxyTimeout { .. },
            ) => ErrorKind::Timeout,
            Self::Violation(_) => ErrorKind::Protocol,
            Self::EchoMissing(_) | Self::CloseMissing(_) | Self::EndMissing(_) => {
                ErrorKind::Missing
            }
            Self::ClosedWith(_) | Self::EndOfStream | Self::Broken(_) => ErrorKind::Closed,
        }
    }
}
