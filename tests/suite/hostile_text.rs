//! What a peer says and somebody else reads: nothing of it gets into a response or between the lines
//! of the log, and no other page can make use of the server's own.

use std::{io::Read, net::SocketAddr, thread};

use nix::sys::signal::Signal;
use ringecho::config::{Config, Handshake};

use crate::{
    fuzzed,
    hostile::WAYS,
    peer::{Peer, UPGRADE, config, with_server},
    program::{address, ringecho, signal, start},
};

/// The mark of what no response may repeat.
const MARK: &str = "injected";

/// Requests that would put a header field or a line of their own where their text is repeated.
fn injections() -> Vec<Vec<u8>> {
    let in_path = |path: &str| UPGRADE.replace("/ws", path).into_bytes();
    let with_field =
        |field: &str| UPGRADE.replace("\r\n\r\n", &format!("\r\n{field}\r\n\r\n")).into_bytes();
    let mut injections = vec![
        in_path("/%0d%0ainjected:%20a"),
        in_path("/\u{b}injected"),
        in_path("/\rinjected: a"),
        in_path("/\ninjected: a"),
        in_path("/<script>injected</script>"),
        in_path("/\u{9b}31minjected"),
        in_path("http://a/injected"),
        UPGRADE.replace("GET", "INJECTED").into_bytes(),
        UPGRADE.replace("GET", "<injected>").into_bytes(),
        UPGRADE.replace("HTTP/1.1", "injected").into_bytes(),
        UPGRADE.replace("localhost", "injected").into_bytes(),
        UPGRADE.replace("localhost", "a\"><injected>").into_bytes(),
        UPGRADE.replace("dGhl", "injected").into_bytes(),
        UPGRADE.replace(": 13", ": 13injected").into_bytes(),
        b"\x1b]0;injected\x07".to_vec(),
        b"\x1b[31minjected\r\n\r\n".to_vec(),
    ];
    for name in ["Origin", "User-Agent", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "X"]
    {
        for value in [
            "https://injected.example",
            "injected",
            "echo, injected",
            "echo; injected",
            "echo%0d%0ainjected: a",
            "echo\rinjected: a",
            "echo\ninjected: a",
            "echo\r\n injected: a",
            "echo\r\ninjected: a",
            "echo\0injected",
            "echo\u{1b}[31minjected",
            "echo\u{7f}injected",
            "echo\u{9b}31minjected",
            "echo\u{85}injected",
            "echo\u{2028}injected",
            "echo\u{202e}injected",
            "INFO ringecho: stopped injected=1",
        ] {
            injections.push(with_field(&format!("{name}: {value}")));
        }
        let mut latin_1 = with_field(&format!("{name}: echo@31minjected"));
        let at = latin_1.iter().position(|byte| *byte == b'@').unwrap();
        latin_1[at] = 0x9b;
        injections.push(latin_1);
    }
    injections
}

/// The response head that a peer gets, and what comes behind it until the server's end; nothing comes
/// behind a 101.
fn exchange(peer: &mut Peer, request: &[u8]) -> (String, String) {
    peer.send(request);
    let head = peer.read_head();
    let body = if head.starts_with("HTTP/1.1 101 ") { String::new() } else { peer.read_to_end() };
    (head, body)
}

#[test]
fn nothing_that_a_request_says_is_repeated_in_its_response() {
    const FIELDS: [&str; 9] = [
        "Content-Type",
        "Content-Length",
        "Connection",
        "Upgrade",
        "Allow",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Version",
    ];
    let handshake = Handshake {
        allowed_origins: vec!["https://good.example".parse().unwrap()],
        subprotocols: vec!["echo".parse().unwrap()],
        ..Handshake::default()
    };
    let config = Config { handshake, ..config() };
    with_server(&config, |server| {
        for request in injections() {
            let shown = request.escape_ascii().to_string();
            let (head, body) = exchange(&mut server.connect(), &request);
            for text in [&head, &body] {
                assert!(!text.to_lowercase().contains(MARK), "{shown}: {text}");
            }
            let mut lines = head.strip_suffix("\r\n\r\n").unwrap().split("\r\n");
            assert!(lines.next().unwrap().starts_with("HTTP/1.1 "), "{shown}: {head}");
            for line in lines {
                let (name, value) = line.split_once(": ").expect(&head);
                assert!(FIELDS.contains(&name), "{shown}: {head}");
                assert!(value.bytes().all(|byte| (b' '..0x7f).contains(&byte)), "{shown}: {head}");
            }
            assert!(body.lines().count() <= 1, "{shown}: {body}");
        }
    });
}

#[test]
fn nothing_that_a_request_says_breaks_a_line_of_the_log() {
    for way in WAYS {
        for format in ["text", "json"] {
            let mut command = ringecho();
            command.args(["--listen=127.0.0.1:0", "--workers=1", "--log-level=trace"]);
            command.args(["--subprotocol=echo", "--log-format", format]);
            let (mut program, line) = start(command.arg(way));
            let address: SocketAddr = address(&line).parse().unwrap();
            let mut stderr = program.stderr.take().unwrap();
            let reading = thread::spawn(move || {
                let mut log = Vec::new();
                stderr.read_to_end(&mut log).unwrap();
                log
            });
            for request in injections() {
                exchange(&mut Peer::connect(address), &request);
            }
            signal(&program, Signal::SIGTERM);
            assert_eq!(program.wait().unwrap().code(), Some(0));
            let log = String::from_utf8(reading.join().unwrap()).expect("text");
            assert!(log.lines().count() > injections().len(), "{log}");
            for line in log.lines() {
                assert!(!line.chars().any(char::is_control), "{}", line.escape_debug());
                match format {
                    "json" => {
                        serde_json::from_str::<serde_json::Value>(line).expect(line);
                    }
                    // The time, the level, and where the line comes from.
                    _ => assert!(line.starts_with("20") && line.contains(" ringecho"), "{line}"),
                }
            }
        }
    }
}

/// The decoder of request heads takes whatever httparse accepts for a header field, unchecked.
#[test]
fn every_byte_may_stand_anywhere_in_a_request_head() {
    const HEAD: &[u8] = b"GET /ws?a HTTP/1.1\r\nHost: a\r\nX: \r\nY:z \r\n\r\n";
    for at in 0..HEAD.len() {
        for byte in 0..=u8::MAX {
            let mut head = HEAD.to_vec();
            head[at] = byte;
            fuzzed::request_head(&head);
            head.insert(at, HEAD[at]);
            fuzzed::request_head(&head);
        }
    }
}

#[test]
fn page_can_be_framed_by_no_other_and_runs_nothing_of_others() {
    with_server(&config(), |server| {
        let mut peer = server.connect();
        peer.send("GET / HTTP/1.1\r\nHost: a\r\nOrigin: https://other.example\r\n\r\n");
        let head = peer.read_head();
        let policy = head.lines().find_map(|line| line.strip_prefix("Content-Security-Policy: "));
        let policy: Vec<&str> = policy.expect(&head).split("; ").collect();
        for directive in [
            "default-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "connect-src ws: wss:",
        ] {
            assert!(policy.contains(&directive), "{directive}: {head}");
        }
        assert!(head.contains("\r\nX-Content-Type-Options: nosniff\r\n"), "{head}");
        assert!(head.contains("\r\nCross-Origin-Opener-Policy: same-origin\r\n"), "{head}");
        // Other origins' scripts may not read it.
        assert!(!head.contains("Access-Control-Allow-Origin"), "{head}");
    });
}
