//! Records over real connections, with rustls' own client: cut anywhere, broken, and with other keys.
//! On each data plane, and where the kernel opens and seals them (kTLS).

use std::{
    env,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
};

use ringecho::{
    config::{Config, Ktls, Network, Tls},
    metrics::Totals,
    tls::ktls,
};
use rustls::{
    SupportedCipherSuite,
    crypto::ring::cipher_suite::{
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256,
        TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    },
};
use tungstenite::{
    Message, WebSocket,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::{
    frames::{ClientFrame, binary, ping, text},
    peer::{PATIENCE, TestServer, config_with_workers, planes},
    tls_client::{self, TlsStream},
};

type Client = WebSocket<TlsStream>;

const SUITES: [SupportedCipherSuite; 6] = [
    TLS13_AES_128_GCM_SHA256,
    TLS13_AES_256_GCM_SHA384,
    TLS13_CHACHA20_POLY1305_SHA256,
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// One suite of each version.
const TWO_SUITES: [SupportedCipherSuite; 2] = [SUITES[0], SUITES[3]];

fn config(ktls: Ktls) -> Config {
    let config = config_with_workers(1);
    let listen = vec!["tls+127.0.0.1:0".parse().unwrap()];
    let network = Network { listen, ..config.network };
    Config { network, tls: Tls { self_signed: true, ktls, ..Tls::default() }, ..config }
}

/// Runs a test on each plane, in user space and in the kernel, and checks how its connections ended.
/// `test` returns the ends that it expects.
fn on_every_plane(test: impl Fn(&TestServer, Ktls) -> Vec<(&'static str, u64)>) {
    let mut ways = vec![Ktls::Off];
    match ktls::probe() {
        Ok(()) => ways.push(Ktls::On),
        Err(error) => {
            let is_needed =
                env::var_os("RINGECHO_TESTS_NEED_KTLS").is_some_and(|it| !it.is_empty());
            assert!(!is_needed, "this kernel speaks no TLS: {error}");
            eprintln!("skipped with kTLS, since this kernel speaks no TLS: {error}");
        }
    }
    for way in ways {
        for config in planes(&config(way)) {
            let server = TestServer::start(&config);
            let expected = test(&server, way);
            let totals: Totals = server.stop();
            let ended: Vec<_> =
                totals.ended.iter().copied().filter(|(_, count)| *count > 0).collect();
            assert_eq!(ended, expected, "{way:?}, {:?}", config.cores);
        }
    }
}

fn open(address: SocketAddr, suite: SupportedCipherSuite) -> Client {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let stream = tls_client::client(tls_client::config(&[suite], false), stream);
    tungstenite::client("wss://localhost/ws", stream).expect("both handshakes succeed").0
}

fn expect_echo(client: &mut Client, message: &Message) {
    client.send(message.clone()).unwrap();
    assert!(client.read().unwrap() == *message, "the echo is the message");
}

/// Closes, and reads to the end: the Close frame's echo, `close_notify`, the end of TCP.
fn close(client: &mut Client) {
    let close = CloseFrame { code: CloseCode::Library(4000), reason: "enough".into() };
    client.close(Some(close.clone())).unwrap();
    assert_eq!(client.read().unwrap(), Message::Close(Some(close)));
    let end = client.read().unwrap_err();
    assert!(matches!(end, tungstenite::Error::ConnectionClosed), "{end}");
    assert_eq!(
        client.get_mut().read_to_end(&mut Vec::new()).unwrap(),
        0,
        "close_notify comes before the end"
    );
}

fn encode(frames: &[ClientFrame]) -> Vec<u8> {
    frames.iter().flat_map(ClientFrame::encode).collect()
}

/// What a client sends to say these bytes.
fn seal(stream: &mut TlsStream, bytes: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    stream.conn.writer().write_all(bytes).unwrap();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut records).unwrap();
    }
    records
}

/// Why nothing more can be read.
fn read_error(stream: &mut TlsStream) -> io::Error {
    stream.read_to_end(&mut Vec::new()).expect_err("the session fails")
}

#[test]
fn messages_of_all_lengths_come_back_with_every_cipher_suite() {
    on_every_plane(|server, _| {
        for suite in SUITES {
            let mut client = open(server.address, suite);
            for len in [0, 1, 125, 126, 16_383, 16_384, 16_385, 65_536, 1 << 20] {
                let payload: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
                expect_echo(&mut client, &Message::binary(payload));
            }
            close(&mut client);
        }
        vec![("closed_by_peer", SUITES.len() as u64)]
    });
}

#[test]
fn frames_come_back_wherever_records_and_segments_are_cut() {
    on_every_plane(|server, _| {
        for suite in TWO_SUITES {
            for (record_len, segment_len) in [(1, 4096), (7, 1000), (3000, 700), (16_384, 30_000)] {
                let mut client = open(server.address, suite);
                let frames: Vec<ClientFrame> = (0..40)
                    .flat_map(|at| {
                        [binary(vec![at; 90 * usize::from(at)]), text("grüße"), ping("?")]
                    })
                    .take(if record_len == 1 { 12 } else { usize::MAX })
                    .collect();
                let stream = client.get_mut();
                let records: Vec<u8> = encode(&frames)
                    .chunks(record_len)
                    .flat_map(|piece| seal(stream, piece))
                    .collect();
                for segment in records.chunks(segment_len) {
                    stream.sock.write_all(segment).unwrap();
                }
                let expected: Vec<u8> = frames.iter().flat_map(ClientFrame::encode_echo).collect();
                let mut received = vec![0; expected.len()];
                stream.read_exact(&mut received).unwrap();
                assert!(received == expected, "records of {record_len} bytes");
                close(&mut client);
            }
        }
        vec![("closed_by_peer", 8)]
    });
}

#[test]
fn record_of_another_session_is_answered_with_an_alert_and_named() {
    on_every_plane(|server, _| {
        for suite in TWO_SUITES {
            let mut client = open(server.address, suite);
            expect_echo(&mut client, &Message::text("before"));
            let stream = client.get_mut();
            let mut records = seal(stream, &encode(&[text("after")]));
            *records.last_mut().unwrap() ^= 1;
            stream.sock.write_all(&records).unwrap();
            let error = read_error(stream);
            assert!(error.to_string().contains("BadRecordMac"), "{error}");
        }
        vec![("tls_failed", 2)]
    });
}

/// The alert is the last record, and there is none before it: rustls has sealed it when the record is
/// known to be bad (docs/decisions.md). The kernel hands out what it has opened before, whose echo goes out
/// unless its send is what is told of the bad record.
#[test]
fn messages_before_a_bad_record_that_came_with_it_are_not_answered_but_with_ktls() {
    on_every_plane(|server, way| {
        for suite in TWO_SUITES {
            let mut client = open(server.address, suite);
            expect_echo(&mut client, &Message::text("before"));
            let stream = client.get_mut();
            let mut records = seal(stream, &encode(&[text("good")]));
            records.extend(seal(stream, &encode(&[text("bad")])));
            *records.last_mut().unwrap() ^= 1;
            stream.sock.write_all(&records).unwrap();
            let mut received = Vec::new();
            let error = stream.read_to_end(&mut received).expect_err("the session fails");
            assert!(error.to_string().contains("BadRecordMac"), "{error}");
            let is_answered = way == Ktls::On && received == b"\x81\x04good";
            assert!(received.is_empty() || is_answered, "{}", received.escape_ascii());
        }
        vec![("tls_failed", 2)]
    });
}

/// The kernel cannot change its keys for us, and a session is not lost in silence.
#[test]
fn keys_can_be_changed_at_any_time_but_not_the_kernels() {
    on_every_plane(|server, way| {
        let mut client = open(server.address, TLS13_AES_256_GCM_SHA384);
        expect_echo(&mut client, &Message::text("before"));
        let mut is_refused = false;
        for _ in 0..3 {
            client.get_mut().conn.refresh_traffic_keys().unwrap();
            client.send(Message::text("after")).unwrap();
            match client.read() {
                Ok(message) => assert_eq!(message, Message::text("after")),
                Err(error) => {
                    assert_eq!(way, Ktls::On, "{error}");
                    assert!(error.to_string().contains("InternalError"), "{error}");
                    is_refused = true;
                    break;
                }
            }
        }
        if is_refused {
            return vec![("tls_failed", 1)];
        }
        close(&mut client);
        vec![("closed_by_peer", 1)]
    });
}

#[test]
fn close_notify_ends_the_connection() {
    on_every_plane(|server, _| {
        for suite in TWO_SUITES {
            let mut client = open(server.address, suite);
            expect_echo(&mut client, &Message::text("before"));
            let stream = client.get_mut();
            stream.conn.send_close_notify();
            stream.conn.complete_io(&mut stream.sock).unwrap();
            // The kernel says nothing of its own.
            let end = stream.read(&mut [0]);
            let is_cut = |error: &io::Error| error.kind() == io::ErrorKind::UnexpectedEof;
            assert!(matches!(&end, Ok(0)) || end.as_ref().is_err_and(is_cut), "{end:?}");
        }
        vec![("peer_vanished", 2)]
    });
}

#[test]
fn client_that_reads_late_gets_every_record() {
    on_every_plane(|server, _| {
        for suite in TWO_SUITES {
            let mut client = open(server.address, suite);
            let payload: Vec<u8> = (0..=u8::MAX).cycle().take(700_000).collect();
            for _ in 0..3 {
                client.send(Message::binary(payload.clone())).unwrap();
            }
            for _ in 0..3 {
                assert!(client.read().unwrap() == Message::binary(payload.clone()));
            }
            close(&mut client);
        }
        vec![("closed_by_peer", 2)]
    });
}
