//! Servers that do not echo, or not what was sent: each lie is noticed and named.

use std::{
    io::{Read, Write},
    iter,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use tungstenite::{
    Bytes, Message, Utf8Bytes, WebSocket,
    protocol::{CloseFrame, Role, frame::coding::CloseCode},
};

use crate::{
    invocation::{Outcome, run},
    servers::{Server, accepting_response, config, corrupted, echo},
};

/// One connection with several messages in flight, so that each fault happens once.
fn run_deep(server: &Server) -> Outcome {
    run(&format!("{} -c 1 --depth 8 --payload 64 --warmup 0s --duration 1s", server.url()))
}

/// Two connections with a message in flight each.
fn run_shallow(server: &Server) -> Outcome {
    run(&format!("{} -c 2 --payload 64 --warmup 0s --duration 1s", server.url()))
}

fn is_second(number: u64) -> bool {
    number == 1
}

#[test]
fn a_dropped_echo_is_missing() {
    let server =
        Server::answering(|number, message| if is_second(number) { vec![] } else { vec![message] });
    run_shallow(&server).assert_errors(&[("missing", 2)]);
}

#[test]
fn a_dropped_echo_among_others_is_missing_and_no_other() {
    let server =
        Server::answering(|number, message| if is_second(number) { vec![] } else { vec![message] });
    let outcome = run_deep(&server);
    outcome.assert_errors(&[("missing", 1)]);
    assert_eq!(outcome.number("/connections/lost"), 0);
    assert_eq!(outcome.number("/messages_total"), server.received() - 1);
}

#[test]
fn a_repeated_echo_is_wrong() {
    let twice = |number, message: Message| {
        if is_second(number) { vec![message.clone(), message] } else { vec![message] }
    };
    for (outcome, count) in
        [(run_deep(&Server::answering(twice)), 1), (run_shallow(&Server::answering(twice)), 2)]
    {
        outcome.assert_errors(&[("wrong", count)]);
        assert_eq!(outcome.number("/wrong_echoes/duplicated"), count);
    }
}

#[test]
fn echoes_out_of_order_are_wrong() {
    let held = Mutex::new(None);
    let server = Server::answering(move |number, message| match number {
        1 => {
            *held.lock().unwrap() = Some(message);
            vec![]
        }
        2 => vec![message, held.lock().unwrap().take().unwrap()],
        _ => vec![message],
    });
    let outcome = run_deep(&server);
    outcome.assert_errors(&[("wrong", 1)]);
    assert_eq!(outcome.number("/wrong_echoes/reordered"), 1);
}

#[test]
fn a_corrupted_byte_is_wrong_wherever_it_is() {
    for at in [0, 7, 8, 63] {
        let server = Server::answering(move |number, message| {
            vec![if is_second(number) { corrupted(message, at, 0x10) } else { message }]
        });
        let outcome = run_deep(&server);
        outcome.assert_errors(&[("wrong", 1)]);
        outcome.assert_cause(&format!("byte {at} of an echo is "));
        assert_eq!(outcome.number("/wrong_echoes/corrupted"), 1);
    }
}

#[test]
fn an_echo_of_another_length_or_type_is_wrong() {
    type Change = fn(Message) -> Message;
    let shorter = |message: Message| Message::Binary(message.into_data().slice(..63));
    let longer =
        |message: Message| Message::Binary(Bytes::from([&message.into_data()[..], b"!"].concat()));
    let text = |_| Message::Text(Utf8Bytes::from("x".repeat(64)));
    let changes: [(Change, _, _); 3] = [
        (shorter, "truncated", "63 bytes of payload, less than its message"),
        (longer, "extended", "more bytes of payload than the 64 of its message"),
        (text, "retyped", "a binary message came back as text"),
    ];
    for (change, kind, cause) in changes {
        let server = Server::answering(move |number, message| {
            vec![if is_second(number) { change(message) } else { message }]
        });
        let outcome = run_deep(&server);
        outcome.assert_errors(&[("wrong", 1)]);
        outcome.assert_cause(cause);
        assert_eq!(outcome.number(&format!("/wrong_echoes/{kind}")), 1);
    }
}

#[test]
fn a_message_that_nobody_asked_for_takes_no_echo_away() {
    type Stray = fn() -> Message;
    let text = || Message::Text(Utf8Bytes::from_static("oops"));
    let binary = || Message::Binary(Bytes::from_static(b"oops!"));
    let runs: [(&str, Stray); 6] = [
        ("--depth 1 --payload 64", text),
        ("--depth 8 --payload 64", text),
        ("--depth 8 --payload 2", text),
        ("--rate 2k --payload 300", text),
        ("--depth 8 --payload 64", binary),
        ("--depth 8 --payload 64 --text", binary),
    ];
    for (load, stray) in runs {
        let server = Server::answering(move |number, message| {
            if is_second(number) { vec![stray(), message] } else { vec![message] }
        });
        let outcome = run(&format!("{} -c 1 {load} --warmup 0s --duration 300ms", server.url()));
        outcome.assert_errors(&[("wrong", 1)]);
        assert_eq!(outcome.number("/wrong_echoes/unasked"), 1, "{load}");
        assert_eq!(outcome.number("/messages_total"), server.received(), "{load}");
    }
}

/// A server that lies in one echo of a thousand, and how often it has.
fn lying_server(
    lie: impl Fn(Message, &mut Option<Message>) -> Vec<Message> + Send + Sync + 'static,
) -> (Server, Arc<AtomicU64>) {
    let lies = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&lies);
    let held = Mutex::new(None);
    let server = Server::answering(move |number, message| {
        let mut held = held.lock().unwrap();
        if number % 1000 == 499 {
            told.fetch_add(1, SeqCst);
            return lie(message, &mut held);
        }
        iter::once(message).chain(held.take()).collect()
    });
    (server, lies)
}

