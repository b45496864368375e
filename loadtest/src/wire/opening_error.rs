//! Why a connection could not be opened: the cause, and the command or flag that mends it where there
//! is one.

use std::{borrow::Cow, io, rc::Rc, time::Duration};

use ringecho::tls::{TlsError, TlsFault};
use rustls::{AlertDescription, CertificateError};
use thiserror::Error;

use super::{
    handshake::HandshakeError, http2::error::Http2Error, proxy::ProxyError, stream::explain_connect,
};

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
    #[error("{0}")]
    Http2(#[from] Http2Error),
    /// What kept the transport of several streams from opening.
    #[error("{0}")]
    Transport(Rc<OpeningError>),
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
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "the server ended the connection during the handshake".to_owned();
    }
    let Some(cause) = tls_error(error) else { return error.to_string() };
    match cause.fault() {
        TlsFault::CertificateRefused if is_of_another_name(cause) => {
            format!("{error}; name the one that it is for with --sni NAME, or use --insecure")
        }
        TlsFault::CertificateRefused => {
            format!("{error}; name whom to trust with --ca FILE, or use --insecure")
        }
        TlsFault::RefusedByPeer(
            AlertDescription::CertificateRequired | AlertDescription::AccessDenied,
        ) => format!("{error}; the server wants --client-cert FILE and --client-key FILE"),
        TlsFault::RefusedByPeer(AlertDescription::ProtocolVersion) => {
            format!("{error}; the server speaks no version that --tls allows")
        }
        TlsFault::RefusedByPeer(AlertDescription::NoApplicationProtocol) => {
            format!("{error}; the server speaks nothing that --alpn offers")
        }
        _ => error.to_string(),
    }
}

/// What TLS says of an error of a stream, if it is one of TLS.
pub(crate) fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

fn is_of_another_name(error: &TlsError) -> bool {
    matches!(
        error.cause(),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        ))
    )
}

/// The name of an error of TLS, for scripts.
fn code_of_tls(error: &io::Error) -> Option<Cow<'static, str>> {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Some("tls_cut_off".into());
    }
    let error = tls_error(error)?;
    let code = match (error.fault(), error.cause()) {
        (_, Some(rustls::Error::InvalidCertificate(cause))) => match cause {
            CertificateError::UnknownIssuer => "tls_certificate_unknown_authority",
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "tls_certificate_name_mismatch"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "tls_certificate_expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "tls_certificate_not_valid_yet"
            }
            _ => "tls_certificate_refused",
        },
        (TlsFault::RefusedByPeer(alert), _) => match alert {
            AlertDescription::CertificateRequired => "tls_client_certificate_needed",
            AlertDescription::NoApplicationProtocol => "tls_no_common_application_protocol",
            AlertDescription::ProtocolVersion => "tls_no_common_version",
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => "tls_client_certificate_refused",
            other => return Some(format!("tls_alert_{}", in_snake_case(other)).into()),
        },
        (TlsFault::NothingInCommon, _) => "tls_no_common_version",
        (TlsFault::NoProtocolInCommon, _) => "tls_no_common_application_protocol",
        _ => "tls_failed",
    };
    Some(code.into())
}

/// An alert's name as RFC 8446 §6 writes it, such as `handshake_failure`.
fn in_snake_case(alert: AlertDescription) -> String {
    let name = alert.as_str().unwrap_or("unknown");
    let mut text = String::new();
    for (at, letter) in name.char_indices() {
        let follows_small = name[..at].ends_with(|before: char| before.is_ascii_lowercase());
        if letter.is_ascii_uppercase() && follows_small {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

impl OpeningError {
    /// A name for scripts, of those errors that have one.
    pub(crate) fn code(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Tls(error) => code_of_tls(error),
            Self::Http2(error) => Some(error.code().into()),
            Self::Transport(error) => error.code(),
            Self::Handshake(
                HandshakeError::Refused(refusal) | HandshakeError::StreamRefused(refusal),
            ) => Some(format!("refused_{}", refusal.status).into()),
            _ => None,
        }
    }
}
