//! What can go wrong with TLS: the kind, which is counted, and rustls' own words for people.

use rustls::{AlertDescription, Error, InvalidMessage};
use thiserror::Error as ThisError;

/// Who is at fault, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// The peer's bytes are no TLS, or no message of it.
    Malformed,
    /// The peer broke the protocol's rules.
    Misbehaved,
    /// A record was longer than a record may be.
    RecordTooLong,
    /// The handshake was longer than [`HANDSHAKE_LEN_MAX`](super::HANDSHAKE_LEN_MAX).
    HandshakeTooLong,
    /// A record was not encrypted with the session's keys.
    NotDecrypted,
    /// Both sides have no version, cipher suite or group in common.
    NothingInCommon,
    /// Both sides have no application protocol (ALPN) in common.
    NoProtocolInCommon,
    /// The peer showed no certificate although one is required.
    CertificateMissing,
    /// The peer's certificate is not accepted.
    CertificateRefused,
    /// The peer ended the session with this alert.
    RefusedByPeer(AlertDescription),
    /// The stream ended before the handshake was over.
    CutOff,
    /// The peer has changed its keys, and the kernel that opens its records cannot.
    KeysChanged,
    /// The session has been closed, or has failed before.
    Closed,
    /// The fault is not the peer's: rustls, its settings, or random numbers.
    Internal,
}

impl TlsFault {
    /// The name that it is counted under.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Misbehaved => "misbehaved",
            Self::RecordTooLong => "record_too_long",
            Self::HandshakeTooLong => "handshake_too_long",
            Self::NotDecrypted => "not_decrypted",
            Self::NothingInCommon => "nothing_in_common",
            Self::NoProtocolInCommon => "no_protocol_in_common",
            Self::CertificateMissing => "certificate_missing",
            Self::CertificateRefused => "certificate_refused",
            Self::RefusedByPeer(_) => "refused_by_peer",
            Self::CutOff => "cut_off",
            Self::KeysChanged => "keys_changed",
            Self::Closed => "closed",
            Self::Internal => "internal",
        }
    }
}

/// Why a session cannot go on.
#[derive(Clone, Debug, PartialEq, ThisError)]
#[error("{}", explain(*fault, cause.as_ref()))]
pub struct TlsError {
    fault: TlsFault,
    cause: Option<Error>,
}

impl TlsError {
    /// Whose fault it is, and of what kind.
    pub fn fault(&self) -> TlsFault {
        self.fault
    }

    /// What rustls says, if it found the fault.
    pub fn cause(&self) -> Option<&Error> {
        self.cause.as_ref()
    }
}

impl From<TlsFault> for TlsError {
    fn from(fault: TlsFault) -> Self {
        Self { fault, cause: None }
    }
}

impl From<Error> for TlsError {
    fn from(cause: Error) -> Self {
        let fault = match &cause {
            Error::InvalidMessage(InvalidMessage::MessageTooLarge)
            | Error::PeerSentOversizedRecord => TlsFault::RecordTooLong,
            Error::InvalidMessage(_) | Error::UnsupportedNameType => TlsFault::Malformed,
            Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::PeerMisbehaved(_) => TlsFault::Misbehaved,
            Error::DecryptError => TlsFault::NotDecrypted,
            Error::PeerIncompatible(_) => TlsFault::NothingInCommon,
            // Over TLS 1.2 rustls has no kind for a client that cannot verify the server's key.
            Error::General(text) if text == "incompatible signing key" => TlsFault::NothingInCommon,
            Error::NoApplicationProtocol => TlsFault::NoProtocolInCommon,
            Error::NoCertificatesPresented => TlsFault::CertificateMissing,
            Error::InvalidCertificate(_) => TlsFault::CertificateRefused,
            Error::AlertReceived(alert) => TlsFault::RefusedByPeer(*alert),
            _ => TlsFault::Internal,
        };
        Self { fault, cause: Some(cause) }
    }
}

fn explain(fault: TlsFault, cause: Option<&Error>) -> String {
    if let Some(cause) = cause {
        return cause.to_string();
    }
    match fault {
        TlsFault::RecordTooLong => {
            format!("a message is longer than {} bytes", super::RECORD_LEN_MAX)
        }
        TlsFault::HandshakeTooLong => {
            format!("the handshake is longer than {} bytes", super::HANDSHAKE_LEN_MAX)
        }
        TlsFault::CutOff => "the connection ended during the handshake".to_owned(),
        TlsFault::Closed => "the session has been closed".to_owned(),
        other => other.name().replace('_', " "),
    }
}
