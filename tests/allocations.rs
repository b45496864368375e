//! What the echo of a message allocates: nothing, but for a frame that is held until it is whole.
//!
//! A test binary of its own, since `allocation_counter` replaces its allocator. It counts each
//! thread by itself.

#[path = "suite/frames.rs"]
#[expect(dead_code, unreachable_pub, reason = "the module is the suite's")]
mod frames;

use std::{
    env,
    io::{Read, Write},
    mem::size_of,
    net::SocketAddr,
    os::unix::net::UnixStream,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use allocation_counter::{AllocationInfo, measure};
use frames::{ClientFrame, binary, ping, pong, text};
use ringecho::{
    config::HugePages,
    connection::{
        ConnectionEnd,
        record::{Record, RequestRecord, printable},
    },
    metrics::Counters,
    plane::engine::{self, Dimensions, Engine, Kernel, Newcomer, Security},
    protocol::{
        OpCode,
        echo::{Compression, Echo, Rules},
        reply::Next,
    },
    tls::{RECORD_PAYLOAD_MAX, TlsSession, default_provider, new_ticketer},
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::{PrivateKeyDer, ServerName},
    version::{TLS12, TLS13},
};

const RULES: Rules = Rules { hold: 4096, frame_size_max: u64::MAX, message_size_max: u64::MAX };

const PAYLOAD_LENS: [usize; 7] = [16, 125, 126, 4096, 16_384, 65_536, 1 << 20];

/// Has `echo` answer `input`, which arrives in pieces of `chunk_len` bytes and counts so many
/// messages; the replies are dropped at once.
fn count(echo: &mut Echo, input: &[u8], chunk_len: usize, messages: u32) -> AllocationInfo {
    let mut input = input.to_vec();
    let mut answered = 0;
    let allocations = measure(|| {
        for chunk in input.chunks_mut(chunk_len) {
            let reply = echo.transform(chunk, &RULES);
            assert_eq!(reply.next, Next::Continue);
            answered += reply.messages;
        }
    });
    assert_eq!(answered, messages);
    allocations
}

fn encode(frames: &[ClientFrame]) -> Vec<u8> {
    frames.iter().flat_map(ClientFrame::encode).collect()
}

/// A text of `len` bytes, characters of several bytes among them.
fn characters(len: usize) -> String {
    let mut text = "žluťoučký kůň 🐎 ".repeat(len / 24 + 1);
    text.truncate(text.floor_char_boundary(len));
    text
}

#[test]
fn whole_frames_allocate_nothing() {
    for len in PAYLOAD_LENS {
        for frame in [binary(vec![7; len]), text(&"a".repeat(len)), text(&characters(len))] {
            // As many as a receive buffer of the server takes, but 16 at most.
            let frames = ((256 << 10) / len).clamp(1, 16);
            let input = encode(&vec![frame; frames]);
            let allocations = count(&mut Echo::new(), &input, input.len(), frames as u32);
            assert_eq!(allocations.count_total, 0, "{frames} frames of {len} bytes");
        }
    }
}

#[test]
fn fragments_and_control_frames_between_them_allocate_nothing() {
    for len in PAYLOAD_LENS {
        let part = characters(len);
        let input = encode(&[
            ClientFrame::new(false, OpCode::Text, &*part),
            ping("is somebody there?"),
            ClientFrame::new(false, OpCode::Continuation, ""),
            pong(""),
            ClientFrame::new(true, OpCode::Continuation, &*part),
        ]);
        let allocations = count(&mut Echo::new(), &input, input.len(), 1);
        assert_eq!(allocations.count_total, 0, "2 fragments of {len} bytes");
    }
}

#[test]
fn frames_that_are_cut_through_allocate_nothing() {
    for frame in [binary(vec![7; 1 << 20]), text(&characters(1 << 20))] {
        for chunk_len in [14, 1000, 65_536] {
            let allocations = count(&mut Echo::new(), &frame.encode(), chunk_len, 1);
            assert_eq!(allocations.count_total, 0, "1 MiB in pieces of {chunk_len} bytes");
        }
    }
}

#[test]
fn header_that_is_cut_allocates_once_for_a_frame_that_is_cut_through() {
    let allocations = count(&mut Echo::new(), &binary(vec![7; 1 << 20]).encode(), 13, 1);
    assert_eq!(allocations.count_total, 1);
    assert_eq!(allocations.bytes_current, 0);
}

#[test]
fn frame_that_is_held_allocates_at_most_twice_and_leaves_nothing_behind() {
    for frame in [binary(vec![7; 4096]), text(&characters(200)), ping("is somebody there?")] {
        for chunk_len in [1, 7, 20] {
            let messages = u32::from(frame.opcode != OpCode::Ping);
            let allocations = count(&mut Echo::new(), &frame.encode(), chunk_len, messages);
            assert!((1..=2).contains(&allocations.count_total), "{allocations:?}");
            assert_eq!(allocations.bytes_current, 0);
            assert!(allocations.bytes_max <= 2 * 4096);
        }
    }
}

const DIMENSIONS: Dimensions = Dimensions {
    receive_buffers: 2,
    receive_buffer_len: 16_384,
    huge_pages: HugePages::Off,
    receive_quota: 0,
    unsent_max: 1 << 20,
    connections_max: 8,
    spin: Duration::ZERO,
};

#[test]
fn turn_of_an_engine_on_a_ring_allocates_nothing() {
    if let Err(error) = engine::probe() {
        let is_needed = env::var_os("RINGECHO_TESTS_NEED_ENGINE").is_some_and(|it| !it.is_empty());
        assert!(!is_needed, "this kernel carries no engine on a ring: {error}");
        return eprintln!("skipped, this kernel carries no engine on a ring: {error}");
    }
    let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
    let engine = Engine::on_ring(DIMENSIONS, RULES, counters.clone()).unwrap();
    check_that_turns_allocate_nothing(engine, &counters);
}

#[test]
fn turn_of_an_engine_on_epoll_allocates_nothing() {
    let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
    let engine = Engine::on_epoll(DIMENSIONS, RULES, counters.clone()).unwrap();
    check_that_turns_allocate_nothing(engine, &counters);
}

fn check_that_turns_allocate_nothing(mut engine: Engine<impl Kernel>, counters: &Counters) {
    const CONNECTIONS: usize = DIMENSIONS.connections_max as usize;
    const ROUNDS: usize = 50;
    let mut peers: Vec<UnixStream> = (0..CONNECTIONS)
        .map(|_| {
            let (peer, connection) = UnixStream::pair().unwrap();
            let adopted = engine.adopt(connection.into(), Compression::None, Vec::new());
            assert!(adopted.is_ok(), "there is room");
            peer
        })
        .collect();
    // Whole frames, some of which reach from one shared buffer into the next.
    let messages = vec![binary(vec![7; 100]); 10];
    let request = encode(&messages);
    let reply: Vec<u8> = messages.iter().flat_map(ClientFrame::encode_echo).collect();
    let mut received = vec![0; reply.len()];
    let mut round = || {
        for peer in &mut peers {
            peer.write_all(&request).unwrap();
        }
        let answered = counters.messages.get() + (CONNECTIONS * messages.len()) as u64;
        while counters.messages.get() < answered {
            engine.turn(false).unwrap();
        }
        // The last replies go out with the next turn.
        engine.turn(false).unwrap();
        for peer in &mut peers {
            peer.read_exact(&mut received).unwrap();
            assert!(received == reply);
        }
    };
    // What the engine keeps grows to its size in the first rounds.
    (0..ROUNDS).for_each(|_| round());
    let allocations = measure(|| (0..ROUNDS).for_each(|_| round()));
    let count = ROUNDS * CONNECTIONS * messages.len();
    assert_eq!(counters.messages.get(), 2 * count as u64);
    // A frame that the end of a buffer cuts is held: at most two allocations for each cut.
    let cuts = ROUNDS * CONNECTIONS * request.len() / 16_384 + 1;
    assert!(allocations.count_total <= 2 * cuts as u64, "{allocations:?} for {count} messages");
}

/// What rustls allocates for a record it gives back, and the engine keeps no buffer for a connection.
#[test]
fn connections_over_tls_keep_nothing_in_the_engine_between_two_rounds() {
    const ROUNDS: usize = 50;
    for version in [&TLS12, &TLS13] {
        let (_config, mut server, mut client, _) = tls_pair(version);
        let (mut records, mut plaintext) = (Vec::new(), Vec::new());
        while client.has_output() || server.has_output() {
            client.take_output(&mut records);
            server.open(&mut records, &mut plaintext).unwrap();
            records.clear();
            server.take_output(&mut records);
            client.open(&mut records, &mut plaintext).unwrap();
            records.clear();
        }
        let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
        let mut engine = Engine::on_epoll(DIMENSIONS, RULES, counters.clone()).unwrap();
        let (mut peer, connection) = UnixStream::pair().unwrap();
        let newcomer = Newcomer {
            descriptor: connection.into(),
            compression: Compression::None,
            early: Vec::new(),
            record: None,
            security: Security::Session(server.into()),
        };
        assert!(engine.take_over(newcomer).is_ok(), "there is room");

        let messages = vec![binary(vec![7; 1000]); 10];
        let request = encode(&messages);
        let reply: Vec<u8> = messages.iter().flat_map(ClientFrame::encode_echo).collect();
        let mut received = vec![0; 16_384];
        let mut round = || {
            records.clear();
            client.seal(&request, &mut records).unwrap();
            peer.write_all(&records).unwrap();
            let answered = counters.messages.get() + messages.len() as u64;
            while counters.messages.get() < answered {
                engine.turn(false).unwrap();
            }
            engine.turn(false).unwrap();
            plaintext.clear();
            while plaintext.len() < reply.len() {
                let len = peer.read(&mut received).unwrap();
                client.open(&mut received[..len], &mut plaintext).unwrap();
            }
            assert!(plaintext == reply);
        };
        (0..ROUNDS).for_each(|_| round());
        let allocations = measure(|| (0..ROUNDS).for_each(|_| round()));
        assert_eq!(allocations.bytes_current, 0, "{allocations:?}");
    }
}

/// docs/operate.md has the figure; beside it, each record has an entry in a map of its worker.
#[test]
fn record_of_a_browser_takes_no_more_than_the_documentation_says() {
    const BYTES_MAX: i64 = 384;
    let agent = b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    let mut record = None;
    let allocations = measure(|| {
        let kept = Rc::new(Record::new(1, SocketAddr::from(([127, 0, 0, 1], 80)).into()));
        kept.asked_for(RequestRecord {
            path: printable(b"/ws"),
            origin: Some(printable(b"https://example.org")),
            agent: Some(printable(agent)),
        });
        record = Some(kept);
    });
    println!("a record takes {} bytes", allocations.bytes_current);
    assert!((1..=BYTES_MAX).contains(&allocations.bytes_current), "{allocations:?}");
}

/// Both sides of a TLS session before its handshake, and what making the server's has allocated.
/// The configuration comes too, since who drops it last frees it.
fn tls_pair(
    version: &'static SupportedProtocolVersion,
) -> (Arc<ServerConfig>, TlsSession, TlsSession, i64) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(default_provider());
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    server.ticketer = new_ticketer().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let client = TlsSession::client(Arc::new(client), name).unwrap();
    let (server, mut session) = (Arc::new(server), None);
    let made = measure(|| session = Some(TlsSession::server(server.clone()).unwrap()));
    (server, session.unwrap(), client, made.bytes_current)
}

