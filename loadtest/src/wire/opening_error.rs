//! Why a connection could not be opened: the cause, and the command or flag that mends it where there
//! is one.

use std::{io, time::Duration};

use ringecho::tls::{TlsError, TlsFault};
use thiserror::Error;

use super::{handshake::HandshakeError, proxy::ProxyError, stream::explain_connect};

/// What can go wrong between a socket and the end of the opening handshake.
#[derive(Debug, Error)]
pub(crate) enum OpeningError {
    #[error("{}", explain_connect(.0))]
    Connect(io::Error),
    #[error("the proxy {url}: {cause}")]
    Proxy {
        /// The proxy's URL.
        url: String,
        cause: ProxyError,
    },
    #[error("the proxy {url} had given no connection after {limit:?}")]
    ProxyTimeout { url: String, limit: Duration },
    #[error("the PROXY protocol header could not be sent: {0}")]
    ProxyHeader(io::Error),
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
}

/// The cause, and the flags that mend it where there are some.
fn explain_tls(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<TlsError>());
    match cause.map(TlsError::fault) {
        Some(TlsFault::CertificateRefused) => {
            format!("{error}; name whom to trust with --ca FILE, or use --insecure")
        }
        _ => error.to_string(),
    }
}