#[test]
fn one_lie_in_a_thousand_echoes_is_counted_exactly_by_kind() {
    type Lie = fn(Message, &mut Option<Message>) -> Vec<Message>;
    let lies: [(&str, Lie); 5] = [
        ("/errors/missing", |_, _| vec![]),
        ("/wrong_echoes/duplicated", |message, _| vec![message.clone(), message]),
        ("/wrong_echoes/corrupted", |message, _| vec![corrupted(message, 3, 0x01)]),
        ("/wrong_echoes/reordered", |message, held| {
            *held = Some(message);
            vec![]
        }),
        ("/wrong_echoes/truncated", |message, _| {
            vec![Message::Binary(message.into_data().slice(..40))]
        }),
    ];
    for (kind, lie) in lies {
        for load in ["--rate 20k", "--depth 16"] {
            let (server, lies) = lying_server(lie);
            let arguments = "-c 1 --payload 64 --warmup 0s --duration 500ms";
            let outcome = run(&format!("{} {load} {arguments}", server.url()));
            let lies = lies.load(SeqCst);
            assert!(lies > 0, "{load}: {} messages are too few", server.received());
            assert_eq!(outcome.number(kind), lies, "{load}\n{:#}", outcome.report);
            assert_eq!(outcome.number("/errors/total"), lies, "{load}\n{:#}", outcome.report);
            assert_eq!(outcome.number("/connections/lost"), 0);
            let right = server.received() - if kind.ends_with("duplicated") { 0 } else { lies };
            assert_eq!(outcome.number("/messages_total"), right, "{kind}");
        }
    }
}

#[test]
fn a_message_swapped_between_connections_is_wrong() {
    let last = Mutex::new(None);
    let server = Server::answering(move |_, message| {
        last.lock().unwrap().replace(message).into_iter().collect()
    });
    let outcome = run_shallow(&server);
    assert!(outcome.number("/errors/wrong") > 0, "{:#}", outcome.report);
    assert_eq!(outcome.code, Some(1));
}

#[test]
fn silence_is_missing_echoes() {
    let server = Server::answering(|_, _| vec![]);
    let outcome = run_deep(&server);
    outcome.assert_errors(&[("missing", 8)]);
    assert!(outcome.report["latency_us"].is_null());
    assert!(outcome.stderr.contains("no correct echo arrived"), "{}", outcome.stderr);
}

