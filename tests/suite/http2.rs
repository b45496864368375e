//! HTTP/2: sessions on its streams (RFC 8441), the page and refusals, and how streams and their
//! connection end.

use std::{fs, net::TcpStream, thread, time::Duration};

use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Request, StatusCode};
use ringecho::{
    config::{AccessLogTarget, Config, Handshake, Http2, Network, Observation, Time, Tls, Within},
    metrics::Totals,
    protocol::OpCode,
    worker::Drain,
};
use rustls::crypto::ring::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384,
};
use serde_json::{Value, json};

use crate::{
    frames::{ClientFrame, binary, close, ping, server_close, text},
    http2_peer::{Client, Stream, connect_request, get},
    peer::{Peer, TestServer, UPGRADE, config, planes, with_server},
    seen, tls_client,
};

/// Runs a test on each data plane and driver, and gives it what was counted.
fn with_totals(config: &Config, test: impl Fn(TestServer) -> Totals, check: impl Fn(&Totals)) {
    for config in planes(config) {
        check(&test(TestServer::start(&config)));
    }
}

fn expect_echo(stream: &mut Stream, payload: &str) {
    stream.send(text(payload).encode());
    stream.expect(text(payload).encode_echo());
}

fn say_goodbye(stream: &mut Stream) {
    stream.send(close(1000, "").encode());
    stream.expect(server_close(1000, ""));
    stream.end();
    stream.expect_end();
}

#[test]
fn messages_are_echoed_on_a_stream_as_on_a_connection() {
    with_server(&config(), |server| {
        let mut client = Client::connect(server);
        let mut stream = client.open();
        expect_echo(&mut stream, "hello");
        let (first, last) = (
            ClientFrame::new(false, OpCode::Text, "frag"),
            ClientFrame::new(true, OpCode::Continuation, "ments"),
        );
        stream.send(first.encode());
        stream.send(ping("between").encode());
        stream.send(last.encode());
        let echoes = [first, ping("between"), last].map(|frame| frame.encode_echo());
        stream.expect(echoes.concat());
        let large = binary((0..1_u32 << 20).map(|at| (at % 251) as u8).collect::<Vec<_>>());
        stream.send(large.encode());
        stream.expect(large.encode_echo());
        stream.send(close(4321, "enough").encode());
        stream.expect(server_close(4321, "enough"));
        stream.expect_end();
        stream.end();
        client.leave();
    });
}

#[test]
fn violation_of_websocket_ends_its_stream_with_a_close_code_and_no_other() {
    with_server(&config(), |server| {
        let mut client = Client::connect(server);
        let (mut failing, mut other) = (client.open(), client.open());
        failing.send(b"\x81\x02hi");
        failing.expect(server_close(1002, "a frame from a client is not masked"));
        failing.expect_end();
        failing.end();
        expect_echo(&mut other, "still here");
        say_goodbye(&mut other);
        client.leave();
    });
}

#[test]
fn streams_have_turns_beside_each_other() {
    with_server(&config(), |server| {
        let mut client = Client::connect(server);
        let mut streams: Vec<Stream> = (0..100).map(|_| client.open()).collect();
        for round in 0..3 {
            for (at, stream) in streams.iter_mut().enumerate() {
                let begin = ClientFrame::new(false, OpCode::Binary, vec![at as u8; 100 + round]);
                stream.send(begin.encode());
            }
            for (at, stream) in streams.iter_mut().enumerate() {
                let begin = ClientFrame::new(false, OpCode::Binary, vec![at as u8; 100 + round]);
                let end = ClientFrame::new(true, OpCode::Continuation, "end");
                stream.send(end.encode());
                stream.expect([begin.encode_echo(), end.encode_echo()].concat());
            }
        }
        streams.iter_mut().for_each(say_goodbye);
        drop(streams);
        client.leave();
    });
}

