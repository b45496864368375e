//! `idle`: connections that are held, lost, silent, or never opened.

use std::{
    io::{Read, Write},
    net::TcpListener,
    process,
    sync::{Mutex, mpsc},
};

use serde_json::Value;
use tungstenite::protocol::frame::{CloseFrame, coding::CloseCode};

use crate::{
    invocation::{Outcome, assert_matches, assert_same_shapes, program},
    servers::{Server, accept_with_early_bytes, accepting_response},
};

const SCHEMA: &str = include_str!("../../idle.schema.json");

/// Holds 20 connections of a server.
fn idle(url: &str, arguments: &str) -> Outcome {
    let arguments = format!("idle {url} -c 20 -t 2 --duration 100ms {arguments} --json -");
    let outcome = Outcome::read_any(&program(&arguments).output().unwrap());
    assert_matches(&outcome.report, SCHEMA);
    outcome
}

#[test]
fn what_a_run_reports_too_has_the_same_shape() {
    let parts = [
        ("/$defs/latency", "/$defs/latency"),
        ("/properties/causes", "/$defs/causes"),
        ("/$defs/tls", "/$defs/tls"),
        ("/$defs/http2", "/$defs/http2"),
        ("/$defs/way_in", "/$defs/way_in"),
        ("/properties/errors/required", "/$defs/errors/required"),
    ];
    assert_same_shapes(SCHEMA, &parts);
}

#[test]
fn all_that_were_opened_are_still_there() {
    let server = Server::honest();
    let pid = process::id();
    let flags = format!("--echo 64 --connect-rate 10000 --server-pid {pid}");
    let outcome = idle(&server.url(), &flags);
    assert_eq!(outcome.code, Some(0), "{:#}\n{}", outcome.report, outcome.stderr);
    for (path, count) in [
        ("/connections/opened", 20),
        ("/connections/lost", 0),
        ("/opening_us/samples", 20),
        ("/echoed", 20),
        ("/pinged", 20),
        ("/answered", 20),
        ("/ping_us/samples", 20),
        ("/errors/total", 0),
        ("/server/pid", u64::from(pid)),
    ] {
        assert_eq!(outcome.number(path), count, "{path}");
    }
    assert_eq!(server.received(), 20);
    for stage in ["opened", "echoed", "held", "pinged"] {
        assert!(outcome.number(&format!("/server/{stage}/bytes")) > 0);
        assert!(outcome.number(&format!("/kernel/{stage}/bytes")) > 0);
        assert!(outcome.report["generator"][stage]["bytes_per_connection"].is_number());
    }
}

#[test]
fn the_longest_message_is_echoed_whole() {
    let server = Server::honest();
    let outcome = idle(&server.url(), "--echo 32KiB");
    assert_eq!(outcome.code, Some(0), "{:#}\n{}", outcome.report, outcome.stderr);
    assert_eq!((outcome.number("/echoed"), outcome.number("/answered")), (20, 20));
}

#[test]
fn without_an_echo_nothing_is_sent() {
    let server = Server::honest();
    let outcome = idle(&server.url(), "");
    assert_eq!(outcome.code, Some(0), "{:#}\n{}", outcome.report, outcome.stderr);
    assert!(outcome.report["echoed"].is_null() && outcome.report["server"].is_null());
    assert_eq!(server.received(), 0);
}

#[test]
fn those_that_do_not_answer_are_missing() {
    let (kept_open, _receiver) = mpsc::channel();
    let kept_open = Mutex::new(kept_open);
    let server = Server::of_websockets(move |websocket| {
        kept_open.lock().unwrap().send(websocket).unwrap();
    });
    let outcome = idle(&server.url(), "--echo 10 --answer-timeout 100ms");
    outcome.assert_errors(&[("missing", 40)]);
    assert_eq!(outcome.number("/echoed"), 0);
    assert_eq!(outcome.number("/pinged"), 20);
    assert_eq!(outcome.number("/answered"), 0);
}

