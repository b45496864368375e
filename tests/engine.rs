//! The engine on the real kernel, by `io_uring` and by epoll, in a process of its own, whose
//! descriptors can be counted.

use std::{
    env, fs,
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use ringecho::{
    config::{HugePages, Time},
    connection::{
        ConnectionEnd,
        clock::{Deadlines, Tick},
    },
    metrics::{Counters, Totals},
    plane::engine::{self, Dimensions, Engine, Kernel},
    protocol::{
        OpCode,
        echo::{Compression, Rules},
        frame_header::FrameHeader,
    },
};

/// How many connections there are if the variable CONNECTIONS does not say it. An emulated kernel
/// takes milliseconds for each.
const CONNECTIONS_DEFAULT: u64 = 100_000;

/// At most this many connections are open at a time.
const OPEN_MAX: usize = 64;

/// Turns in which what arrived is received, answered, and the answer sent.
const TURNS: usize = 3;

/// An engine, and what has become of its connections.
struct Stage<K> {
    engine: Engine<K>,
    counters: Arc<Counters>,
    rng: SmallRng,
    now: Tick,
}

const DIMENSIONS: Dimensions = Dimensions {
    receive_buffers: 4,
    receive_buffer_len: 4096,
    huge_pages: HugePages::Off,
    receive_quota: 2048,
    unsent_max: 16 << 10,
    connections_max: 2 * OPEN_MAX as u32,
    spin: Duration::ZERO,
};

const RULES: Rules = Rules { hold: 1000, frame_size_max: u64::MAX, message_size_max: u64::MAX };

impl<K: Kernel> Stage<K> {
    fn new(engine: Engine<K>, counters: Arc<Counters>) -> Self {
        Self { engine, counters, rng: SmallRng::seed_from_u64(6455), now: Tick::default() }
    }

    /// A connection that has said something, or a part of it, perhaps with its request head.
    fn begin(&mut self) -> UnixStream {
        let (peer, connection) = UnixStream::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        let said = self.words();
        let early_len = if self.rng.random() { 0 } else { self.rng.random_range(0..=said.len()) };
        let (early, rest) = said.split_at(early_len);
        assert!(
            self.engine.adopt(connection.into(), Compression::None, early.to_vec()).is_ok(),
            "there is room"
        );
        self.counters.accepted.add(1);
        send(&peer, rest);
        peer
    }

    /// A few frames, the last of which may be a Close, a violation, or cut.
    fn words(&mut self) -> Vec<u8> {
        let mut words = Vec::new();
        for _ in 0..self.rng.random_range(0..4) {
            let payload_len = if self.rng.random_ratio(1, 50) { 300_000 } else { 2000 };
            let payload_len = self.rng.random_range(0..payload_len);
            words.extend(frame(true, OpCode::Binary, payload_len));
        }
        match self.rng.random_range(0..4) {
            0 => words.extend(frame(true, OpCode::Close, 0)),
            1 => words.extend(frame(false, OpCode::Ping, 0)),
            2 => words.truncate(self.rng.random_range(0..=words.len())),
            _ => {}
        }
        words
    }

    /// Lets a peer say or hear something, or end; gives it back unless it is gone.
    fn act(&mut self, mut peer: UnixStream) -> Option<UnixStream> {
        match self.rng.random_range(0..5) {
            // With replies unread this is a reset.
            0 => return None,
            1 => _ = peer.shutdown(Shutdown::Write),
            2 => send(&peer, &self.words()),
            3 => match peer.read(&mut [0; 8192]) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return None,
            },
            _ => _ = peer.shutdown(Shutdown::Both),
        }
        Some(peer)
    }

    fn turn(&mut self) {
        for _ in 0..TURNS {
            self.engine.turn(false).unwrap();
        }
        for departure in self.engine.departures() {
            self.counters.ended(departure.end.kind()).add(1);
        }
    }

    fn sweep(&mut self) {
        self.now = self.now.next();
        self.engine.sweep(self.now, &Deadlines::new(&Time::default()));
    }
}

/// Where this kernel can carry an engine on a ring; elsewhere the test is skipped, or fails if the
/// variable `RINGECHO_TESTS_NEED_ENGINE` is set.
#[test]
fn connections_leave_nothing_behind_however_they_end_on_a_ring() {
    let skip = |error: &engine::Lack| {
        let is_needed = env::var_os("RINGECHO_TESTS_NEED_ENGINE").is_some_and(|it| !it.is_empty());
        assert!(!is_needed, "this kernel carries no engine on a ring: {error}");
        eprintln!("skipped: {error}");
    };
    let _alone = alone();
    let Ok(probe) = engine::probe().inspect_err(skip) else { return };
    let receive_quota = if probe.limits_receives { DIMENSIONS.receive_quota } else { 0 };
    let dimensions = Dimensions { receive_quota, ..DIMENSIONS };
    let counters = counters();
    let engine = Engine::on_ring(dimensions, RULES, counters.clone()).unwrap();
    check_that_connections_leave_nothing_behind(Stage::new(engine, counters));
}

#[test]
fn connections_leave_nothing_behind_however_they_end_on_epoll() {
    let (_alone, counters) = (alone(), counters());
    let engine = Engine::on_epoll(DIMENSIONS, RULES, counters.clone()).unwrap();
    check_that_connections_leave_nothing_behind(Stage::new(engine, counters));
}

fn counters() -> Arc<Counters> {
    Arc::new(Counters::new(&ConnectionEnd::KINDS))
}

/// Keeps other tests of this process from opening descriptors.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_that_connections_leave_nothing_behind(mut stage: Stage<impl Kernel>) {
    let connections = connection_count();
    let descriptors = descriptor_count();
    let mut open = Vec::new();
    for connection in 0..connections {
        open.push(stage.begin());
        if open.len() == OPEN_MAX {
            let peer = open.swap_remove(stage.rng.random_range(0..OPEN_MAX));
            let stays = stage.act(peer);
            open.extend(stays);
        }
        open.truncate(OPEN_MAX - 1);
        stage.turn();
        if connection % 1000 == 0 {
            stage.sweep();
        }
    }
    drop(open);
    while stage.engine.connection_count() > 0 {
        stage.turn();
    }
    // What has been cancelled reports once more.
    stage.turn();
    assert!(stage.engine.is_idle());
    assert_eq!(descriptor_count(), descriptors);

    let mut totals = Totals::default();
    totals.add(&stage.counters);
    assert_eq!((totals.accepted, totals.ended_count()), (connections, connections), "{totals:?}");
    for kind in ["closed_by_peer", "failed", "peer_vanished", "broken"] {
        assert!(totals.ended.iter().any(|(ended, _)| *ended == kind), "none {kind}: {totals:?}");
    }
}

fn connection_count() -> u64 {
    env::var("CONNECTIONS").map_or(CONNECTIONS_DEFAULT, |count| count.parse().unwrap())
}

/// Sends as much as the connection takes.
fn send(mut peer: &UnixStream, mut bytes: &[u8]) {
    while let Ok(len @ 1..) = peer.write(bytes) {
        bytes = &bytes[len..];
    }
}

/// A client's frame of zeros, whose masking key is zero.
fn frame(fin: bool, opcode: OpCode, payload_len: usize) -> Vec<u8> {
    let header = FrameHeader {
        fin,
        rsv1: false,
        opcode,
        masking_key: Some([0; 4]),
        payload_len: payload_len as u64,
    };
    let mut bytes = vec![0; header.encoded_len()];
    header.encode(&mut bytes);
    bytes.resize(bytes.len() + payload_len, 0);
    bytes
}

fn descriptor_count() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