/// The window of the stream that is not read is used up in both directions, and what the session keeps
/// as well. The client's window of the whole connection has room for more than that stream's.
#[test]
fn stream_that_nobody_reads_holds_up_no_other() {
    with_server(&config(), |server| {
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(1 << 20);
        let mut client = Client::connect_with(server.address, &builder);
        let (mut unread, mut other) = (client.open(), client.open());
        let message = binary(vec![7; 16 << 10]);
        let sent = unread.send_until_blocked(&message.encode());
        assert!(sent > 16, "{sent} messages");
        for _ in 0..20 {
            expect_echo(&mut other, "mine");
        }
        for _ in 0..sent {
            unread.expect(message.encode_echo());
        }
        expect_echo(&mut unread, "read at last");
        say_goodbye(&mut unread);
        say_goodbye(&mut other);
        drop((unread, other));
        client.leave();
    });
}

/// Each connection pauses now and then for the others, which do so at the same time.
#[test]
fn connections_that_send_much_at_once_all_go_on() {
    with_server(&config(), |server| {
        let address = server.address;
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(move || {
                    let mut client = Client::connect_with(address, &h2::client::Builder::new());
                    let mut stream = client.open();
                    let large = binary(vec![7; 1 << 20]);
                    for _ in 0..4 {
                        stream.send(large.encode());
                        stream.expect(large.encode_echo());
                    }
                    say_goodbye(&mut stream);
                    drop(stream);
                    client.leave();
                });
            }
        });
    });
}

#[test]
fn what_a_request_is_refused_for_is_said_over_http_2_too() {
    let allowed_origins = vec!["https://a.example".parse().unwrap()];
    let handshake = Handshake { allowed_origins, ..Handshake::default() };
    with_server(&Config { handshake, ..config() }, |server| {
        let mut client = Client::connect(server);
        let connect = |change: fn(&mut Request<()>)| {
            let mut request = connect_request();
            change(&mut request);
            request
        };
        let origin = |request: &mut Request<()>| {
            request.headers_mut().insert("origin", "https://b.example".parse().unwrap());
        };
        let path = |request: &mut Request<()>| {
            *request.uri_mut() = "http://localhost/other".parse().unwrap();
        };
        let version = |request: &mut Request<()>| {
            request.headers_mut().insert("sec-websocket-version", "8".parse().unwrap());
        };
        let protocol = |request: &mut Request<()>| {
            request.extensions_mut().insert(Protocol::from_static("connect-udp"));
        };
        let plain = Request::builder().method(Method::CONNECT).uri("localhost:80");
        let post = Request::post("http://localhost/").body(()).unwrap();
        for (request, status, reason) in [
            (connect(origin), 403, "this origin is not allowed"),
            (connect(path), 404, "there is no echo here: upgrades are at /ws"),
            (connect(version), 426, "Sec-WebSocket-Version must be 13"),
            (connect(protocol), 501, "over HTTP/2, this path is for extended CONNECT requests"),
            (plain.body(()).unwrap(), 405, "only GET, HEAD and OPTIONS are possible here"),
            (post, 405, "only GET, HEAD and OPTIONS are possible here"),
            (get("/other"), 404, "there is nothing here: the page is at /"),
            (get("/ws"), 400, "this path is for WebSocket clients"),
        ] {
            let shown = format!("{request:?}");
            let (head, body) = client.ask(request);
            assert_eq!(head.status.as_u16(), status, "{shown}");
            assert!(body.starts_with(reason), "{shown}: {body}");
        }
        // All of them on one connection, which goes on.
        let mut request = connect_request();
        request.headers_mut().insert("origin", "https://a.example".parse().unwrap());
        let (head, mut stream) = client.request(request).unwrap();
        assert_eq!(head.status, StatusCode::OK);
        say_goodbye(&mut stream);
        drop(stream);
        client.leave();
    });
}

#[test]
fn page_and_health_check_are_those_of_http_1_1() {
    with_server(&config(), |server| {
        let mut client = Client::connect(server);
        for path in ["/", "/healthz"] {
            let mut peer = server.connect();
            peer.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
            let response = peer.read_to_end();
            let (_, expected) = response.split_once("\r\n\r\n").unwrap();
            let (head, body) = client.ask(get(path));
            assert_eq!(head.status, StatusCode::OK);
            assert_eq!(body, expected);
            assert_eq!(head.headers["content-length"], expected.len().to_string());
            let mut request = get(path);
            *request.method_mut() = Method::HEAD;
            let (to_head, body) = client.ask(request);
            assert_eq!((to_head.headers, body.as_str()), (head.headers, ""));
        }
        client.leave();
    });
}