#[test]
fn a_close_frame_before_its_time_is_an_error() {
    let server = Server::answering(|_, _| {
        let frame = CloseFrame { code: CloseCode::Away, reason: Utf8Bytes::from_static("bye") };
        vec![Message::Close(Some(frame))]
    });
    let outcome = run_shallow(&server);
    outcome.assert_errors(&[("closed", 2), ("missing", 2)]);
    outcome.assert_cause("a Close frame with code 1001");
}

#[test]
fn a_connection_that_ends_before_its_time_is_an_error() {
    let server = Server::of_websockets(|mut websocket| {
        // Having read what was sent, it ends with FIN; what is missing is the closing handshake.
        let _ = websocket.read();
    });
    let outcome = run_shallow(&server);
    outcome.assert_errors(&[("closed", 2), ("missing", 2)]);
    outcome.assert_cause("without a Close frame");
}

#[test]
fn violations_of_the_protocol_are_named() {
    for (bytes, cause) in [
        (&b"\x82\x80\x01\x02\x03\x04"[..], "a frame from the server is masked"),
        (b"\xc2\x01x", "a reserved bit is set"),
        (b"\x83\x00", "the opcode is reserved"),
        (b"\x09\x00", "a control frame is fragmented"),
        (b"\x80\x01x", "a continuation frame continues nothing"),
        (b"\x88\x80\x01\x02\x03\x04", "a frame from the server is masked"),
        (b"\x88\x7e\x00\x7e", "a control frame has more than 125 bytes"),
        (b"\x88\x01\x03", "a Close frame that is malformed: a Close frame has half a close code"),
        (b"\x88\x02\x03\xed", "a Close frame with code 1005, which may not be sent"),
        (b"\x88\x02\x00\x00", "a Close frame with code 0, which may not be sent"),
        (
            b"\x88\x03\x03\xe8\xff",
            "a Close frame that is malformed: the reason in a Close frame is not UTF-8",
        ),
    ] {
        let server = Server::of_websockets(move |mut websocket| {
            let _ = websocket.read();
            websocket.get_mut().write_all(bytes).unwrap();
            while websocket.read().is_ok() {}
        });
        let outcome = run_shallow(&server);
        outcome.assert_errors(&[("protocol", 2)]);
        outcome.assert_cause(cause);
    }
}

#[test]
fn an_answer_to_the_close_frame_that_may_not_be_sent_is_named() {
    for (answer, cause) in [
        (&b"\x88\x02\x03\xee"[..], "a Close frame with code 1006, which may not be sent"),
        (b"\x88\x01\x03", "half a close code"),
    ] {
        let server = Server::of_websockets(move |mut websocket| {
            while let Ok(message) = websocket.read() {
                // tungstenite would send its own answer with the next read.
                if message.is_close() {
                    websocket.get_mut().write_all(answer).unwrap();
                    return;
                }
                websocket.send(message).unwrap();
            }
        });
        let outcome = run_shallow(&server);
        outcome.assert_errors(&[("protocol", 2)]);
        outcome.assert_cause(cause);
        assert!(outcome.number("/messages_total") > 0);
    }
}

#[test]
fn a_refused_opening_handshake_is_named() {
    for (response, cause) in [
        (&b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"[..], "status 404 instead of 101"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "the answer is not HTTP/1.1"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "\"upgrade: websocket\""),
        (b"", "closed the connection during the opening handshake"),
    ] {
        let server = Server::of_tcp(move |mut stream| {
            accepting_response(&mut stream);
            stream.write_all(response).unwrap();
        });
        let outcome = run_shallow(&server);
        outcome.assert_errors(&[("handshake", 2)]);
        outcome.assert_cause(cause);
        let warning = format!("no connection to {} could be opened: handshake: ", server.url());
        assert!(outcome.stderr.contains(&warning), "{}", outcome.stderr);
    }
}

