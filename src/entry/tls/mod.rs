//! TLS at the door: certificates and tickets of a server, and who a client is by its certificate.
//! Sessions and streams are `crate::tls`; the handshake of a connection is its worker's.

mod certificates;
mod subject;

pub use self::{
    certificates::{CertificateError, Certificates},
    subject::name_of,
};
/// Whether HTTP/2 is offered to clients (ALPN), since there is somebody who speaks it.
pub const OFFERS_HTTP2: bool = true;
