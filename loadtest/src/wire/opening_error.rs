//! Why a connection could not be opened: the cause, and the command or flag that mends it where there
//! is one.

use std::{io, time::Duration};

use ringecho::tls::{TlsError, TlsFault};
use thiserror::Error;

use super::handshake::HandshakeError;

/// What can go wrong between a socket and the end of the opening handshake.
#[derive(Debug, Error)]
pub(crate) enum OpeningError {
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
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<TlsError>());
    match cause.map(TlsError::fault) {
        Some(TlsFault::CertificateRefused) => {
            format!("{error}; name whom to trust with --ca FILE, or use --insecure")
        }
        _ => error.to_string(),
    }
}
