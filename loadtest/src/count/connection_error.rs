//! Why a connection could not be opened, or ended before its time.

use std::{borrow::Cow, io, time::Duration};

use thiserror::Error;

use super::errors::ErrorKind;
use crate::{
    verify::received::Violation,
    wire::{http2::error::StreamError, opening_error::OpeningError},
};

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
            Self::Opening(error) => kind_of_opening(error),
            Self::Violation(_) => ErrorKind::Protocol,
            Self::EchoMissing(_) | Self::CloseMissing(_) | Self::EndMissing(_) => {
                ErrorKind::Missing
            }
            Self::Broken(error) if matches!(of_stream(error), Some(StreamError::Violation(_))) => {
                ErrorKind::Protocol
            }
            Self::ClosedWith(_) | Self::EndOfStream | Self::Broken(_) => ErrorKind::Closed,
        }
    }

    /// A name for scripts, of those errors that have one.
    pub(crate) fn code(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Opening(error) => error.code(),
            Self::Broken(error) => of_stream(error).map(|error| error.code().into()),
            _ => None,
        }
    }
}

fn kind_of_opening(error: &OpeningError) -> ErrorKind {
    match error {
        OpeningError::Connect(_) | OpeningError::ProxyHeader(_) | OpeningError::Tls(_) => {
            ErrorKind::Connect
        }
        OpeningError::Proxy { .. } => ErrorKind::Proxy,
        OpeningError::Http2(error) if error.is_of_transport() => ErrorKind::Connect,
        OpeningError::Handshake(_) | OpeningError::HandshakeCutOff | OpeningError::Http2(_) => {
            ErrorKind::Handshake
        }
        OpeningError::ConnectTimeout(_)
        | OpeningError::OpeningTimeout(_)
        | OpeningError::ProxyTimeout { .. } => ErrorKind::Timeout,
        OpeningError::Transport(error) => kind_of_opening(error),
    }
}

/// What HTTP/2 says of an error of a stream, if it is one of a stream of HTTP/2.
fn of_stream(error: &io::Error) -> Option<&StreamError> {
    error.get_ref()?.downcast_ref()
}