#[test]
fn handshake_agrees_on_subprotocol_and_compression() {
    let handshake = Handshake {
        subprotocols: vec!["chat".parse().unwrap()],
        compression: ringecho::config::Compression::PassThrough,
        ..Handshake::default()
    };
    with_server(&Config { handshake, ..config() }, |server| {
        let mut client = Client::connect(server);
        let mut request = connect_request();
        for (name, value) in [
            ("sec-websocket-protocol", "superchat, chat"),
            ("sec-websocket-extensions", "permessage-deflate; server_max_window_bits=15"),
        ] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let (head, mut stream) = client.request(request).unwrap();
        assert_eq!(head.headers["sec-websocket-protocol"], "chat");
        let extensions = head.headers["sec-websocket-extensions"].to_str().unwrap();
        assert!(extensions.starts_with("permessage-deflate"), "{extensions}");
        // "Hello" (RFC 7692 §7.2.3.1).
        let payload = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let compressed =
            ClientFrame { rsv1: true, ..ClientFrame::new(true, OpCode::Text, payload) };
        stream.send(compressed.encode());
        let echo = [&[0xc1, payload.len() as u8], &payload[..]].concat();
        stream.expect(echo);
        say_goodbye(&mut stream);
        drop(stream);
        client.leave();
    });
}

#[test]
fn streams_beyond_the_bound_are_refused_and_the_others_go_on() {
    let http2 = Http2 { streams_max: Within::new(2).unwrap(), ..Http2::default() };
    with_server(&Config { http2, ..config() }, |server| {
        let mut builder = h2::client::Builder::new();
        // What the server allows would be waited for.
        builder.initial_max_send_streams(10);
        let mut client = Client::connect_with(server.address, &builder);
        let (mut first, mut second) = (client.open(), client.open());
        assert_eq!(client.max_streams(), 2);
        expect_echo(&mut first, "one");
        expect_echo(&mut second, "two");
        say_goodbye(&mut first);
        // Its place is free again.
        let mut third = client.open();
        expect_echo(&mut third, "three");
        say_goodbye(&mut second);
        say_goodbye(&mut third);
        drop((first, second, third));
        client.leave();
    });
}

#[test]
fn peer_that_resets_a_stream_in_the_middle_of_a_message_ends_nothing_else() {
    let test = |server: TestServer| {
        let mut client = Client::connect(&server);
        let (mut leaving, mut other) = (client.open(), client.open());
        leaving.send(&binary(vec![7; 100_000]).encode()[..50_000]);
        expect_echo(&mut other, "before");
        leaving.reset();
        expect_echo(&mut other, "after");
        say_goodbye(&mut other);
        drop((leaving, other));
        client.leave();
        server.stop()
    };
    with_totals(&config(), test, |totals| {
        assert_eq!(totals.streams_ended, [("closed_by_peer", 1), ("broken", 1)], "{totals:?}");
        assert_eq!(totals.ended, [("http2_closed", 1)], "{totals:?}");
        assert_eq!((totals.streams, totals.upgraded), (2, 2));
    });
}

