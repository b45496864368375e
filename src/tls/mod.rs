//! TLS 1.2 and 1.3 by rustls: a session without I/O, for both sides, and its adaptor to the streams
//! of tasks. The server and the load generator use both.
//!
//! Certificates, tickets and what the operator sets are the server's and the generator's own.

mod error;
pub mod ktls;
mod provider;
mod scratch;
mod session;
mod stream;

pub use self::{
    error::{TlsError, TlsFault},
    provider::{default_provider, fingerprint, new_ticketer},
    session::{
        HANDSHAKE_LEN_MAX, Opened, RECORD_LEN_MAX, RECORD_PAYLOAD_MAX, Sealed, TlsSession,
        note_server_name,
    },
    stream::{HandshakeError, TlsReader, TlsStream, TlsWriter},
};

#[cfg(test)]
mod tests;
