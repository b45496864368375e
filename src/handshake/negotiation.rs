//! What an opening handshake agrees on, whichever HTTP carried it: only header fields that mean the
//! same in each are read.
//!
//! Two things are left to the file of each HTTP: the proof that a request is a handshake at all,
//! and the response to it.

use http::{
    HeaderMap, HeaderValue,
    header::{
        CONTENT_LENGTH, HeaderName, ORIGIN, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING,
    },
};

use super::{origin::Origin, permessage_deflate, refusal::HandshakeRefusal};
use crate::protocol::{
    echo::Compression,
    extensions::{Malformed, Offer, parse_offers},
    token::is_token,
};

/// Who may connect, and what may be agreed on.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Origins that may connect; empty allows all.
    pub allowed_origins: Vec<Origin>,
    /// Subprotocols that may be agreed on, best first.
    pub subprotocols: Vec<String>,
    /// Whether permessage-deflate is agreed on where compressed messages can be echoed as they are.
    pub passes_compression: bool,
}

/// What a handshake agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// The subprotocol, if the client offered one that the server has (RFC 6455 §1.9).
    pub subprotocol: Option<String>,
    /// The agreement under which messages may be compressed, if there is one (RFC 7692).
    pub deflate: Option<permessage_deflate::Agreement>,
}

impl Negotiated {
    /// Whether messages may be compressed.
    pub fn compression(&self) -> Compression {
        match self.deflate {
            Some(_) => Compression::PermessageDeflate,
            None => Compression::None,
        }
    }
}

/// Refuses a request that cannot be a handshake of this version of the protocol.
pub fn check_request(headers: &HeaderMap) -> Result<(), HandshakeRefusal> {
    if announces_body(headers) {
        return Err(HandshakeRefusal::BodyAnnounced);
    }
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.4
    //# If the server doesn't support the requested version, it MUST respond
    //# with a |Sec-WebSocket-Version| header field (or multiple
    //# |Sec-WebSocket-Version| header fields) containing all versions it is
    //# willing to use.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-11.3.5
    //# The |Sec-WebSocket-Version| header field MUST NOT appear more than once in an HTTP request.
    if single_value(headers, &SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(HandshakeRefusal::VersionUnsupported);
    }
    Ok(())
}

/// Finds what client and server agree on, in a request that [`check_request`] has passed.
pub fn negotiate(headers: &HeaderMap, policy: &Policy) -> Result<Negotiated, HandshakeRefusal> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //# If the server does not wish to accept this connection, it MUST return an appropriate HTTP
    //# error code (e.g., 403 Forbidden) and abort the WebSocket handshake described in this
    //# section.
    if !origin_is_allowed(headers, &policy.allowed_origins) {
        return Err(HandshakeRefusal::OriginForbidden);
    }
    //= https://www.rfc-editor.org/rfc/rfc6455#section-9.1
    //# If a value is received by either the
    //# client or the server during negotiation that does not conform to the
    //# ABNF below, the recipient of such malformed data MUST immediately
    //# _Fail the WebSocket Connection_.
    let offers =
        offered_extensions(headers).map_err(|Malformed| HandshakeRefusal::ExtensionsMalformed)?;
    //= https://www.rfc-editor.org/rfc/rfc6455#section-5.8
    //# The endpoints of a connection MUST negotiate the use of any extensions during the opening
    //# handshake.
    let deflate =
        if policy.passes_compression { permessage_deflate::negotiate(&offers) } else { None };
    let subprotocol = select_subprotocol(headers, &policy.subprotocols)?;
    Ok(Negotiated { subprotocol, deflate })
}

/// The value of a header field that must be there exactly once; `None` if it is missing, repeated,
/// or no text.
pub(super) fn single_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok()
}

fn announces_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
        || headers.get_all(CONTENT_LENGTH).iter().any(|length| length != "0")
}

/// Whether the client's origin may connect. A client without an Origin is no browser and may
/// connect, since the check protects browsers' users (§10.2).
fn origin_is_allowed(headers: &HeaderMap, allowed_origins: &[Origin]) -> bool {
    let is_allowed = |origin: &HeaderValue| {
        let origin = origin.to_str().ok().and_then(|origin| origin.parse().ok());
        origin.is_some_and(|origin: Origin| allowed_origins.contains(&origin))
    };
    allowed_origins.is_empty() || headers.get_all(ORIGIN).iter().all(is_allowed)
}

/// The first of the server's subprotocols that the client offers. Elements of the client's list may
/// be empty (RFC 9110 §5.6.1.2).
fn select_subprotocol(
    headers: &HeaderMap,
    subprotocols: &[String],
) -> Result<Option<String>, HandshakeRefusal> {
    let mut offered = Vec::new();
    for header in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        let list = header.to_str().map_err(|_| HandshakeRefusal::SubprotocolsMalformed)?;
        let elements = list.split(',').map(|element| element.trim_matches([' ', '\t']));
        offered.extend(elements.filter(|element| !element.is_empty()));
    }
    if !offered.iter().all(|subprotocol| is_token(subprotocol)) {
        return Err(HandshakeRefusal::SubprotocolsMalformed);
    }
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //# The value chosen MUST be derived from the client's handshake, specifically by selecting one
    //# of the values from the |Sec-WebSocket-Protocol| field that the server is willing to use for
    //# this connection (if any).
    Ok(subprotocols.iter().find(|subprotocol| offered.contains(&subprotocol.as_str())).cloned())
}

/// The extensions that the client offers. Repeated header fields make one list (RFC 6455 §11.3.2).
fn offered_extensions(headers: &HeaderMap) -> Result<Vec<Offer<'_>>, Malformed> {
    let mut offers = Vec::new();
    for header in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
        offers.extend(parse_offers(header.to_str().map_err(|_| Malformed)?)?);
    }
    Ok(offers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header fields of RFC 8441 §5.1 that mean something to WebSocket.
    #[test]
    fn agreement_needs_nothing_of_http_1_1() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (SEC_WEBSOCKET_PROTOCOL, "chat, superchat"),
            (SEC_WEBSOCKET_EXTENSIONS, "permessage-deflate"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (ORIGIN, "http://www.example.com"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let policy = Policy {
            allowed_origins: vec!["http://www.example.com".parse().unwrap()],
            subprotocols: vec!["superchat".to_owned()],
            passes_compression: true,
        };
        assert_eq!(check_request(&headers), Ok(()));
        let negotiated = negotiate(&headers, &policy).unwrap();
        assert_eq!(negotiated.subprotocol.as_deref(), Some("superchat"));
        assert_eq!(negotiated.compression(), Compression::PermessageDeflate);
    }
}