#[test]
fn each_end_of_a_stream_and_of_a_connection_has_its_kind() {
    let test = |server: TestServer| {
        // A stream that ends without a Close frame.
        let mut client = Client::connect(&server);
        let mut stream = client.open();
        stream.end();
        assert!(stream.expect_reset().is_some());
        drop(stream);
        client.leave();
        // A connection that ends with an open stream.
        let mut client = Client::connect(&server);
        let stream = client.open();
        drop(client.abandon());
        drop(stream);
        // One that ends before a request, after its preface and before it is whole.
        let client = Client::connect(&server);
        drop(client.abandon());
        Peer::connect(server.address).send(b"PRI * HTTP/2.0\r\n\r\nS");
        // A request that is not for a WebSocket.
        let mut client = Client::connect(&server);
        assert_eq!(client.ask(get("/healthz")).1, "ok\n");
        assert_eq!(client.ask(get("/other")).0.status, StatusCode::NOT_FOUND);
        client.leave();
        server.stop()
    };
    with_totals(&config(), test, |totals| {
        let ended = |ends: &[(&'static str, u64)]| {
            let mut ends = ends.to_vec();
            ends.sort_unstable();
            ends
        };
        assert_eq!(
            ended(&totals.streams_ended),
            [("broken", 1), ("page_served", 1), ("peer_vanished", 1), ("refused", 1)],
            "{totals:?}"
        );
        assert_eq!(totals.refused, [("path_unknown", 1)]);
        assert_eq!(
            ended(&totals.ended),
            [("http2_closed", 2), ("peer_left", 2), ("peer_vanished", 1)],
            "{totals:?}"
        );
    });
}

#[test]
fn stopping_server_ends_each_stream_with_1001_and_then_the_connection() {
    let test = |server: TestServer| {
        let mut client = Client::connect(&server);
        let mut streams: Vec<Stream> = (0..5).map(|_| client.open()).collect();
        server.begin_to_stop();
        for stream in &mut streams {
            stream.expect(server_close(1001, "the server is stopping"));
            stream.send(close(1001, "").encode());
            stream.expect_end();
            stream.end();
        }
        drop(streams);
        client.ended().expect("an orderly end");
        server.stop()
    };
    with_totals(&config(), test, |totals| {
        assert_eq!(totals.streams_ended, [("closed_by_server", 5)], "{totals:?}");
        assert_eq!(totals.ended, [("http2_closed", 1)], "{totals:?}");
    });
}

/// The first stream has its turn at the first step of the hour, the others later; no stream is opened
/// meanwhile.
#[test]
fn streams_whose_turn_has_not_come_go_on_but_no_others_come() {
    with_server(&config(), |server| {
        let mut client = Client::connect(server);
        let mut streams = [(); 3].map(|()| client.open());
        let hour = Duration::from_hours(1);
        server.drain(Drain { spread: hour, timeout: hour, quiet: None, leaves_queues: false });
        let [first, second, third] = &mut streams;
        first.expect(server_close(1001, "the server is stopping"));
        first.send(close(1001, "").encode());
        first.expect_end();
        first.end();
        client.go_on();
        assert!(client.request(connect_request()).is_err(), "the connection takes no more");
        for stream in [second, third] {
            expect_echo(stream, "still here");
            say_goodbye(stream);
        }
        drop(streams);
        client.ended().expect("an orderly end");
    });
}

#[test]
fn server_that_was_taken_over_from_closes_streams_once_they_are_quiet() {
    with_server(&config(), |server| {
        let mut client = Client::connect(server);
        let (mut first, mut second) = (client.open(), client.open());
        expect_echo(&mut first, "before");
        let (hour, quiet) = (Duration::from_hours(1), Some(Duration::from_millis(50)));
        server.drain(Drain { spread: hour, timeout: hour, quiet, leaves_queues: true });
        for stream in [&mut first, &mut second] {
            stream.expect(server_close(1001, "the server is stopping"));
            stream.send(close(1001, "").encode());
            stream.expect_end();
            stream.end();
        }
        drop((first, second));
        client.ended().expect("an orderly end");
    });
}

#[test]
fn connection_without_a_stream_is_ended_after_the_handshake_timeout() {
    let time =
        Time { handshake_timeout: Within::new(Duration::from_secs(1)).unwrap(), ..Time::default() };
    let test = |server: TestServer| {
        // The first never asks for anything, the second does once.
        let (first, mut second) = (Client::connect(&server), Client::connect(&server));
        assert_eq!(second.ask(get("/healthz")).1, "ok\n");
        first.ended().expect("an orderly end");
        second.ended().expect("an orderly end");
        // One that has an open stream is not ended.
        let mut third = Client::connect(&server);
        let mut stream = third.open();
        thread::sleep(Duration::from_millis(3500));
        expect_echo(&mut stream, "still here");
        say_goodbye(&mut stream);
        drop(stream);
        third.leave();
        server.stop()
    };
    with_totals(&Config { time, ..config() }, test, |totals| {
        let mut ended = totals.ended.clone();
        ended.sort_unstable();
        assert_eq!(ended, [("http2_closed", 2), ("refused", 1)], "{totals:?}");
        assert_eq!(totals.refused, [("head_timed_out", 1)]);
    });
}

#[test]
fn deadlines_of_connections_are_those_of_streams() {
    let second = Within::new(Duration::from_secs(1)).unwrap();
    let idle =
        Time { idle_timeout: Within::new(Duration::from_secs(1)).unwrap(), ..Time::default() };
    let silent = Time {
        keep_alive_interval: Within::new(Duration::from_secs(1)).unwrap(),
        keep_alive_timeout: second,
        ..Time::default()
    };
    with_server(&Config { time: idle, ..config() }, |server| {
        let mut client = Client::connect(server);
        let mut stream = client.open();
        stream.expect(server_close(1001, "no message has come for too long"));
        stream.send(close(1001, "").encode());
        stream.expect_end();
        stream.end();
        drop(stream);
        client.leave();
    });
    with_server(&Config { time: silent, ..config() }, |server| {
        let mut client = Client::connect(server);
        let mut stream = client.open();
        // A Ping, which is not answered.
        stream.expect(b"\x89\x00");
        assert!(stream.expect_reset().is_some());
        drop(stream);
        client.leave();
    });
}

#[test]
fn http_2_is_not_spoken_where_it_is_off() {
    let http2 = Http2 { is_spoken: false, ..Http2::default() };
    with_server(&Config { http2, ..config() }, |server| {
        let mut peer = server.connect();
        peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        assert!(peer.read_to_end().starts_with("HTTP/1.1 505 "));
    });
}

/// The preface may come byte by byte, and HTTP/1.1 is spoken beside.
#[test]
fn both_versions_of_http_are_spoken_on_one_port() {
    with_server(&config(), |server| {
        let mut client = Client::connect(server);
        let mut stream = client.open();
        let mut peer = server.connect();
        for byte in UPGRADE.as_bytes() {
            peer.send([*byte]);
        }
        assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
        peer.send(text("one").encode());
        peer.expect(text("one").encode_echo());
        expect_echo(&mut stream, "two");
        say_goodbye(&mut stream);
        drop(stream);
        client.leave();
        let mut peer = server.connect();
        for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
            peer.send([*byte]);
        }
        // An empty SETTINGS frame of the client, and the server's, which has some.
        peer.send(b"\0\0\0\x04\0\0\0\0\0");
        let mut header = [0; 9];
        std::io::Read::read_exact(&mut peer.stream, &mut header).unwrap();
        assert_eq!((header[3], header[4]), (4, 0));
    });
}

