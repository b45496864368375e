//! What a hostile peer may try over HTTP/2, frame by frame: how its connection or its stream ends, and
//! that others are served.

use std::{
    io::{Read, Write},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use ringecho::{
    config::{Config, Time, Within},
    metrics::Totals,
};
use socket2::SockRef;

use crate::{
    frames::{binary, text},
    http2_peer::{Client, get},
    peer::{Peer, TestServer, config, planes, with_server},
};

// Frame types, a setting, flags and error codes (RFC 9113 §6, §7).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const INITIAL_WINDOW_SIZE: u16 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const FRAME_SIZE_ERROR: u32 = 6;
const CANCEL: u32 = 8;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// So many frames that no bound is above them.
const FLOOD: u32 = 200_000;

fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let len = (payload.len() as u32).to_be_bytes();
    let head = [&len[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// The preface, and the client's SETTINGS frame.
fn beginning(settings: &[(u16, u32)]) -> Vec<u8> {
    let settings: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, settings)].concat()
}

/// A field with a name of the static table (RFC 7541 §6.2.2).
fn known_field(name: u8, value: &str) -> Vec<u8> {
    [&[name, value.len() as u8], value.as_bytes()].concat()
}

fn field(name: &str, value: &str) -> Vec<u8> {
    let (name_len, value_len) = (name.len() as u8, value.len() as u8);
    [&[0, name_len], name.as_bytes(), &[value_len], value.as_bytes()].concat()
}

/// The header block of a GET.
fn get_block(path: &str) -> Vec<u8> {
    [vec![0x82, 0x86], known_field(4, path), known_field(1, "localhost")].concat()
}

/// The header block of an extended CONNECT.
fn connect_block() -> Vec<u8> {
    [
        known_field(2, "CONNECT"),
        field(":protocol", "websocket"),
        vec![0x86],
        known_field(4, "/ws"),
        known_field(1, "localhost"),
        field("sec-websocket-version", "13"),
    ]
    .concat()
}

fn headers(stream: u32, flags: u8, block: impl AsRef<[u8]>) -> Vec<u8> {
    frame(HEADERS, flags, stream, block)
}

fn connect(stream: u32) -> Vec<u8> {
    headers(stream, END_HEADERS, connect_block())
}

/// A frame that the server has sent.
struct Received {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// The next frame; none if the connection is over.
fn read_frame(stream: &mut impl Read) -> Option<Received> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let [len_high, len_middle, len_low, kind, flags, id @ ..] = head;
    let len = u32::from_be_bytes([0, len_high, len_middle, len_low]);
    let mut payload = vec![0; len as usize];
    stream.read_exact(&mut payload).ok()?;
    Some(Received { kind, flags, stream: u32::from_be_bytes(id), payload })
}

fn error_code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

/// Reads until the server says that the connection is over, and returns why; none if it ends without.
fn read_goaway(stream: &mut impl Read) -> Option<u32> {
    loop {
        let frame = read_frame(stream)?;
        if frame.kind == GOAWAY {
            return Some(error_code(&frame.payload[4..]));
        }
    }
}

/// Reads until the server resets this stream, and returns why.
fn read_reset(peer: &mut Peer, stream: u32) -> u32 {
    loop {
        let frame = read_frame(&mut peer.stream).expect("a frame");
        assert!(frame.kind != GOAWAY, "the connection is over");
        if frame.kind == RST_STREAM && frame.stream == stream {
            return error_code(&frame.payload);
        }
    }
}

/// Reads until the server has answered on this stream; the payload of the frame.
fn read_headers(peer: &mut Peer, stream: u32) -> Vec<u8> {
    loop {
        let frame = read_frame(&mut peer.stream).expect("a frame");
        assert!(![GOAWAY, RST_STREAM].contains(&frame.kind), "an end");
        if frame.kind == HEADERS && frame.stream == stream {
            assert!(frame.flags & END_HEADERS != 0);
            return frame.payload;
        }
    }
}

/// Sends what begins, and then one piece after another until the server says that the connection is
/// over; returns why. What the server sends is read meanwhile.
fn flood(
    server: &TestServer,
    begin: impl AsRef<[u8]>,
    piece: impl Fn(u32) -> Vec<u8>,
) -> Option<u32> {
    let mut peer = server.connect();
    peer.send(beginning(&[]));
    peer.send(begin);
    let is_over = AtomicBool::new(false);
    let mut reader = peer.stream.try_clone().unwrap();
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let code = read_goaway(&mut reader);
            is_over.store(true, Relaxed);
            code
        });
        for at in 0..FLOOD {
            if is_over.load(Relaxed) || peer.stream.write_all(&piece(at)).is_err() {
                break;
            }
        }
        assert!(reading.is_finished() || is_over.load(Relaxed) || peer.has_received());
        reading.join().unwrap()
    })
}