#[test]
fn those_that_the_server_closes_are_lost() {
    let server = Server::of_websockets(|mut websocket| {
        let frame = CloseFrame { code: CloseCode::Away, reason: "".into() };
        websocket.close(Some(frame)).unwrap();
        while websocket.read().is_ok() {}
    });
    let outcome = idle(&server.url(), "");
    outcome.assert_errors(&[("closed", 20)]);
    outcome.assert_cause("the server sent a Close frame with code 1001");
    assert_eq!(outcome.number("/connections/opened"), 20);
    assert_eq!(outcome.number("/connections/lost"), 20);
    assert_eq!(outcome.number("/pinged"), 0);
}

#[test]
fn pings_of_the_server_are_answered() {
    let (answered, answers) = mpsc::channel();
    let answered = Mutex::new(answered);
    let server = Server::of_tcp(move |stream| {
        let mut websocket = accept_with_early_bytes(stream, b"\x89\x05hello");
        while let Ok(message) = websocket.read() {
            if message.is_pong() {
                answered.lock().unwrap().send(message.into_data()).unwrap();
            }
        }
    });
    let outcome = idle(&server.url(), "");
    assert_eq!(outcome.code, Some(0), "{:#}\n{}", outcome.report, outcome.stderr);
    assert_eq!(answers.try_iter().filter(|payload| payload == &b"hello"[..]).count(), 20);
}

#[test]
fn what_comes_after_its_time_is_missing_and_nothing_else() {
    let server = Server::of_tcp(|mut stream| {
        let response = accepting_response(&mut stream);
        stream.write_all(&response).unwrap();
        // Masked frames: a message of 5 bytes, a Ping of 8, and a Close frame with a code.
        let (mut message, mut ping, mut close) = ([0; 6 + 5], [0; 6 + 8], [0; 6 + 2]);
        stream.read_exact(&mut message).unwrap();
        stream.read_exact(&mut ping).unwrap();
        stream.read_exact(&mut close).unwrap();
        for frame in [&message[..], &ping, &close] {
            stream.write_all(&answered(frame)).unwrap();
        }
    });
    let outcome = idle(&server.url(), "--echo 5 --answer-timeout 300ms");
    outcome.assert_errors(&[("missing", 40)]);
    let counts = ["/pinged", "/echoed", "/answered", "/connections/lost"];
    assert_eq!(counts.map(|path| outcome.number(path)), [20, 0, 0, 0]);
}

/// The server's answer to a masked frame of at most 125 bytes: the same without its mask, and of a
/// Ping the Pong.
fn answered(frame: &[u8]) -> Vec<u8> {
    const PING: u8 = 0x89;
    const PONG: u8 = 0x8a;
    let (front, payload) = frame.split_at(6);
    let first = if front[0] == PING { PONG } else { front[0] };
    let unmasked = payload.iter().zip(front[2..].iter().cycle()).map(|(byte, key)| byte ^ key);
    [first, front[1] & 0x7f].into_iter().chain(unmasked).collect()
}

#[test]
fn those_that_cannot_be_opened_are_counted_by_cause() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let outcome = idle(&format!("ws://{nobody}/"), "");
    outcome.assert_errors(&[("connect", 20)]);
    outcome.assert_cause("Connection refused");
    assert!(outcome.report["opening_us"].is_null());
    let warnings = outcome.report["warnings"].as_array().unwrap();
    let is_not_opened = |warning: &&Value| warning["code"] == "connections_not_opened";
    let warning = warnings.iter().find(is_not_opened).unwrap();
    let text = warning["text"].as_str().unwrap();
    assert!(
        text.starts_with(&format!("no connection to ws://{nobody}/ could be opened: connect: ")),
        "{text}"
    );
    assert!(outcome.stderr.contains(&format!("warning: {text}\n")), "{}", outcome.stderr);
}

#[test]
fn the_text_says_who_is_still_there() {
    let server = Server::honest();
    let arguments = format!("idle {} -c 5 --duration 0s --echo 1KiB", server.url());
    let output = program(&arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\n  still there 5 of 5: p50 "), "{text}");
    assert!(text.contains("\n  echo        5 of 5\n"), "{text}");
    assert!(text.ends_with("\n  errors      none\n"), "{text}");
}
