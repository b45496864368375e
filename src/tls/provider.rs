//! The cryptography: which implementation rustls uses, in the server and the generator alike.

use std::{fmt::Write, sync::Arc};

use rustls::{
    CipherSuite, Error, SupportedCipherSuite,
    crypto::{CryptoProvider, ring},
    server::ProducesTickets,
};

/// The implementation of all cryptography.
pub fn default_provider() -> CryptoProvider {
    ring::default_provider()
}

/// What encrypts a server's tickets, with keys that live 12 hours and change every 6.
pub fn new_ticketer() -> Result<Arc<dyn ProducesTickets>, Error> {
    ring::Ticketer::new()
}

/// The SHA-256 of a certificate as other programs write it: `AB:CD:…`.
pub fn fingerprint(certificate: &[u8]) -> String {
    let suites = default_provider().cipher_suites;
    let suite = suites.iter().find(|it| it.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    let Some(suite) = suite.and_then(SupportedCipherSuite::tls13) else { return String::new() };
    let mut text = String::new();
    for byte in suite.common.hash_provider.hash(certificate).as_ref() {
        let colon = if text.is_empty() { "" } else { ":" };
        let _ = write!(text, "{colon}{byte:02X}");
    }
    text
}