#[test]
fn flow_control_of_a_client_is_kept_to() {
    with_server(&config(), |server| {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(10).initial_connection_window_size(1 << 20);
        let mut client = Client::connect_with(server.address, &builder);
        let mut stream = client.open();
        let message = text(&"long enough ".repeat(20));
        stream.send(message.encode());
        stream.expect(message.encode_echo());
        let (head, page) = client.ask(get("/"));
        assert_eq!(head.headers["content-length"], page.len().to_string());
        say_goodbye(&mut stream);
        drop(stream);
        client.leave();
    });
}

/// A body that nobody asked for is not read, and the response comes all the same.
#[test]
fn body_of_a_request_is_not_waited_for() {
    with_server(&config(), |server| {
        let mut client = Client::connect(server);
        let (head, mut stream) = client.request(get("/healthz")).unwrap();
        assert_eq!(head.status, StatusCode::OK);
        stream.expect("ok\n");
        stream.sent.send_data(Bytes::from_static(b"more"), false).ok();
        drop(stream);
        assert_eq!(client.ask(get("/healthz")).1, "ok\n");
        client.leave();
    });
}

#[test]
fn connection_goes_on_after_others_have_come_and_gone() {
    with_server(&config(), |server| {
        for _ in 0..20 {
            drop(TcpStream::connect(server.address).unwrap());
            let mut client = Client::connect(server);
            let mut stream = client.open();
            expect_echo(&mut stream, "hello");
            drop(stream);
            client.leave();
        }
    });
}

