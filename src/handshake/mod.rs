//! The opening handshake (RFC 6455 §4.2): a request head in, a 101 or a refusal out. Pure.
//!
//! fastwebsockets judges the upgrade and computes the accept key; what it leaves open (origins,
//! subprotocols, the form of the key) is decided here, and the 101 is written by hand, since
//! HTTP encoders give it headers that it must not have.

pub mod extensions;
pub mod origin;
pub mod permessage_deflate;

use base64::{Engine, prelude::BASE64_STANDARD};
use fastwebsockets::upgrade::{is_upgrade_request, upgrade};
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Version,
    header::{
        CONTENT_LENGTH, HeaderName, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
        SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING,
    },
};
use thiserror::Error;

use crate::{
    handshake::{
        extensions::{Malformed, Offer, parse_offers},
        origin::Origin,
    },
    http::{Refusal, is_token},
    protocol::echo::Compression,
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

/// An accepted handshake.
#[derive(Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// The 101, ready to be sent.
    pub response_head: Vec<u8>,
    /// What both sides now agree on.
    pub negotiated: Negotiated,
}

/// What a handshake agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// The subprotocol, if the client offered one that the server has (RFC 6455 §1.9).
    pub subprotocol: Option<String>,
    /// Whether messages may be compressed (RFC 7692).
    pub compression: Compression,
}

/// Why a request to the echo path is not upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeRefusal {
    /// The request does not ask for an upgrade to the WebSocket protocol.
    #[error(
        "this path is for WebSocket clients: send Upgrade: websocket and Connection: Upgrade with \
         a GET; a proxy in between has to pass both on, over HTTP/1.1"
    )]
    NotAnUpgrade,
    /// The request is one of HTTP/1.0, which has no upgrades.
    #[error(
        "a WebSocket handshake needs HTTP/1.1, and this is HTTP/1.0; a proxy in between has to \
         speak HTTP/1.1 to this server"
    )]
    HttpVersionTooLow,
    /// The request announces a body, which would be taken for frames.
    #[error("a WebSocket handshake has no body")]
    BodyAnnounced,
    /// `Sec-WebSocket-Version` is missing or not 13.
    #[error("Sec-WebSocket-Version must be 13")]
    VersionUnsupported,
    /// `Sec-WebSocket-Key` is missing, repeated, or not 16 bytes of base64.
    #[error("Sec-WebSocket-Key must be there once, with 16 bytes in base64")]
    KeyInvalid,
    /// `Sec-WebSocket-Protocol` does not have the form of a list of subprotocols.
    #[error("Sec-WebSocket-Protocol is not a list of subprotocols")]
    SubprotocolsMalformed,
    /// `Sec-WebSocket-Extensions` does not have the form of a list of extensions.
    #[error("Sec-WebSocket-Extensions is not a list of extensions")]
    ExtensionsMalformed,
    /// The origin is not among the allowed ones.
    #[error("this origin is not allowed")]
    OriginForbidden,
}

impl From<HandshakeRefusal> for Refusal {
    fn from(reason: HandshakeRefusal) -> Self {
        use HandshakeRefusal::{
            BodyAnnounced, ExtensionsMalformed, HttpVersionTooLow, KeyInvalid, NotAnUpgrade,
            OriginForbidden, SubprotocolsMalformed, VersionUnsupported,
        };
        let (status, headers): (_, &[_]) = match reason {
            NotAnUpgrade
            | HttpVersionTooLow
            | BodyAnnounced
            | KeyInvalid
            | SubprotocolsMalformed
            | ExtensionsMalformed => (StatusCode::BAD_REQUEST, &[]),
            //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
            //# If this version does not match a version understood by the server, the server MUST
            //# abort the WebSocket handshake described in this section and instead send an
            //# appropriate HTTP error code (such as 426 Upgrade Required) and a
            //# |Sec-WebSocket-Version| header field indicating the version(s) the server is capable
            //# of understanding.
            VersionUnsupported => (
                StatusCode::UPGRADE_REQUIRED,
                &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
            ),
            OriginForbidden => (StatusCode::FORBIDDEN, &[]),
        };
        Self { status, headers, text: reason.to_string() }
    }
}

