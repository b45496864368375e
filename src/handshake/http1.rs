//! The opening handshake over HTTP/1.1: an upgrade, a key, and the 101 that proves its receipt.
//!
//! fastwebsockets judges the upgrade and computes the accept key. The form of the key is checked
//! here, and the 101 is written here, since HTTP encoders add headers that a 101 must not have.

use base64::{Engine, prelude::BASE64_STANDARD};
use fastwebsockets::upgrade::{is_upgrade_request, upgrade};
use http::{
    HeaderMap, Method, Request, Version,
    header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY},
};

use super::{
    negotiation::{Negotiated, Policy, check_request, negotiate, single_value},
    refusal::HandshakeRefusal,
};

/// An accepted handshake.
#[derive(Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// The 101, ready to be sent.
    pub response_head: Vec<u8>,
    /// What client and server now agree on.
    pub negotiated: Negotiated,
}

/// Accepts or refuses a request to an echo path.
///
/// If there are several reasons to refuse, the refusal names the first in this order: no upgrade,
/// the versions, the key, the negotiation. The key comes behind the versions, because clients of
/// other versions may have keys of other forms.
pub fn answer(request: &mut Request<()>, policy: &Policy) -> Result<Acceptance, HandshakeRefusal> {
    check_upgrade(request)?;
    check_request(request.headers())?;
    check_key(request.headers())?;
    let negotiated = negotiate(request.headers(), policy)?;
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //# When a client establishes a WebSocket connection to a server, the server MUST complete the
    //# following steps to accept the connection and send the server's opening handshake.
    let (response, _) = upgrade(request).map_err(|_| HandshakeRefusal::NotAnUpgrade)?;
    let accept = response.headers()[SEC_WEBSOCKET_ACCEPT].as_bytes();
    Ok(Acceptance { response_head: encode_response_head(accept, &negotiated), negotiated })
}

fn check_upgrade(request: &Request<()>) -> Result<(), HandshakeRefusal> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.1
    //# If the server, while reading the handshake, finds that the client did not send a handshake
    //# that matches the description below (note that as per [RFC2616], the order of the header
    //# fields is not important), including but not limited to any violations of the ABNF grammar
    //# specified for the components of the handshake, the server MUST stop processing the client's
    //# handshake and return an HTTP response with an appropriate error code (such as 400 Bad
    //# Request).
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.1
    //# An HTTP/1.1 or higher GET request, including a "Request-URI"
    if !is_upgrade_request(request) || request.method() != Method::GET {
        return Err(HandshakeRefusal::NotAnUpgrade);
    }
    if request.version() < Version::HTTP_11 {
        return Err(HandshakeRefusal::HttpVersionTooLow);
    }
    Ok(())
}

fn check_key(headers: &HeaderMap) -> Result<(), HandshakeRefusal> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.1
    //# A |Sec-WebSocket-Key| header field with a base64-encoded (see
    //# Section 4 of [RFC4648]) value that, when decoded, is 16 bytes in
    //# length.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-11.3.1
    //# The |Sec-WebSocket-Key| header field MUST NOT appear more than once in an HTTP request.
    let key = single_value(headers, &SEC_WEBSOCKET_KEY).ok_or(HandshakeRefusal::KeyInvalid)?;
    // As long as 24 letters may be when they are decoded; a longer key does not fit, and is refused.
    let mut bytes = [0; 18];
    if BASE64_STANDARD.decode_slice(key, &mut bytes) != Ok(16) {
        return Err(HandshakeRefusal::KeyInvalid);
    }
    Ok(())
}

fn encode_response_head(accept: &[u8], negotiated: &Negotiated) -> Vec<u8> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //# If the server chooses to accept the incoming connection, it MUST reply with a valid HTTP
    //# response indicating the following.
    let mut head = Vec::with_capacity(256);
    head.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\n\
        Upgrade: websocket\r\n\
        Connection: Upgrade\r\n\
        Sec-WebSocket-Accept: ",
    );
    //= https://www.rfc-editor.org/rfc/rfc6455#section-11.3.3
    //# The |Sec-WebSocket-Accept| header MUST NOT appear more than once in an HTTP response.
    head.extend_from_slice(accept);
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //# if the server does not wish to agree to one of the suggested subprotocols, it MUST NOT send
    //# back a |Sec-WebSocket-Protocol| header field in its response
    //= https://www.rfc-editor.org/rfc/rfc6455#section-11.3.4
    //# However, the |Sec-WebSocket-Protocol| header field MUST NOT appear more than once in an HTTP
    //# response.
    if let Some(subprotocol) = &negotiated.subprotocol {
        head.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        head.extend_from_slice(subprotocol.as_bytes());
    }
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //# Extensions not listed by the client MUST NOT be listed.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-11.3.2
    //# However, the |Sec-WebSocket-Extensions| header field MUST NOT appear more than once in an
    //# HTTP response.
    if let Some(agreement) = negotiated.deflate {
        head.extend_from_slice(format!("\r\nSec-WebSocket-Extensions: {agreement}").as_bytes());
    }
    head.extend_from_slice(b"\r\n\r\n");
    head
}
