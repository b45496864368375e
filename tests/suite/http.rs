//! Requests over a real connection: the page, the refusals, and what is no request at all.

use ringecho::config::{Config, Handshake};

use crate::{
    frames::text,
    peer::{UPGRADE, config, with_server},
};

fn config_with_paths(paths: &[&str]) -> Config {
    let paths = paths.iter().map(|path| path.parse().unwrap()).collect();
    Config { handshake: Handshake { paths, ..Handshake::default() }, ..config() }
}

#[test]
fn page_is_served_at_the_root() {
    with_server(&config_with_paths(&["/echo"]), |server| {
        let mut peer = server.connect();
        peer.send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let response = peer.read_to_end();
        let (head, page) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"));
        assert!(head.contains(&format!("Content-Length: {}\r\n", page.len())));
        assert!(page.contains("data-path=\"/echo\""));
        assert!(page.trim_end().ends_with("</html>"));
        for request in ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nHost: a\r\n\r\n"] {
            let mut peer = server.connect();
            peer.send(request);
            assert_eq!(peer.read_to_end(), response);
        }
    });
}

/// As load balancers ask: with HEAD, with HTTP/1.0, and whatever paths upgrade.
#[test]
fn health_check_is_told_that_all_is_well() {
    for paths in [&["/ws"][..], &["*"]] {
        with_server(&config_with_paths(paths), |server| {
            for (request, body) in [
                ("GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "ok\n"),
                ("HEAD /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", ""),
                ("GET /healthz HTTP/1.0\r\n\r\n", "ok\n"),
                ("HEAD /healthz HTTP/1.0\r\n\r\n", ""),
            ] {
                let mut peer = server.connect();
                peer.send(request);
                let response = peer.read_to_end();
                assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{request}: {response}");
                assert!(response.contains("\r\nContent-Length: 3\r\n"), "{request}: {response}");
                assert!(response.ends_with(&format!("\r\n\r\n{body}")), "{request}: {response}");
            }
        });
    }
}

#[test]
fn head_is_answered_as_get_without_a_body() {
    with_server(&config(), |server| {
        let answer = |request: &str| {
            let mut peer = server.connect();
            peer.send(request);
            peer.read_to_end()
        };
        for (request_line, fields, status) in [
            ("/ HTTP/1.1", "Host: a\r\n", "200 OK"),
            ("/ HTTP/1.0", "", "200 OK"),
            ("/ws HTTP/1.1", "Host: a\r\n", "400 Bad Request"),
            ("/other HTTP/1.1", "Host: a\r\n", "404 Not Found"),
            ("/ HTTP/1.1", "", "400 Bad Request"),
            ("/ HTTP/1.1", "no colon\r\n", "400 Bad Request"),
            ("/ HTTP/2.0", "", "505 HTTP Version Not Supported"),
        ] {
            let to_get =
                answer(&format!("GET {request_line}\r\n{fields}Connection: close\r\n\r\n"));
            let head_end = to_get.find("\r\n\r\n").unwrap() + 4;
            assert!(to_get.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{to_get}");
            assert!(to_get.len() > head_end);
            let to_head =
                answer(&format!("HEAD {request_line}\r\n{fields}Connection: close\r\n\r\n"));
            assert_eq!(to_head, to_get[..head_end]);
        }
    });
}

#[test]
fn upgrades_are_at_each_of_the_paths_and_refusals_name_them() {
    with_server(&config_with_paths(&["/ws", "/%7euser"]), |server| {
        for path in ["/ws", "/~user", "/%7Euser"] {
            let mut peer = server.connect();
            peer.send(UPGRADE.replace("/ws", path));
            assert!(peer.read_head().starts_with("HTTP/1.1 101 "), "{path}");
        }
        let elsewhere = UPGRADE.replace("/ws", "/other");
        for (request, reason) in [
            (&*UPGRADE.replace("/ws", "/"), "there is no echo here: upgrades are at /ws or /~user"),
            (&elsewhere, "there is no echo here: upgrades are at /ws or /~user"),
            (
                "GET /other HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                "there is nothing here: the page is at /, and upgrades are at /ws or /~user",
            ),
        ] {
            let mut peer = server.connect();
            peer.send(request);
            let response = peer.read_to_end();
            assert!(response.starts_with("HTTP/1.1 404 Not Found\r\n"), "{request}: {response}");
            assert!(response.ends_with(&format!("\r\n\r\n{reason}\n")), "{request}: {response}");
        }
    });
}

#[test]
fn every_path_upgrades_if_wanted_and_the_page_stays_at_the_root() {
    with_server(&config_with_paths(&["*"]), |server| {
        for path in ["/", "/ws", "/a//b/?query"] {
            let mut peer = server.connect();
            peer.send(UPGRADE.replace("/ws", path));
            assert!(peer.read_head().starts_with("HTTP/1.1 101 "), "{path}");
            peer.send(text("here").encode());
            peer.expect(b"\x81\x04here");
        }
        for (path, status, body) in [
            ("/", "200 OK", "data-path=\"/\""),
            ("/ws", "404 Not Found", "the page is at /, and upgrades are at any path"),
        ] {
            let mut peer = server.connect();
            peer.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
            let response = peer.read_to_end();
            assert!(response.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{path}");
            assert!(response.contains(body), "{path}");
        }
    });
}

/// None of these peers sends more until it is answered, or ends its side.
#[test]
fn other_protocols_are_answered_at_once_with_what_to_do() {
    let client_hello = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03";
    with_server(&config(), |server| {
        for (beginning, status, reason) in [
            (&client_hello[..], "400 Bad Request", "use ws:// or http://, or put a TLS proxy"),
            // Not the preface of HTTP/2, which is spoken here.
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r.", "505 ", "only HTTP/1.1 is spoken here"),
            (
                b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n",
                "400 ",
                "with --proxy-protocol and --proxy-from",
            ),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", "400 ", "with --proxy-protocol and --proxy-from"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "400 ", "an SSH banner came"),
            (b"\x05\x01\0", "400 ", "this is no proxy"),
            (b"\x81\x82\0\0\0\0hi", "400 ", "before the opening handshake"),
            (b"\0\0\0\x11", "400 ", "not an HTTP/1.1 request"),
            (b"EHLO example.org\r\n", "400 ", "not an HTTP/1.1 request"),
            (b"GET /\r\n", "400 ", "not an HTTP/1.1 request"),
            (b"GET / HTTP/1.1\nHost: a\n\n", "400 ", "ends with CR and LF"),
            (b"GET / HTTP/1.1\r\nHost: a\n\n", "400 ", "ends with CR and LF"),
            (b"GET / HTTP/1.1\rHost: a\r\r", "400 ", "ends with CR and LF"),
        ] {
            let mut whole = server.connect();
            whole.send(beginning);
            let response = whole.read_to_end();
            let shown = beginning.escape_ascii();
            assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{shown}: {response}");
            assert!(response.contains("\r\nContent-Type: text/plain; charset=utf-8\r\n"));
            assert!(response.contains(reason), "{shown}: {response}");
            let mut slow = server.connect();
            for byte in beginning {
                slow.send([*byte]);
            }
            assert_eq!(slow.read_to_end(), response, "{shown}");
        }
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
    let allowed_origins = vec!["https://good.example".parse().unwrap()];
    let handshake = Handshake { allowed_origins, ..Handshake::default() };
    let config = Config { handshake, ..config() };
    with_server(&config, |server| {
        let long_head = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(8 << 10));
        let long_target = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(8 << 10));
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
            (&UPGRADE.replace("GET", "POST"), "405 Method Not Allowed", "only GET, HEAD"),
            (&UPGRADE.replace("GET", "BREW"), "501 Not Implemented", "not known"),
            (&UPGRADE.replace("HTTP/1.1", "HTTP/1.0"), "400 Bad Request", "needs HTTP/1.1"),
            (&UPGRADE.replace("HTTP/1.1", "HTTP/2.0"), "505 HTTP Version Not Supported", "1.1"),
            (&UPGRADE.replace("/ws", "/other"), "404 Not Found", "upgrades are at /ws"),
            ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request", "Host"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 Bad Request", "Host"),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                "405 Method Not Allowed",
                "only GET, HEAD and OPTIONS",
            ),
            (&long_target, "414 URI Too Long", "8 KiB"),
            (&long_head, "431 Request Header Fields Too Large", "8 KiB"),
            (&many_headers, "431 Request Header Fields Too Large", "more than 96 header fields"),
        ] {
            let mut peer = server.connect();
            peer.send(request);
            let response = peer.read_to_end();
            let (head, body) = response.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request:?}: {head}");
            assert!(body.contains(reason) && body.lines().count() == 1, "{request:?}: {body}");
            assert_eq!(head.contains("Sec-WebSocket-Version: 13"), status.starts_with("426"));
            assert_eq!(head.contains("\r\nAllow: GET, HEAD, OPTIONS"), status.starts_with("405"));
        }
    });
}

#[test]
fn allowed_origin_and_subprotocol_are_granted() {
    let handshake = Handshake {
        allowed_origins: vec!["https://Good.example:443".parse().unwrap()],
        subprotocols: vec!["echo.2".parse().unwrap(), "echo.1".parse().unwrap()],
        ..Handshake::default()
    };
    let config = Config { handshake, ..config() };
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
