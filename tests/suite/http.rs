//! Requests over a real connection: the page, the refusals, and what is no request at all.

use ringecho::config::Config;

use crate::{
    frames::text,
    peer::{UPGRADE, config, with_server},
};

#[test]
fn page_is_served_at_the_root() {
    with_server(&Config { path: "/echo".to_owned(), ..config() }, |server| {
        let mut peer = server.connect();
        peer.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let response = peer.read_to_end();
        let (head, page) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"));
        assert!(head.contains(&format!("Content-Length: {}\r\n", page.len())));
        assert!(page.contains("data-path=\"/echo\""));
        assert!(page.trim_end().ends_with("</html>"));
    });
}

//= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
//= type=test
//# If the server does not wish to accept this connection, it MUST return an appropriate HTTP error
//# code (e.g., 403 Forbidden) and abort the WebSocket handshake described in this section.
//= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
//= type=test
//# If this version does not match a version understood by the server, the server MUST abort the
//# WebSocket handshake described in this section and instead send an appropriate HTTP error code
//# (such as 426 Upgrade Required) and a |Sec-WebSocket-Version| header field indicating the
//# version(s) the server is capable of understanding.
//= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
//= type=test
//# If the requested service is not available, the server MUST send an appropriate HTTP error code
//# (such as 404 Not Found) and abort the WebSocket handshake.
//= https://www.rfc-editor.org/rfc/rfc6455#section-4.4
//= type=test
//# If the server doesn't support the requested version, it MUST respond with a
//# |Sec-WebSocket-Version| header field (or multiple |Sec-WebSocket-Version| header fields)
//# containing all versions it is willing to use.
//= https://www.rfc-editor.org/rfc/rfc6455#section-7.2.2
//= type=test
//# Certain algorithms require or recommend that the server _Abort the WebSocket Connection_ during
//# the opening handshake. To do so, the server MUST simply _Close the WebSocket Connection_
//# (Section 7.1.1).
#[test]
fn requests_are_refused_with_status_and_reason() {
    let config =
        Config { allowed_origins: vec!["https://good.example".parse().unwrap()], ..config() };
    with_server(&config, |server| {
        let long_head = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(8 << 10));
        let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "X: x\r\n".repeat(97));
        for (request, status, reason) in [
            ("GET /ws HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request", "WebSocket clients"),
            (&UPGRADE.replace(": 13", ": 12"), "426 Upgrade Required", "must be 13"),
            (
                &UPGRADE.replace("\r\n\r\n", "\r\nOrigin: https://bad.example\r\n\r\n"),
                "403 Forbidden",
                "origin",
            ),
            (&UPGRADE.replace("dGhl", "dG"), "400 Bad Request", "Sec-WebSocket-Key"),
            (&UPGRADE.replace("GET", "POST"), "405 Method Not Allowed", "only GET"),
            (&UPGRADE.replace("HTTP/1.1", "HTTP/1.0"), "505 HTTP Version Not Supported", "1.1"),
            (&UPGRADE.replace("/ws", "/other"), "404 Not Found", "nothing here"),
            ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request", "Host"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 Bad Request", "Host"),
            ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "405 Method Not Allowed", "only GET"),
            ("\u{16}\u{3}\u{1}\u{2}\r\n\r\n", "400 Bad Request", "not an HTTP/1.1 request"),
            (&long_head, "431 Request Header Fields Too Large", "8 KiB"),
            (&many_headers, "431 Request Header Fields Too Large", "96 headers"),
        ] {
            let mut peer = server.connect();
            peer.send(request);
            let response = peer.read_to_end();
            let (head, body) = response.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request:?}: {head}");
            assert!(body.contains(reason) && body.lines().count() == 1, "{request:?}: {body}");
            assert_eq!(head.contains("Sec-WebSocket-Version: 13"), status.starts_with("426"));
            assert_eq!(head.contains("Allow: GET"), status.starts_with("405"));
        }
    });
}

#[test]
fn allowed_origin_and_subprotocol_are_granted() {
    let config = Config {
        allowed_origins: vec!["https://Good.example:443".parse().unwrap()],
        subprotocols: vec!["echo.2".to_owned(), "echo.1".to_owned()],
        ..config()
    };
    with_server(&config, |server| {
        let mut peer = server.connect();
        peer.send(UPGRADE.replace(
            "\r\n\r\n",
            "\r\nOrigin: https://good.example\r\nSec-WebSocket-Protocol: echo.1, echo.2\r\n\r\n",
        ));
        let head = peer.read_head();
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
        assert!(head.contains("Sec-WebSocket-Protocol: echo.2\r\n"));
        assert!(head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(!head.to_lowercase().contains("content-length"));
    });
}

#[test]
fn request_head_may_come_byte_by_byte() {
    with_server(&config(), |server| {
        let mut peer = server.connect();
        for byte in UPGRADE.as_bytes() {
            peer.send([*byte]);
        }
        assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
        peer.send(text("patience").encode());
        peer.expect(b"\x81\x08patience");
    });
}

#[test]
fn peers_that_leave_or_talk_nonsense_disturb_nobody() {
    with_server(&config(), |server| {
        let mut witness = server.open();
        for nonsense in [&b""[..], b"G", b"\0\0\0\0", b"GET / HT", &[0xff; 9000]] {
            let mut peer = server.connect();
            peer.send(nonsense);
            drop(peer);
        }
        witness.send(text("still here").encode());
        witness.expect(b"\x81\x0astill here");
    });
}