/// Accepts or refuses a request to an echo path.
pub fn answer(request: &mut Request<()>, policy: &Policy) -> Result<Acceptance, HandshakeRefusal> {
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
    let headers = request.headers();
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
    if only(headers, &SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(HandshakeRefusal::VersionUnsupported);
    }
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.1
    //# A |Sec-WebSocket-Key| header field with a base64-encoded (see
    //# Section 4 of [RFC4648]) value that, when decoded, is 16 bytes in
    //# length.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-11.3.1
    //# The |Sec-WebSocket-Key| header field MUST NOT appear more than once in an HTTP request.
    let key = only(headers, &SEC_WEBSOCKET_KEY).ok_or(HandshakeRefusal::KeyInvalid)?;
    if !BASE64_STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16) {
        return Err(HandshakeRefusal::KeyInvalid);
    }
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
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //# When a client establishes a WebSocket connection to a server, the server MUST complete the
    //# following steps to accept the connection and send the server's opening handshake.
    let (response, _) = upgrade(request).map_err(|_| HandshakeRefusal::NotAnUpgrade)?;
    let accept = response.headers()[SEC_WEBSOCKET_ACCEPT].as_bytes();
    let compression = match deflate {
        Some(_) => Compression::PermessageDeflate,
        None => Compression::None,
    };
    Ok(Acceptance {
        response_head: encode_response_head(accept, subprotocol.as_deref(), deflate),
        negotiated: Negotiated { subprotocol, compression },
    })
}

/// The value of a header that must be there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
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

/// A client without an Origin is not a browser, and the check protects browsers' users (§10.2).
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

/// What the client offers. The header may be repeated, which makes one list (RFC 6455 §11.3.2).
fn offered_extensions(headers: &HeaderMap) -> Result<Vec<Offer<'_>>, Malformed> {
    let mut offers = Vec::new();
    for header in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
        offers.extend(parse_offers(header.to_str().map_err(|_| Malformed)?)?);
    }
    Ok(offers)
}