/// Runs an attack on each data plane and driver. Meanwhile connections of both versions of HTTP are
/// served; then what was counted is checked, for the connections that were attacked by.
fn attacked(config: &Config, attack: impl Fn(&TestServer), check: impl Fn(&Totals)) {
    for config in planes(config) {
        let server = TestServer::start(&config);
        let mut plain = server.open();
        let mut client = Client::connect(&server);
        let mut stream = client.open();
        attack(&server);
        let message = text("still here");
        plain.send(message.encode());
        plain.expect(message.encode_echo());
        stream.send(message.encode());
        stream.expect(message.encode_echo());
        drop(stream);
        client.leave();
        drop(plain);
        let totals = server.stop();
        assert_eq!(totals.accepted, totals.ended_count(), "{totals:?}");
        let streams_ended: u64 = totals.streams_ended.iter().map(|(_, count)| count).sum();
        assert_eq!(totals.streams, streams_ended, "{totals:?}");
        check(&totals);
    }
}

fn count(counts: &[(&'static str, u64)], name: &str) -> u64 {
    counts.iter().find(|it| it.0 == name).map_or(0, |it| it.1)
}

/// One connection failed, for this.
fn failed(totals: &Totals, error: &str) {
    assert_eq!(count(&totals.ended, "http2_failed"), 1, "{totals:?}");
    assert_eq!(count(&totals.http2_errors, error), 1, "{totals:?}");
}

fn is_calmed(begin: impl AsRef<[u8]>, piece: impl Fn(u32) -> Vec<u8>) {
    attacked(
        &config(),
        |server| {
            let code = flood(server, &begin, &piece);
            // It may have been reset before it could be read.
            assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
        },
        |totals| failed(totals, "enhance_your_calm"),
    );
}

#[test]
fn rapid_resets_end_their_connection() {
    let cancel = CANCEL.to_be_bytes();
    is_calmed(b"", |at| {
        let stream = 2 * at + 1;
        [
            headers(stream, END_HEADERS | END_STREAM, get_block("/")),
            frame(RST_STREAM, 0, stream, cancel),
        ]
        .concat()
    });
    // WebSockets cost the server more.
    is_calmed(b"", |at| {
        let stream = 2 * at + 1;
        [connect(stream), frame(RST_STREAM, 0, stream, cancel)].concat()
    });
}

/// "`MadeYouReset`": the server resets streams for what the peer does, and goes on with them.
#[test]
fn resets_that_the_server_is_made_to_send_end_their_connection() {
    is_calmed(b"", |at| {
        let stream = 2 * at + 1;
        let too_much = frame(WINDOW_UPDATE, 0, stream, ((1_u32 << 31) - 1).to_be_bytes());
        [connect(stream), too_much].concat()
    });
    is_calmed(b"", |at| {
        let stream = 2 * at + 1;
        // A request that needs a path has none.
        headers(stream, END_HEADERS | END_STREAM, [0x82, 0x86])
    });
}

#[test]
fn streams_beyond_the_bound_that_come_again_and_again_end_their_connection() {
    is_calmed(b"", |at| connect(2 * at + 1));
}

#[test]
fn header_block_without_an_end_ends_its_connection() {
    let begin = headers(1, 0, get_block("/"));
    is_calmed(&begin, |_| frame(CONTINUATION, 0, 1, [0x40, 1, b'a', 1, b'b']));
    // Empty ones as well.
    is_calmed(&begin, |_| frame(CONTINUATION, 0, 1, b""));
}

#[test]
fn frames_that_carry_nothing_end_their_connection_when_there_are_too_many() {
    is_calmed(b"", |_| frame(PING, 0, 0, [0; 8]));
    is_calmed(b"", |_| frame(PING, 1, 0, [0; 8]));
    is_calmed(b"", |_| frame(SETTINGS, 0, 0, b""));
    is_calmed(b"", |_| frame(SETTINGS, 0, 0, [0, 3, 0, 0, 0, 1]));
    is_calmed(b"", |at| frame(PRIORITY, 0, 2 * at + 1, [0, 0, 0, 0, 7]));
    is_calmed(b"", |_| frame(0xee, 0, 0, b"unknown"));
    is_calmed(b"", |_| frame(WINDOW_UPDATE, 0, 0, 1_u32.to_be_bytes()));
}

#[test]
fn empty_data_frames_end_their_connection_when_there_are_too_many() {
    is_calmed(connect(1), |_| frame(DATA, 0, 1, b""));
    // Nothing but padding.
    is_calmed(connect(1), |_| frame(DATA, 8, 1, [3, 0, 0, 0]));
}

/// A table that the peer fills with one large field, which it then names by one byte, again and again.
fn bomb(times: usize) -> Vec<u8> {
    let value_len = 3000_usize;
    // The length needs three bytes (RFC 7541 §5.1).
    let rest = value_len - 127;
    let len = [127, (rest % 128 + 128) as u8, (rest / 128) as u8];
    let large = [&[0x40, 1, b'a'], &len[..], &vec![b'x'; value_len]].concat();
    [get_block("/"), large, vec![0x80 | 0x3e; times]].concat()
}

#[test]
fn header_lists_are_bounded_when_they_are_decompressed() {
    attacked(
        &config(),
        |server| {
            let mut peer = server.connect();
            peer.send(beginning(&[]));
            // 431, as a literal or an index, has no index in the static table.
            peer.send(headers(1, END_HEADERS | END_STREAM, bomb(6)));
            let block = read_headers(&mut peer, 1);
            assert!(block.windows(2).any(|it| it == b"43") || !block.is_empty());
            peer.send(headers(3, END_HEADERS | END_STREAM, get_block("/healthz")));
            read_headers(&mut peer, 3);
            // Many times the bound.
            peer.send(headers(5, END_HEADERS | END_STREAM, bomb(5000)));
            let code = read_goaway(&mut peer.stream);
            assert!([Some(ENHANCE_YOUR_CALM), Some(COMPRESSION_ERROR)].contains(&code), "{code:?}");
        },
        |totals| assert_eq!(count(&totals.ended, "http2_failed"), 1, "{totals:?}"),
    );
}

#[test]
fn header_block_that_comes_slowly_ends_at_the_deadline_of_a_request() {
    let time =
        Time { handshake_timeout: Within::new(Duration::from_secs(1)).unwrap(), ..Time::default() };
    let check = |totals: &Totals| {
        assert_eq!(count(&totals.ended, "refused"), 1, "{totals:?}");
        assert_eq!(count(&totals.refused, "head_timed_out"), 1, "{totals:?}");
    };
    attacked(
        &Config { time, ..config() },
        |server| {
            let mut peer = server.connect();
            peer.send(beginning(&[]));
            let block = headers(1, END_HEADERS | END_STREAM, get_block("/"));
            for byte in &block[..block.len() - 1] {
                if peer.stream.write_all(&[*byte]).is_err() || peer.stream.flush().is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(150));
            }
            peer.read_to_close_or_reset();
        },
        check,
    );
}

/// The peer gives the server no room to answer in.
#[test]
fn stream_whose_peer_gives_no_window_ends_after_the_write_timeout() {
    let time =
        Time { write_timeout: Within::new(Duration::from_secs(1)).unwrap(), ..Time::default() };
    attacked(
        &Config { time, ..config() },
        |server| {
            let mut peer = server.connect();
            peer.send(beginning(&[(INITIAL_WINDOW_SIZE, 0)]));
            peer.send(connect(1));
            read_headers(&mut peer, 1);
            peer.send(frame(DATA, 0, 1, binary("unanswered").encode()));
            assert_eq!(read_reset(&mut peer, 1), CANCEL);
            // The connection goes on.
            peer.send(headers(3, END_HEADERS | END_STREAM, get_block("/other")));
            read_headers(&mut peer, 3);
        },
        |totals| assert_eq!(count(&totals.streams_ended, "write_timeout"), 1, "{totals:?}"),
    );
}

/// The peer asks for the page again and again, and reads nothing of it.
#[test]
fn connection_whose_peer_reads_nothing_ends_after_the_write_timeout() {
    let time =
        Time { write_timeout: Within::new(Duration::from_secs(1)).unwrap(), ..Time::default() };
    attacked(
        &Config { time, ..config() },
        |server| {
            let mut peer = server.connect();
            peer.send(beginning(&[(INITIAL_WINDOW_SIZE, (1 << 31) - 1)]));
            peer.send(frame(WINDOW_UPDATE, 0, 0, (1_u32 << 30).to_be_bytes()));
            let requests: Vec<u8> = (0..1000)
                .flat_map(|at| headers(2 * at + 1, END_HEADERS | END_STREAM, get_block("/")))
                .collect();
            let _ = peer.stream.write_all(&requests);
            while peer.stream.write_all(&frame(PING, 0, 0, [0; 8])).is_ok() {
                thread::sleep(Duration::from_millis(10));
            }
        },
        |totals| {
            let ended = |kind| count(&totals.ended, kind);
            assert_eq!(ended("write_timeout") + ended("http2_failed"), 1, "{totals:?}");
        },
    );
}

#[test]
fn peer_that_sends_more_than_its_window_ends_its_stream_or_its_connection() {
    attacked(
        &config(),
        |server| {
            let mut peer = server.connect();
            peer.send(beginning(&[(INITIAL_WINDOW_SIZE, 0)]));
            peer.send(connect(1));
            read_headers(&mut peer, 1);
            // Nothing is read, since nothing may be answered.
            let data = frame(DATA, 0, 1, vec![0x81; 16 << 10]);
            while peer.stream.write_all(&data).is_ok() && !peer.has_received() {
                thread::yield_now();
            }
            let code = loop {
                let frame = read_frame(&mut peer.stream).expect("a frame");
                match frame.kind {
                    RST_STREAM => break error_code(&frame.payload),
                    GOAWAY => break error_code(&frame.payload[4..]),
                    _ => {}
                }
            };
            assert!([FLOW_CONTROL_ERROR, CANCEL].contains(&code), "{code}");
        },
        |_| {},
    );
}

#[test]
fn frames_that_are_none_end_their_connection_with_the_code_for_it() {
    for (bytes, code, name) in [
        (frame(DATA, 0, 1, b"of no stream"), PROTOCOL_ERROR, "protocol_error"),
        // RFC 9113 (§6.7) wants FRAME_SIZE_ERROR here; `h2` answers it so.
        (frame(PING, 0, 0, b"short"), PROTOCOL_ERROR, "protocol_error"),
        (frame(PING, 0, 0, vec![0; 20_000]), FRAME_SIZE_ERROR, "frame_size_error"),
        (frame(WINDOW_UPDATE, 0, 0, [0; 4]), PROTOCOL_ERROR, "protocol_error"),
        (frame(CONTINUATION, 0, 1, b""), PROTOCOL_ERROR, "protocol_error"),
        (headers(2, END_HEADERS, get_block("/")), PROTOCOL_ERROR, "protocol_error"),
        // RFC 9113 (§4.3) wants COMPRESSION_ERROR here.
        (headers(1, END_HEADERS, [0xff; 20]), PROTOCOL_ERROR, "protocol_error"),
    ] {
        attacked(
            &config(),
            |server| {
                let mut peer = server.connect();
                peer.send(beginning(&[]));
                peer.send(&bytes);
                assert_eq!(read_goaway(&mut peer.stream), Some(code), "{name}");
                peer.read_to_close_or_reset();
            },
            |totals| failed(totals, name),
        );
    }
}

/// RFC 9113 (§8.2.2): what HTTP/1.1 upgrades by does not exist here.
#[test]
fn request_with_the_header_fields_of_an_upgrade_is_malformed() {
    attacked(
        &config(),
        |server| {
            let mut peer = server.connect();
            peer.send(beginning(&[]));
            let block = [
                get_block("/ws"),
                field("connection", "Upgrade"),
                field("upgrade", "websocket"),
                field("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                field("sec-websocket-version", "13"),
            ];
            peer.send(headers(1, END_HEADERS | END_STREAM, block.concat()));
            assert_eq!(read_reset(&mut peer, 1), PROTOCOL_ERROR);
            peer.send(headers(3, END_HEADERS | END_STREAM, get_block("/healthz")));
            read_headers(&mut peer, 3);
        },
        |totals| assert_eq!(count(&totals.ended, "http2_failed"), 0, "{totals:?}"),
    );
}

/// A connection with many busy streams beside plain ones, which all have their turns.
#[test]
fn connection_with_many_busy_streams_does_not_starve_others() {
    const STREAMS: usize = 100;
    attacked(
        &config(),
        |server| {
            let done = AtomicBool::new(false);
            let mut peer = server.connect();
            peer.send(beginning(&[(INITIAL_WINDOW_SIZE, (1 << 31) - 1)]));
            peer.send(frame(WINDOW_UPDATE, 0, 0, ((1_u32 << 31) - 1 - 65_535).to_be_bytes()));
            let ids = (0..STREAMS as u32).map(|at| 2 * at + 1);
            for id in ids.clone() {
                peer.send(connect(id));
            }
            let mut reader = peer.stream.try_clone().unwrap();
            let mut plain: Vec<Peer> = (0..20).map(|_| server.open()).collect();
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut received = vec![0; 64 << 10];
                    while reader.read(&mut received).is_ok_and(|len| len > 0) {}
                });
                scope.spawn(|| {
                    let message = binary(vec![7; 1000]).encode();
                    let round: Vec<u8> = ids.flat_map(|id| frame(DATA, 0, id, &message)).collect();
                    while !done.load(Relaxed) {
                        peer.stream.write_all(&round).expect("the server reads");
                    }
                    let _ = peer.stream.shutdown(std::net::Shutdown::Both);
                });
                let message = text("mine");
                for _ in 0..5 {
                    for peer in &mut plain {
                        peer.send(message.encode());
                    }
                    for peer in &mut plain {
                        peer.expect(message.encode_echo());
                    }
                }
                done.store(true, Relaxed);
            });
        },
        |_| {},
    );
}

