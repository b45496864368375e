//! The opening handshake over HTTP/2 (RFC 8441): an extended CONNECT with `:protocol websocket`, and
//! the 200 that accepts it. There is no key and no `Upgrade`: the stream itself is what a client gets.

use h2::ext::Protocol;
use http::{
    HeaderValue, Method, Request, Response,
    header::{SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL},
};

use super::{
    negotiation::{Negotiated, Policy, check_request, negotiate},
    refusal::HandshakeRefusal,
};

/// An accepted handshake.
#[derive(Debug)]
pub struct Acceptance {
    /// The 200, which ends nothing: the stream goes on.
    pub response: Response<()>,
    /// What client and server now agree on.
    pub negotiated: Negotiated,
}

/// Whether a request is an extended CONNECT, for whatever protocol.
pub fn is_extended_connect<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_some()
}

/// Accepts or refuses an extended CONNECT to an echo path.
pub fn answer<B>(request: &Request<B>, policy: &Policy) -> Result<Acceptance, HandshakeRefusal> {
    //= https://www.rfc-editor.org/rfc/rfc8441#section-5
    //# implementations using this extended CONNECT to bootstrap WebSockets do not do the processing
    //# of the Sec-WebSocket-Key and Sec-WebSocket-Accept header fields
    let protocol = request.extensions().get::<Protocol>().map(Protocol::as_str);
    if request.method() != Method::CONNECT || protocol != Some("websocket") {
        return Err(HandshakeRefusal::ProtocolUnknown);
    }
    check_request(request.headers())?;
    let negotiated = negotiate(request.headers(), policy)?;
    let mut response = Response::new(());
    let headers = response.headers_mut();
    // Both are made of tokens that were checked.
    if let Some(subprotocol) = &negotiated.subprotocol
        && let Ok(value) = HeaderValue::from_str(subprotocol)
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    if let Some(agreement) = negotiated.deflate
        && let Ok(value) = HeaderValue::from_str(&agreement.to_string())
    {
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, value);
    }
    Ok(Acceptance { response, negotiated })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, protocol: Option<&'static str>) -> Request<()> {
        let request = Request::builder().method(method).uri("https://server.example.com/chat");
        let request = match protocol {
            Some(protocol) => request.extension(Protocol::from_static(protocol)),
            None => request,
        };
        request.body(()).unwrap()
    }

    /// The example of RFC 8441 (§5.1).
    #[test]
    fn extended_connect_is_answered_with_200_and_what_was_agreed_on() {
        let mut request = request(Method::CONNECT, Some("websocket"));
        for (name, value) in [
            ("sec-websocket-protocol", "chat, superchat"),
            ("sec-websocket-extensions", "permessage-deflate"),
            ("sec-websocket-version", "13"),
            ("origin", "http://www.example.com"),
        ] {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let policy = Policy {
            allowed_origins: vec!["http://www.example.com".parse().unwrap()],
            subprotocols: vec!["chat".to_owned()],
            passes_compression: true,
        };
        let Acceptance { response, negotiated } = answer(&request, &policy).unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        let deflate = negotiated.deflate.unwrap().to_string();
        assert_eq!(response.headers()["sec-websocket-extensions"], *deflate);
        assert_eq!(response.headers().len(), 2);
        request.headers_mut().insert("origin", HeaderValue::from_static("http://other.example"));
        assert_eq!(answer(&request, &policy).unwrap_err(), HandshakeRefusal::OriginForbidden);
        request.headers_mut().insert("sec-websocket-version", HeaderValue::from_static("8"));
        assert_eq!(answer(&request, &policy).unwrap_err(), HandshakeRefusal::VersionUnsupported);
    }

    #[test]
    fn nothing_but_an_extended_connect_for_websocket_is_accepted() {
        for (method, protocol) in [
            (Method::CONNECT, None),
            (Method::CONNECT, Some("connect-udp")),
            (Method::CONNECT, Some("WebSocket2")),
            (Method::GET, Some("websocket")),
        ] {
            let request = request(method, protocol);
            let refusal = answer(&request, &Policy::default()).unwrap_err();
            assert_eq!(refusal, HandshakeRefusal::ProtocolUnknown);
        }
    }
}