#[test]
fn a_refusal_says_where_to_and_why() {
    for (response, cause) in [
        (
            "HTTP/1.1 301 Moved Permanently\r\nlocation: wss://h/ws?token=abc\r\n\
             content-length: 0\r\n\r\n",
            "status 301 instead of 101, and points to \"wss://h/ws?token=***\" (--follow goes \
             there, once and before the load)",
        ),
        (
            "HTTP/1.1 401 Unauthorized\r\ncontent-length: 19\r\n\r\n\r\nno \x1btoken abc\r\n?!",
            "status 401 instead of 101: \"no \\u{1b}token ***\"",
        ),
        (
            "HTTP/1.1 403 Forbidden\r\ntransfer-encoding: chunked\r\n\r\n3\r\nnot\r\n5\r\n you!\r\n\
             0\r\n\r\n",
            "status 403 instead of 101: \"not you!\"",
        ),
        // Its body ends with the connection, which stays open.
        ("HTTP/1.1 503 Busy\r\n\r\nlater", "status 503 instead of 101: \"later\""),
        ("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 410 Gone\r\n\r\nlong ago\n", "\"long ago\""),
    ] {
        let server = Server::of_tcp(move |mut stream| {
            accepting_response(&mut stream);
            let (head, body) = response.split_at(response.rfind("\r\n\r\n").unwrap() + 4);
            for part in [head, body] {
                stream.write_all(part.as_bytes()).unwrap();
            }
            let _ = stream.read(&mut [0]);
        });
        let outcome = run(&format!("{}?token=abc -c 2", server.url()));
        outcome.assert_errors(&[("handshake", 2)]);
        outcome.assert_cause(cause);
    }
}

#[test]
fn interim_responses_and_folded_fields_do_not_keep_a_connection_from_opening() {
    let server = Server::of_tcp(|mut stream| {
        let response = String::from_utf8(accepting_response(&mut stream)).unwrap();
        let response = response.replace("connection: Upgrade", "Connection: close,\r\n\tupgrade");
        stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n").unwrap();
        stream.write_all(response.as_bytes()).unwrap();
        echo(WebSocket::from_raw_socket(stream, Role::Server, Some(config())));
    });
    run(&format!("{} -c 2 --warmup 0s --duration 300ms", server.url())).assert_success();
}

#[test]
fn a_101_of_http_1_0_is_refused() {
    let server = Server::of_tcp(|mut stream| {
        let response = String::from_utf8(accepting_response(&mut stream)).unwrap();
        stream.write_all(response.replace("HTTP/1.1", "HTTP/1.0").as_bytes()).unwrap();
    });
    let outcome = run_shallow(&server);
    outcome.assert_errors(&[("handshake", 2)]);
    outcome.assert_cause("the answer is not HTTP/1.1: status 101 of HTTP/1.0");
}

#[test]
fn an_endless_response_head_is_refused() {
    let server = Server::of_tcp(|mut stream| {
        accepting_response(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n");
        while stream.write_all(b"x-filler: more of it\r\n").is_ok() {}
    });
    let outcome = run_shallow(&server);
    outcome.assert_errors(&[("handshake", 2)]);
}

#[test]
fn a_server_that_never_answers_the_handshake_times_out() {
    let server = Server::of_tcp(|mut stream| {
        let mut request = Vec::new();
        let _ = stream.read_to_end(&mut request);
    });
    let outcome = run(&format!("{} -c 3 --opening-timeout 100ms", server.url()));
    outcome.assert_errors(&[("timeout", 3)]);
    outcome.assert_cause("not open after 100ms");
}

#[test]
fn nobody_listening_is_a_connect_error() {
    // Bound but not listening: nobody else can take the port, and connections to it are refused.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    let outcome = run(&format!("ws://127.0.0.1:{port}/ -c 5"));
    outcome.assert_errors(&[("connect", 5)]);
    outcome.assert_cause("Connection refused");
    assert_eq!(outcome.number("/connections/opened"), 0);
    assert!(outcome.stderr.contains("could be opened: connect: "), "{}", outcome.stderr);
}