/// The health of the server is told over HTTP/2 whatever others do to it.
#[test]
fn flood_of_requests_is_answered_and_no_end_of_its_connection() {
    attacked(
        &config(),
        |server| {
            let mut client = Client::connect(server);
            for _ in 0..1000 {
                assert_eq!(client.ask(get("/healthz")).1, "ok\n");
            }
            client.leave();
        },
        |totals| assert_eq!(count(&totals.streams_ended, "page_served"), 1000, "{totals:?}"),
    );
}

/// The server waits for room to write while it waits for more to read: all windows are open, and the
/// client's socket takes little.
#[test]
fn peer_that_reads_late_gets_everything() {
    const STREAMS: u32 = 100;
    const MESSAGES: usize = 4;
    with_server(&config(), |server| {
        let mut peer = server.connect();
        SockRef::from(&peer.stream).set_recv_buffer_size(128 << 10).unwrap();
        let message = binary(vec![7; 15 << 10]);
        let mut sent = beginning(&[(INITIAL_WINDOW_SIZE, 1 << 30)]);
        sent.extend(frame(WINDOW_UPDATE, 0, 0, (1_u32 << 30).to_be_bytes()));
        for stream in (1..).step_by(2).take(STREAMS as usize) {
            sent.extend(connect(stream));
            sent.extend(frame(DATA, 0, stream, message.encode()).repeat(MESSAGES));
        }
        thread::scope(|scope| {
            scope.spawn(|| (&peer.stream).write_all(&sent).expect("the server reads"));
            // Meanwhile it answers what it can.
            thread::sleep(Duration::from_millis(200));
            let mut left = STREAMS as usize * MESSAGES * message.encode_echo().len();
            while left > 0 {
                let received = read_frame(&mut &peer.stream).expect("a frame");
                left -= if received.kind == DATA { received.payload.len() } else { 0 };
            }
        });
        let last = text("and now");
        peer.send(frame(DATA, 0, 1, last.encode()));
        while read_frame(&mut peer.stream).expect("a frame").payload != last.encode_echo() {}
    });
}
