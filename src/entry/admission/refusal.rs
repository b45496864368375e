//! Why connections are not admitted, and the response for each reason.

use std::sync::LazyLock;

use http::StatusCode;
use strum::VariantArray;
use thiserror::Error;

use crate::{
    http::{Refusal, encode_refusal},
    metrics::RefusalReason,
};

/// Why a connection is refused before its request is read. Bounds of all are answered with 503, those
/// of an address with 429 (RFC 6585 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, VariantArray)]
pub enum AdmissionRefusal {
    /// As many connections are open as may be.
    #[error("this server has as many connections as it takes; come back later")]
    ConnectionsMax,
    /// As many opening handshakes are in progress as may be.
    #[error("too many clients are connecting at once; come back in a second")]
    HandshakesMax,
    /// As many connections of the address are open as may be.
    #[error("your address has as many connections as this server takes; close one first")]
    ConnectionsPerIpMax,
    /// The address opens connections faster than it may.
    #[error("your address connects too often; come back in a second")]
    ConnectRatePerIp,
}

impl AdmissionRefusal {
    /// The response, as it goes out over HTTP/1.1.
    pub fn response(self) -> &'static [u8] {
        static RESPONSES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
            let refusals = AdmissionRefusal::VARIANTS.iter().copied();
            refusals.map(|refusal| encode_refusal(&refusal.into())).collect()
        });
        &RESPONSES[self as usize]
    }
}

/// Seconds after which a client may try again: handshakes are over and buckets are full after one; how
/// long connections stay nobody knows.
const SOON: &[(&str, &str)] = &[("Retry-After", "1")];
const LATER: &[(&str, &str)] = &[("Retry-After", "10")];

impl From<AdmissionRefusal> for Refusal {
    fn from(reason: AdmissionRefusal) -> Self {
        let (status, headers) = match reason {
            AdmissionRefusal::ConnectionsMax => (StatusCode::SERVICE_UNAVAILABLE, LATER),
            AdmissionRefusal::HandshakesMax => (StatusCode::SERVICE_UNAVAILABLE, SOON),
            AdmissionRefusal::ConnectionsPerIpMax => (StatusCode::TOO_MANY_REQUESTS, LATER),
            AdmissionRefusal::ConnectRatePerIp => (StatusCode::TOO_MANY_REQUESTS, SOON),
        };
        Self { status, headers, text: reason.to_string() }
    }
}

impl From<&AdmissionRefusal> for RefusalReason {
    fn from(reason: &AdmissionRefusal) -> Self {
        Self::from(*reason)
    }
}

impl From<AdmissionRefusal> for RefusalReason {
    fn from(reason: AdmissionRefusal) -> Self {
        match reason {
            AdmissionRefusal::ConnectionsMax => Self::ConnectionsMax,
            AdmissionRefusal::HandshakesMax => Self::HandshakesMax,
            AdmissionRefusal::ConnectionsPerIpMax => Self::ConnectionsPerIpMax,
            AdmissionRefusal::ConnectRatePerIp => Self::ConnectRatePerIp,
        }
    }
}