/// An idle TLS connection holds no buffer. What rustls holds for its session is named in
/// docs/operate/security.md.
#[test]
fn idle_tls_session_takes_less_than_four_kibibytes() {
    for version in [&TLS12, &TLS13] {
        let (_config, mut server, mut client, mut held) = tls_pair(version);
        let mut count = |what: &mut dyn FnMut()| held += measure(what).bytes_current;
        let (mut to_server, mut to_client) = (Vec::new(), Vec::with_capacity(8 << 10));
        let mut plaintext = Vec::with_capacity(RECORD_PAYLOAD_MAX);
        while client.has_output() || server.has_output() {
            to_server.clear();
            client.take_output(&mut to_server);
            count(&mut || {
                server.open(&mut to_server, &mut plaintext).unwrap();
            });
            to_client.clear();
            count(&mut || server.take_output(&mut to_client));
            client.open(&mut to_client, &mut Vec::new()).unwrap();
        }
        assert!(!server.is_handshaking());
        // A record in two pieces, and its answer.
        let mut ciphertext = Vec::new();
        client.seal(&[7; RECORD_PAYLOAD_MAX], &mut ciphertext).unwrap();
        let (first, second) = ciphertext.split_at_mut(1000);
        count(&mut || {
            server.open(first, &mut plaintext).unwrap();
        });
        count(&mut || {
            server.open(second, &mut plaintext).unwrap();
        });
        assert_eq!(plaintext.len(), RECORD_PAYLOAD_MAX);
        let mut place = vec![0; server.sealed_len(plaintext.len())];
        count(&mut || {
            server.seal_into(&plaintext, &mut place).unwrap();
        });
        assert_eq!(server.held_len(), 0);
        let all = held + i64::try_from(size_of::<TlsSession>()).unwrap();
        println!("{version:?}: {} bytes, and {held} on the heap", size_of::<TlsSession>());
        assert!(all < 4 << 10, "{all}");
    }
}