fn encode_response_head(
    accept: &[u8],
    subprotocol: Option<&str>,
    deflate: Option<permessage_deflate::Agreement>,
) -> Vec<u8> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //# If the server chooses to accept the incoming connection, it MUST reply with a valid HTTP
    //# response indicating the following.
    let mut head = b"HTTP/1.1 101 Switching Protocols\r\n\
        Upgrade: websocket\r\n\
        Connection: Upgrade\r\n\
        Sec-WebSocket-Accept: "
        .to_vec();
    //= https://www.rfc-editor.org/rfc/rfc6455#section-11.3.3
    //# The |Sec-WebSocket-Accept| header MUST NOT appear more than once in an HTTP response.
    head.extend_from_slice(accept);
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //# if the server does not wish to agree to one of the suggested subprotocols, it MUST NOT send
    //# back a |Sec-WebSocket-Protocol| header field in its response
    //= https://www.rfc-editor.org/rfc/rfc6455#section-11.3.4
    //# However, the |Sec-WebSocket-Protocol| header field MUST NOT appear more than once in an HTTP
    //# response.
    if let Some(subprotocol) = subprotocol {
        head.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        head.extend_from_slice(subprotocol.as_bytes());
    }
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //# Extensions not listed by the client MUST NOT be listed.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-11.3.2
    //# However, the |Sec-WebSocket-Extensions| header field MUST NOT appear more than once in an
    //# HTTP response.
    if let Some(agreement) = deflate {
        head.extend_from_slice(format!("\r\nSec-WebSocket-Extensions: {agreement}").as_bytes());
    }
    head.extend_from_slice(b"\r\n\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client's handshake of RFC 6455 §1.2.
    fn request() -> Request<()> {
        Request::get("/chat")
            .header("Host", "server.example.com")
            .header("Upgrade", "websocket")
            .header("Connection", "Upgrade")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("Origin", "http://example.com")
            .header("Sec-WebSocket-Protocol", "chat, superchat")
            .header("Sec-WebSocket-Version", "13")
            .body(())
            .unwrap()
    }

    fn policy(allowed_origins: &[&str], subprotocols: &[&str]) -> Policy {
        Policy {
            allowed_origins: allowed_origins.iter().map(|origin| origin.parse().unwrap()).collect(),
            subprotocols: subprotocols.iter().map(ToString::to_string).collect(),
            passes_compression: false,
        }
    }

    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //= type=test
    //# When a client establishes a WebSocket connection to a server, the server MUST complete the
    //# following steps to accept the connection and send the server's opening handshake.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //= type=test
    //# If the server chooses to accept the incoming connection, it MUST reply with a valid HTTP
    //# response indicating the following.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-11.3.3
    //= type=test
    //# The |Sec-WebSocket-Accept| header MUST NOT appear more than once in an HTTP response.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-11.3.4
    //= type=test
    //# However, the |Sec-WebSocket-Protocol| header field MUST NOT appear more than once in an HTTP
    //# response.
    #[test]
    fn example_of_the_rfc_is_answered_as_in_the_rfc() {
        let acceptance = answer(&mut request(), &policy(&[], &["chat"])).unwrap();
        assert_eq!(
            String::from_utf8(acceptance.response_head).unwrap(),
            "HTTP/1.1 101 Switching Protocols\r\n\
             Upgrade: websocket\r\n\
             Connection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
             Sec-WebSocket-Protocol: chat\r\n\r\n"
        );
        assert_eq!(acceptance.negotiated.subprotocol.as_deref(), Some("chat"));
    }

    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //= type=test
    //# The value chosen MUST be derived from the client's handshake, specifically by selecting one
    //# of the values from the |Sec-WebSocket-Protocol| field that the server is willing to use for
    //# this connection (if any).
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //= type=test
    //# if the server does not wish to agree to one of the suggested subprotocols, it MUST NOT send
    //# back a |Sec-WebSocket-Protocol| header field in its response
    #[test]
    fn subprotocol_is_the_servers_preference_among_the_offered() {
        for (subprotocols, expected) in [
            (&["superchat", "chat"][..], Some("superchat")),
            (&["other", "chat"], Some("chat")),
            (&["Chat"], None),
            (&[], None),
        ] {
            let acceptance = answer(&mut request(), &policy(&[], subprotocols)).unwrap();
            assert_eq!(acceptance.negotiated.subprotocol.as_deref(), expected, "{subprotocols:?}");
            let head = String::from_utf8(acceptance.response_head).unwrap();
            assert_eq!(head.contains("Sec-WebSocket-Protocol"), expected.is_some(), "{head}");
        }
    }

    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //= type=test
    //# Extensions not listed by the client MUST NOT be listed.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-5.8
    //= type=test
    //# The endpoints of a connection MUST negotiate the use of any extensions during the opening
    //# handshake.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-11.3.2
    //= type=test
    //# However, the |Sec-WebSocket-Extensions| header field MUST NOT appear more than once in an
    //# HTTP response.
    #[test]
    fn permessage_deflate_is_agreed_on_if_the_policy_passes_it() {
        let policy = Policy { passes_compression: true, ..Policy::default() };
        let offers = [
            "permessage-deflate; server_max_window_bits=10",
            "x-other, permessage-deflate; client_max_window_bits",
        ];
        let mut offering = request();
        for offer in offers {
            offering.headers_mut().append("Sec-WebSocket-Extensions", offer.parse().unwrap());
        }
        let acceptance = answer(&mut offering, &policy).unwrap();
        let head = String::from_utf8(acceptance.response_head).unwrap();
        assert!(
            head.ends_with("\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
            "{head}"
        );
        assert_eq!(acceptance.negotiated.compression, Compression::PermessageDeflate);

        let acceptance = answer(&mut offering, &Policy::default()).unwrap();
        assert!(!String::from_utf8(acceptance.response_head).unwrap().contains("Extensions"));
        assert_eq!(acceptance.negotiated.compression, Compression::None);
        let acceptance = answer(&mut request(), &policy).unwrap();
        assert_eq!(acceptance.negotiated.compression, Compression::None);
    }

    #[test]
    fn origin_is_checked_when_it_is_sent_and_a_list_is_set() {
        let allowed = policy(&["http://example.com"], &[]);
        let other = policy(&["http://example.com:8080", "https://example.com"], &[]);
        assert!(answer(&mut request(), &allowed).is_ok());
        assert_eq!(answer(&mut request(), &other), Err(HandshakeRefusal::OriginForbidden));

        let mut without = request();
        without.headers_mut().remove("Origin");
        assert!(answer(&mut without, &other).is_ok());

        let written_otherwise = policy(&["HTTP://Example.com:80"], &[]);
        assert!(answer(&mut request(), &written_otherwise).is_ok());
        for (origin, is_allowed) in [
            ("http://EXAMPLE.com:80", true),
            ("http://example.com/", false),
            ("http://example.com http://evil.example", false),
            ("null", false),
            ("", false),
        ] {
            let mut other = request();
            other.headers_mut().insert("Origin", origin.parse().unwrap());
            assert_eq!(answer(&mut other, &allowed).is_ok(), is_allowed, "{origin}");
        }

        let mut two = request();
        two.headers_mut().append("Origin", "http://evil.example".parse().unwrap());
        assert_eq!(answer(&mut two, &allowed), Err(HandshakeRefusal::OriginForbidden));
    }

    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.1
    //= type=test
    //# If the server, while reading the handshake, finds that the client did not send a handshake
    //# that matches the description below (note that as per [RFC2616], the order of the header
    //# fields is not important), including but not limited to any violations of the ABNF grammar
    //# specified for the components of the handshake, the server MUST stop processing the client's
    //# handshake and return an HTTP response with an appropriate error code (such as 400 Bad
    //# Request).
    #[test]
    fn each_missing_or_wrong_header_has_its_refusal() {
        use HandshakeRefusal::{
            BodyAnnounced, ExtensionsMalformed, KeyInvalid, NotAnUpgrade, SubprotocolsMalformed,
            VersionUnsupported,
        };
        for (name, value, refusal) in [
            ("Upgrade", None, NotAnUpgrade),
            ("Upgrade", Some("h2c"), NotAnUpgrade),
            ("Connection", None, NotAnUpgrade),
            ("Connection", Some("keep-alive"), NotAnUpgrade),
            ("Content-Length", Some("5"), BodyAnnounced),
            ("Transfer-Encoding", Some("chunked"), BodyAnnounced),
            ("Sec-WebSocket-Protocol", Some("a b"), SubprotocolsMalformed),
            ("Sec-WebSocket-Protocol", Some("a, \"b\""), SubprotocolsMalformed),
            ("Sec-WebSocket-Extensions", Some("foo;"), ExtensionsMalformed),
            ("Sec-WebSocket-Version", None, VersionUnsupported),
            ("Sec-WebSocket-Version", Some("8"), VersionUnsupported),
            ("Sec-WebSocket-Key", None, KeyInvalid),
            ("Sec-WebSocket-Key", Some("short"), KeyInvalid),
            ("Sec-WebSocket-Key", Some("c2hvcnQ="), KeyInvalid),
            ("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZQ"), KeyInvalid),
            ("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZXM="), KeyInvalid),
        ] {
            let mut request = request();
            request.headers_mut().remove(name);
            if let Some(value) = value {
                request.headers_mut().insert(name, value.parse().unwrap());
            }
            let answer = answer(&mut request, &Policy::default());
            assert_eq!(answer, Err(refusal), "{name}: {value:?}");
        }
    }

    #[test]
    fn only_a_get_of_http_1_1_is_upgraded() {
        let mut head = request();
        *head.method_mut() = Method::HEAD;
        assert_eq!(answer(&mut head, &Policy::default()), Err(HandshakeRefusal::NotAnUpgrade));
        let mut old = request();
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(answer(&mut old, &Policy::default()), Err(HandshakeRefusal::HttpVersionTooLow));
    }

    //= https://www.rfc-editor.org/rfc/rfc6455#section-11.3.1
    //= type=test
    //# The |Sec-WebSocket-Key| header field MUST NOT appear more than once in an HTTP request.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-11.3.5
    //= type=test
    //# The |Sec-WebSocket-Version| header field MUST NOT appear more than once in an HTTP request.
    #[test]
    fn repeated_key_or_version_is_refused() {
        for (name, value, refusal) in [
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", HandshakeRefusal::KeyInvalid),
            ("Sec-WebSocket-Version", "13", HandshakeRefusal::VersionUnsupported),
        ] {
            let mut request = request();
            request.headers_mut().append(name, value.parse().unwrap());
            assert_eq!(answer(&mut request, &Policy::default()), Err(refusal));
        }
    }

    #[test]
    fn lists_in_upgrade_and_connection_are_understood() {
        let mut request = request();
        request.headers_mut().insert("Connection", "keep-alive, upgrade".parse().unwrap());
        request.headers_mut().insert("Upgrade", "foo, WebSocket".parse().unwrap());
        assert!(answer(&mut request, &Policy::default()).is_ok());
    }
}