#[test]
fn sessions_on_streams_over_tls_are_those_on_streams_over_tcp() {
    let listen = vec!["tls+127.0.0.1:0".parse().unwrap()];
    let network = Network { listen, ..config().network };
    let tls = Tls { self_signed: true, ..Tls::default() };
    with_server(&Config { network, tls, ..config() }, |server| {
        for suite in [TLS13_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256] {
            let mut client =
                Client::connect_securely(server.address, &tls_client::config(&[suite], false));
            let mut streams: Vec<Stream> = (0..10).map(|_| client.open()).collect();
            for (at, stream) in streams.iter_mut().enumerate() {
                expect_echo(stream, &format!("stream {at}"));
            }
            let large = binary((0..1_u32 << 20).map(|at| (at % 251) as u8).collect::<Vec<_>>());
            streams[3].send(large.encode());
            streams[3].expect(large.encode_echo());
            let (head, body) = client.ask(get("/healthz"));
            assert_eq!((head.status, body.as_str()), (StatusCode::OK, "ok\n"));
            assert_eq!(client.ask(get("/other")).0.status, StatusCode::NOT_FOUND);
            streams.iter_mut().for_each(say_goodbye);
            drop(streams);
            client.leave();
        }
    });
}

/// Records and metrics know a stream, and the connection that carries it.
#[test]
fn operator_sees_each_stream_and_its_connection() {
    with_server(&seen::config(1), |server| {
        let mut client = Client::connect(server);
        let mut streams = [(); 2].map(|()| client.open());
        for stream in &mut streams {
            expect_echo(stream, "hello");
        }
        let listed = seen::get_json(server, "/connections");
        let listed = listed["connections"].as_array().unwrap();
        assert_eq!(listed.len(), 3, "{listed:?}");
        let is_stream = |it: &&Value| it["path"] == "/ws";
        let carriers: Vec<_> = listed.iter().filter(|it| !is_stream(it)).collect();
        assert_eq!(carriers.len(), 1);
        assert_eq!((&carriers[0]["http"], &carriers[0]["connection"]), (&json!(2), &Value::Null));
        for stream in listed.iter().filter(is_stream) {
            assert_eq!((&stream["http"], &stream["state"]), (&json!(2), &json!("open")));
            assert_eq!(stream["connection"], carriers[0]["id"]);
            assert_eq!((&stream["messages"], &stream["received_bytes"]), (&json!(1), &json!(11)));
        }
        let samples = seen::scrape(server);
        for (sample, expected) in [
            ("ringecho_connections_open", 1),
            ("ringecho_http2_connections_total", 1),
            ("ringecho_http2_streams_open", 2),
            ("ringecho_http2_streams_total", 2),
            ("ringecho_upgrades_total", 2),
        ] {
            assert_eq!(samples[sample], expected, "{sample}");
        }
        streams.iter_mut().for_each(say_goodbye);
        drop(streams);
        client.leave();
        let ended =
            "ringecho_http2_streams_ended_total{kind=\"closed_by_peer\",close_code=\"1000\"}";
        let samples = seen::scrape_until(server, |samples| samples[ended] == 2);
        assert_eq!(samples["ringecho_http2_streams_open"], 0);
    });
}

#[test]
fn access_log_has_a_line_for_each_stream_with_the_number_of_its_connection() {
    let path = std::env::temp_dir().join(format!("ringecho-http2-{}.log", std::process::id()));
    let observation = Observation {
        access_log: Some(AccessLogTarget::File(path.clone())),
        ..Observation::default()
    };
    let _ = fs::remove_file(&path);
    let server = TestServer::start(&Config { observation, ..config() });
    let mut client = Client::connect(&server);
    let mut stream = client.open();
    expect_echo(&mut stream, "hello");
    say_goodbye(&mut stream);
    drop(stream);
    assert_eq!(client.ask(get("/other")).0.status, StatusCode::NOT_FOUND);
    client.leave();
    server.stop();
    let lines = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [session, refused, connection] = &lines[..] else { panic!("{lines:?}") };
    assert!(lines.iter().all(|line| line["http"] == 2), "{lines:?}");
    assert!(lines.iter().all(|line| line["connection"] == connection["connection"]), "{lines:?}");
    assert_eq!((&session["path"], &session["end"]), (&json!("/ws"), &json!("closed_by_peer")));
    assert_eq!((&refused["path"], &refused["refusal"]), (&json!("/other"), &json!("path_unknown")));
    assert_eq!((&connection["path"], &connection["end"]), (&Value::Null, &json!("http2_closed")));
}