/// A record costs rustls its allocations, whatever its length; the session adds none.
#[test]
fn tls_record_takes_as_many_allocations_whatever_its_length() {
    for len in [16, 1024, RECORD_PAYLOAD_MAX] {
        let (_config, mut server, mut client, _) = tls_pair(&TLS13);
        let (mut ciphertext, mut plaintext) = (Vec::new(), Vec::with_capacity(RECORD_PAYLOAD_MAX));
        while client.has_output() || server.has_output() {
            client.take_output(&mut ciphertext);
            server.open(&mut ciphertext, &mut plaintext).unwrap();
            ciphertext.clear();
            server.take_output(&mut ciphertext);
            client.open(&mut ciphertext, &mut plaintext).unwrap();
            ciphertext.clear();
        }
        client.seal(&vec![7; len], &mut ciphertext).unwrap();
        let mut place = vec![0; server.sealed_len(len)];
        let opening = measure(|| {
            server.open(&mut ciphertext, &mut plaintext).unwrap();
        });
        assert_eq!(plaintext.len(), len);
        let sealing = measure(|| {
            server.seal_into(&plaintext, &mut place).unwrap();
        });
        println!("{len} bytes: {} to open, {} to seal", opening.count_total, sealing.count_total);
        assert!(opening.count_total <= 3 && sealing.count_total <= 3, "{len} bytes");
    }
}
