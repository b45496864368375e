//! The opening handshake as a whole, over HTTP/1.1.

use http::{Method, Request, Version};

use super::{http1::answer, negotiation::Policy, refusal::HandshakeRefusal};
use crate::protocol::echo::Compression;

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
    assert!(head.ends_with("\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"), "{head}");
    assert_eq!(acceptance.negotiated.compression(), Compression::PermessageDeflate);

    let acceptance = answer(&mut offering, &Policy::default()).unwrap();
    assert!(!String::from_utf8(acceptance.response_head).unwrap().contains("Extensions"));
    assert_eq!(acceptance.negotiated.compression(), Compression::None);
    let acceptance = answer(&mut request(), &policy).unwrap();
    assert_eq!(acceptance.negotiated.compression(), Compression::None);
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
