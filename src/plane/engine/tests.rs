//! The engine on the simulated kernel: 10,000 seeds of random conversations, endings and faults.
//!
//! What a peer must get is what [`Echo`] makes of everything that was received from it, in one
//! piece: the transformer is held against an oracle of its own elsewhere. After every turn the
//! engine checks its invariants, and in the end nothing may be left of any connection.
//!
//! Another 10,000 seeds run on a kernel that fails. There a connection may also break, and the whole
//! engine may die at any point; then every descriptor that it had is closed.
//!
//! Connections over TLS take part in runs of their own, among others: their peer is rustls' client,
//! and what it has sent and got is held to the same.

use std::{
    cell::RefCell,
    env,
    fs::File,
    io::{self, Read},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rustls::{AlertDescription, Error};

use super::{
    Departure, Dimensions, Engine, Interest, Kernel, Newcomer, Security, Wait, probe,
    simulation::{Death, Ending, Farewell, Faults, Peer, Reads, Simulation, World},
    tls_peers::{reveal, secure},
    transfers::UnderWay,
};
use crate::{
    config::{HugePages, Time, Within},
    connection::{
        ConnectionEnd,
        clock::{Deadlines, Tick},
        intake::tcp_info,
        memory_budget::{Holdings, MemoryBudget},
    },
    metrics::Counters,
    protocol::{
        OpCode,
        close_code::encode_close_frame,
        echo::{Compression, Echo, Rules},
        frame_header::FrameHeader,
        masking::unmask,
        reply::Next,
        session::{Goodbye, PING, Session},
    },
    tls::TlsFault,
};

const SEEDS: u64 = 10_000;

/// Handshakes take their time. More seeds are for `RINGECHO_TESTS_TLS_SEEDS`.
const TLS_SEEDS: u64 = 400;

const RULES: Rules = Rules { hold: 200, frame_size_max: u64::MAX, message_size_max: u64::MAX };

const CONNECTIONS_MAX: u32 = 4;

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// A process that another test starts holds a copy of every descriptor, until it runs its program.
const WITNESS_PATIENCE: Duration = Duration::from_secs(10);

/// After so many turns something has starved.
const TURNS_MAX: usize = 20_000;

#[test]
fn every_seed_is_echoed_and_leaves_nothing_behind() {
    for seed in 0..SEEDS {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut run = Run::new(seed);
            run.converse();
            run.check_leftovers();
            for (peer, end) in &run.departed {
                check(peer, *end);
            }
        }));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

#[test]
fn every_seed_on_a_failing_kernel_is_echoed_or_ended_by_name() {
    let mut deaths = 0;
    for seed in 0..SEEDS {
        let mut run = Run::new(seed);
        let faults = Faults::random(&mut run.rng);
        run.world.borrow_mut().faults = faults;
        let outcome = catch_unwind(AssertUnwindSafe(|| run.converse_or_die()));
        deaths += outcome.unwrap_or_else(|_| panic!("seed {seed}: {faults:?}"));
    }
    assert!(deaths > SEEDS / 20 && deaths < SEEDS / 4, "{deaths} deaths");
}

#[test]
fn every_seed_over_tls_is_echoed_and_leaves_nothing_behind() {
    for seed in 0..tls_seeds() {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut run = Run::new(seed);
            run.secured_odds = (2, 3);
            run.converse();
            run.check_leftovers();
            for (peer, end) in &run.departed {
                check(peer, *end);
            }
        }));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

#[test]
fn every_seed_over_tls_on_a_failing_kernel_is_echoed_or_ended_by_name() {
    for seed in 0..tls_seeds() {
        let mut run = Run::new(seed);
        run.secured_odds = (2, 3);
        let faults = Faults::random(&mut run.rng);
        run.world.borrow_mut().faults = faults;
        let outcome = catch_unwind(AssertUnwindSafe(|| run.converse_or_die()));
        assert!(outcome.is_ok(), "seed {seed}: {faults:?}");
    }
}

fn tls_seeds() -> u64 {
    env::var("RINGECHO_TESTS_TLS_SEEDS").map_or(TLS_SEEDS, |seeds| seeds.parse().expect("a number"))
}

/// The kernel has no memory for a reply, when a goodbye waits behind it already or comes later.
#[test]
fn nothing_is_sent_behind_a_reply_that_is_lost() {
    for seed in 0..100 {
        for is_late in [false, true] {
            let mut run = Run::new(seed);
            run.connect_reader_of(100, 1000);
            run.world.borrow_mut().faults = Faults::of_every_send();
            run.engine.turn(false).expect("it goes on");
            if !is_late {
                run.engine.drain();
            }
            run.engine.turn(false).expect("it goes on");
            run.world.borrow_mut().faults = Faults::default();
            run.engine.drain();
            run.turns(50);
            let [(peer, end)] = &run.departed[..] else { panic!("seed {seed}: it is still there") };
            assert_eq!(*end, ConnectionEnd::Broken(io::ErrorKind::OutOfMemory), "seed {seed}");
            assert!(peer.output.is_empty(), "seed {seed}: {:?} behind nothing", peer.output);
        }
    }
}

#[test]
fn goodbye_follows_a_reply_that_is_on_its_way_and_goes_out_short() {
    for seed in 0..100 {
        let mut run = Run::new(seed);
        let (raw, reply) = run.connect_reader_of(100, 1);
        run.turn();
        run.engine.drain();
        run.turn();
        run.world.borrow_mut().peers.get_mut(&raw).expect("it is connected").room = usize::MAX;
        run.turns(50);
        let goodbye = close_frame(Goodbye::Stopping);
        let world = run.world.borrow();
        assert!(world.peers[&raw].output == [reply, goodbye].concat(), "seed {seed}");
    }
}

/// Shares of a drain, with a connection that leaves and one that comes between them.
#[test]
fn connections_are_drained_in_shares_and_none_is_forgotten() {
    for seed in 0..100 {
        let mut run = Run::new(seed);
        let idle = || peer(Vec::new(), Ending::Silence);
        let mut raws: Vec<_> = (0..3).map(|_| run.connect(idle())).collect();
        let drained =
            |run: &Run, raw| run.world.borrow().peers[raw].output == close_frame(Goodbye::Stopping);
        run.turns(50);
        assert_eq!(run.engine.undrained_count(), 3);
        run.engine.drain_some(1);
        assert_eq!(run.engine.undrained_count(), 2);
        raws.push(run.connect(idle()));
        assert_eq!(run.engine.undrained_count(), 3);
        run.engine.drain_some(2);
        run.turns(50);
        assert_eq!(run.engine.undrained_count(), 1);
        let goodbyes = raws.iter().map(|raw| drained(&run, raw)).collect::<Vec<_>>();
        assert_eq!(goodbyes, [true, true, true, false], "seed {seed}");
        run.engine.drain_some(usize::MAX);
        run.engine.drain_some(usize::MAX);
        run.engine.drain();
        run.turns(50);
        assert_eq!(run.engine.undrained_count(), 0);
        assert!(raws.iter().all(|raw| drained(&run, raw)), "seed {seed}");
    }
}

#[test]
fn peer_that_reads_slowly_but_steadily_is_not_silent() {
    const TICKS: usize = 1000;
    for seed in 0..20 {
        let mut run = Run::new(seed);
        let (raw, reply) = run.connect_reader_of(TICKS, 1);
        for _ in 0..TICKS {
            run.turns(5);
            run.sweep();
            let mut world = run.world.borrow_mut();
            world.peers.get_mut(&raw).unwrap_or_else(|| panic!("seed {seed}: given up")).room = 1;
        }
        run.turns(50);
        let world = run.world.borrow();
        let output = &world.peers[&raw].output;
        assert!(output.len() > TICKS / 2 && reply.starts_with(output), "seed {seed}");
    }
}

#[test]
fn closed_connection_departs_by_its_peers_end_alone() {
    for seed in 0..200 {
        for farewell in [Farewell::Ends, Farewell::Follows, Farewell::Breaks] {
            let mut run = Run::new(seed);
            let input = close_and_more(&mut run.rng);
            run.connect(Peer { farewell, reads: Reads::Slowly, ..peer(input, Ending::Close) });
            for _ in 0..TURNS_MAX {
                run.turn();
                if !run.departed.is_empty() {
                    break;
                }
            }
            let [(peer, end)] = &run.departed[..] else {
                panic!("seed {seed}: it has not departed")
            };
            assert_eq!(*end, ConnectionEnd::ClosedByPeer);
            check(peer, *end);
        }
    }
}

#[test]
fn closed_connection_whose_peer_stays_waits_until_the_close_timeout() {
    for seed in 0..50 {
        let mut run = Run::new(seed);
        let input = close_and_more(&mut run.rng);
        run.connect(Peer { farewell: Farewell::Stays, ..peer(input, Ending::Close) });
        run.turns(500);
        assert_eq!(run.engine.connection_count(), 1, "seed {seed}");
        let is_at_rest = (0..TURNS_MAX).any(|_| {
            run.turn();
            !run.engine.is_in_haste()
        });
        assert!(is_at_rest, "seed {seed}: it turns for nothing");
        for _ in 0..100 {
            run.sweep();
            run.turns(20);
        }
        let [(_, end)] = &run.departed[..] else { panic!("seed {seed}: it has not departed") };
        assert_eq!(*end, ConnectionEnd::ClosedByPeer);
    }
}

/// On real kernels, since the simulated one knows no segments.
#[test]
fn close_frame_and_the_servers_end_come_in_one_segment() {
    let counters = || Arc::new(Counters::new(&ConnectionEnd::KINDS));
    let dimensions = Dimensions {
        receive_buffers: 2,
        receive_buffer_len: 4096,
        huge_pages: HugePages::Off,
        receive_quota: 0,
        unsent_max: 4096,
        connections_max: CONNECTIONS_MAX,
        spin: Duration::ZERO,
    };
    check_last_segment(Engine::on_epoll(dimensions, RULES, counters()).unwrap());
    // Whether there must be one is asked by the tests of workers.
    if probe().is_ok() {
        check_last_segment(Engine::on_ring(dimensions, RULES, counters()).unwrap());
    }
}

fn check_last_segment(mut engine: Engine<impl Kernel>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut count_segments = || {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (connection, _) = listener.accept().unwrap();
        let segments = |client: &TcpStream| tcp_info(client).unwrap().tcpi_segs_in;
        let before = segments(&client);
        let early = vec![0x88, 0x80, 0, 0, 0, 0];
        assert!(engine.adopt(connection.into(), Compression::None, early).is_ok());
        for _ in 0..3 {
            engine.turn(false).unwrap();
        }
        let mut output = Vec::new();
        client.read_to_end(&mut output).unwrap();
        assert_eq!(output, [0x88, 0]);
        segments(&client) - before
    };
    // The kernel waits for the end for 200 ms, and this thread may have to wait longer for its turn.
    assert!((0..10).any(|_| count_segments() == 1));
}

/// A run of one seed.
struct Run {
    world: Rc<RefCell<World>>,
    engine: Engine<Simulation>,
    /// What a task waits for.
    waits: Vec<Wait>,
    rng: SmallRng,
    now: Tick,
    time: Time,
    memory: Arc<MemoryBudget>,
    /// Peers that have departed, with how.
    departed: Vec<(Peer, ConnectionEnd)>,
    /// Connections that the engine was to adopt, and those that it has given back.
    accepted: usize,
    given_back: usize,
    /// How many of so many connections are over TLS.
    secured_odds: (u32, u32),
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let kernel = Simulation::new(!seed);
        let world = kernel.0.clone();
        let dimensions = Dimensions {
            receive_buffers: 1 << rng.random_range(0..4),
            receive_buffer_len: rng.random_range(16..2000),
            huge_pages: HugePages::Off,
            receive_quota: if rng.random() { 0 } else { rng.random_range(1..2000) },
            unsent_max: rng.random_range(0..4000),
            connections_max: CONNECTIONS_MAX,
            spin: Duration::ZERO,
        };
        let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
        let engine = Engine::with_kernel(kernel, dimensions, RULES, counters).expect("memory");
        let memory = MemoryBudget::new(u64::MAX, 1);
        let (waits, departed) = (Vec::new(), Vec::new());
        let (now, accepted, given_back) = (Tick::default(), 0, 0);
        let keep_alive_interval = Within::new(KEEP_ALIVE_INTERVAL).unwrap();
        let time = Time { keep_alive_interval, ..Time::default() };
        let secured_odds = (0, 1);
        Self {
            world,
            engine,
            waits,
            rng,
            now,
            time,
            memory,
            departed,
            accepted,
            given_back,
            secured_odds,
        }
    }

    /// A new connection, whose peer has sent one message with the request head, and has room for
    /// no more than `room` bytes of the reply, which is returned with the descriptor.
    fn connect_reader_of(&mut self, payload_len: usize, room: usize) -> (RawFd, Vec<u8>) {
        let input = frame(&mut self.rng, true, OpCode::Binary, vec![b'?'; payload_len]);
        let (replies, _) = reference(&input);
        let peer =
            Peer { taken: input.len(), reads: Reads::Never, room, ..peer(input, Ending::Silence) };
        (self.connect(peer), replies.concat())
    }

    /// A new connection, some of whose bytes may have come with the request head.
    fn connect(&mut self, peer: Peer) -> RawFd {
        let (descriptor, witness) = UnixStream::pair().expect("descriptors");
        witness.set_read_timeout(Some(WITNESS_PATIENCE)).expect("a socket");
        let descriptor = OwnedFd::from(descriptor);
        let raw = descriptor.as_raw_fd();
        let mut peer = Peer { witness: Some(witness), ..peer };
        let refused_before = self.world.borrow().refused;
        self.accepted += 1;
        let (secured, all) = self.secured_odds;
        let (security, early) = if secured > 0 && self.rng.random_ratio(secured, all) {
            let (tls, early) = secure(&mut self.rng, &mut peer);
            (Security::Session(tls), early)
        } else {
            (Security::None, peer.input[..peer.taken].to_vec())
        };
        self.world.borrow_mut().peers.insert(raw, peer);
        let is_secured = matches!(security, Security::Session(_));
        let compression = Compression::None;
        let newcomer =
            Newcomer { descriptor, compression, early: early.clone(), record: None, security };
        if let Err(given_back) = self.engine.take_over(newcomer) {
            assert_eq!(given_back.descriptor.as_raw_fd(), raw);
            self.world.borrow_mut().peers.remove(&raw).expect("it was just inserted");
            assert_eq!(given_back.early, early, "early bytes are given back");
            let has_session = matches!(given_back.security, Security::Session(_));
            assert_eq!(has_session, is_secured, "and so is its TLS session");
            let is_full = self.engine.connection_count() == CONNECTIONS_MAX as usize;
            assert!(is_full || self.world.borrow().refused > refused_before);
            self.given_back += 1;
        }
        raw
    }

    fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn();
        }
    }

    fn turn(&mut self) {
        if self.rng.random_ratio(1, 10) {
            self.run_until_something_is_over();
        } else {
            or_die(self.engine.turn(false));
        }
        for Departure { descriptor, end, .. } in self.engine.departures() {
            let mut world = self.world.borrow_mut();
            let raw = descriptor.as_raw_fd();
            assert!(!world.slots.values().any(|held| *held == raw), "it is still registered");
            let mut peer = world.peers.remove(&raw).expect("it departs once");
            check_tls(&mut peer, end);
            self.departed.push((peer, end));
        }
    }

    /// A run as a worker has it, whose tasks wait for something.
    fn run_until_something_is_over(&mut self) {
        let wait = if self.rng.random() {
            self.engine.wait_until_passed(Duration::ZERO)
        } else {
            let descriptor = File::open("/dev/null").expect("a descriptor");
            self.engine.wait_for(descriptor.as_fd(), Interest::Readable)
        };
        self.waits.push(wait);
        or_die(self.engine.run());
        let mut context = Context::from_waker(Waker::noop());
        let Self { engine, waits, rng, .. } = self;
        // A task may lose its interest before its wait is over.
        waits.retain(|wait| {
            let is_over = engine.poll_wait(*wait, &mut context).is_ready();
            let ends = is_over || rng.random_ratio(1, 4);
            if ends {
                engine.end_wait(*wait);
            }
            !ends
        });
    }

    /// A sweep whose clock has jumped now and then: it stands still, or is many ticks ahead.
    fn sweep_after_a_jump(&mut self) {
        let jump = match self.rng.random_range(0..40) {
            0 => return self.sweep_again(),
            1 => self.rng.random_range(1..100),
            _ => 0,
        };
        for _ in 0..jump {
            self.now = self.now.next();
        }
        self.sweep();
    }

    fn sweep(&mut self) {
        self.now = self.now.next();
        self.sweep_again();
    }

    /// Another sweep in the same tick.
    fn sweep_again(&mut self) {
        self.engine.sweep(self.now, &Deadlines::new(&self.time));
    }

    /// Sets deadlines that some connections meet, and a memory budget that they may exceed.
    fn set_bounds(&mut self) {
        let max = if self.rng.random() { u64::MAX } else { self.rng.random_range(0..4000) };
        self.memory = MemoryBudget::new(max, 1);
        self.engine.work.holdings = Holdings::new(self.memory.shares(0).engine);
        let Self { rng, time, .. } = self;
        time.write_timeout = seconds(rng.random_range(1..40));
        time.idle_timeout = seconds(rng.random_range(1..20) * u64::from(rng.random::<bool>()));
        time.lifetime_max = seconds(rng.random_range(1..100) * u64::from(rng.random::<bool>()));
    }

    /// Lets connections come, talk and end, and at last has the engine close or abandon those
    /// that are left.
    fn converse(&mut self) {
        let connections = self.rng.random_range(1..8);
        let busy_turns = self.rng.random_range(1..200);
        self.set_bounds();
        for _ in 0..connections {
            // A stopping server may still be given connections whose handshake was under way.
            match self.rng.random_range(0..40) {
                0 | 1 => self.engine.drain(),
                2 | 3 => self.engine.drain_some(1),
                _ => {}
            }
            let peer = random_peer(&mut self.rng);
            self.connect(peer);
            for _ in 0..self.rng.random_range(0..busy_turns) {
                self.turn();
                if self.rng.random_ratio(1, 20) {
                    self.sweep_after_a_jump();
                }
                if self.rng.random_ratio(1, 1000) {
                    self.engine.drain();
                }
            }
        }
        if self.rng.random() {
            self.engine.drain();
        }
        for turns in 0.. {
            assert!(turns < TURNS_MAX, "something has starved");
            self.turn();
            if self.engine.connection_count() == 0 {
                break;
            }
            if self.rng.random_ratio(1, 50) {
                self.sweep_after_a_jump();
            }
            if self.rng.random_ratio(1, 2000) {
                self.engine.abandon();
            }
        }
    }

    /// The same on a kernel that may fail as a whole, as [`Run::bury`] has it. Checks what every
    /// peer has got, and returns how often the engine has died.
    fn converse_or_die(mut self) -> u64 {
        let deaths = match catch_unwind(AssertUnwindSafe(|| self.converse())) {
            Ok(()) => {
                self.world.borrow_mut().faults = Faults::default();
                self.check_leftovers();
                0
            }
            Err(cause) if cause.is::<Death>() => 1,
            Err(defect) => resume_unwind(defect),
        };
        for (peer, end) in &self.departed {
            check(peer, *end);
        }
        self.bury();
        deaths
    }

    /// Drops the engine, whatever it was doing, and checks that every connection has ended with it.
    fn bury(self) {
        let Self { world, engine, departed, accepted, given_back, .. } = self;
        drop(engine);
        let mut world = world.borrow_mut();
        world.peers.values_mut().for_each(|peer| drop(reveal(peer)));
        assert_eq!(accepted, given_back + departed.len() + world.peers.len(), "each ends once");
        for peer in world.peers.values().chain(departed.iter().map(|(peer, _)| peer)) {
            let end = peer.witness.as_ref().expect("it is connected").read(&mut [0]);
            assert!(matches!(end, Ok(0)), "its descriptor is closed: {end:?}");
            check_prefix(peer);
        }
    }

    /// Checks that nothing is left of the connections.
    fn check_leftovers(&mut self) {
        for wait in self.waits.drain(..) {
            self.engine.end_wait(wait);
        }
        self.turn();
        // What became of cancellations may come late.
        while !self.world.borrow().is_quiet() {
            self.turn();
        }
        self.turn();
        assert_eq!(self.engine.work.transfers.under_way(), UnderWay::default());
        assert!(self.engine.work.holdings.is_empty() && self.memory.held() == 0);
        self.world.borrow().check_leftovers(self.engine.work.transfers.buffer_count());
    }
}

/// What a kernel that fails as a whole does to the engine's worker.
fn or_die<T>(outcome: io::Result<T>) -> T {
    outcome.unwrap_or_else(|_| resume_unwind(Box::new(Death)))
}

/// What everything that a peer has sent is answered with, frame by frame, and how it ends.
fn reference(input: &[u8]) -> (Vec<Vec<u8>>, Next) {
    let mut chunk = input.to_vec();
    let reply = Echo::new().transform(&mut chunk, &RULES);
    let mut replies = [reply.prefix, chunk[reply.range].to_vec()].concat();
    if let Next::Fail(error) = reply.next {
        replies.extend(encode_close_frame(error.close_code(), &error.to_string()));
    }
    (split(&replies), reply.next)
}

fn seconds<const MIN: u64, const MAX: u64>(seconds: u64) -> Within<Duration, MIN, MAX> {
    Within::new(Duration::from_secs(seconds)).unwrap()
}

/// The server's own Close frame.
fn close_frame(goodbye: Goodbye) -> Vec<u8> {
    Session::new(Compression::None).say_goodbye(goodbye).expect("no message is under way")
}

/// The server's frames in `bytes`; the last one may be cut.
fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let len = match FrameHeader::decode(bytes).expect("a server's frame") {
            Some((header, header_len)) => header_len + header.payload_len as usize,
            None => bytes.len(),
        };
        let (frame, rest) = bytes.split_at(len.min(bytes.len()));
        frames.push(frame.to_vec());
        bytes = rest;
    }
    frames
}

/// Reads the records of a peer that speaks TLS, and holds their end against how it ended.
fn check_tls(peer: &mut Peer, end: ConnectionEnd) {
    let is_secured = peer.tls.is_some();
    let may_be_cut = peer.broken || peer.is_struck;
    let revealed = reveal(peer);
    if is_secured && end.is_orderly() && !may_be_cut {
        match end {
            ConnectionEnd::TlsFailed(_) => {
                let alert = Error::AlertReceived(AlertDescription::BadRecordMac);
                assert_eq!(revealed.error, Some(alert), "it is told what was wrong");
            }
            _ => assert!(revealed.is_closed, "{revealed:?}: it is told of the end"),
        }
    } else if let Some(error) = revealed.error {
        // An alert, after which the connection broke.
        assert!(matches!(error, Error::AlertReceived(_)), "{error:?}: every record can be read");
    }
}

/// Holds what a peer has got against what it has sent, and how it ended.
fn check(peer: &Peer, end: ConnectionEnd) {
    let (expected, next) = reference(&peer.input[..peer.taken]);
    let is_broken = peer.broken || peer.is_struck;
    let (frames, said) = replies(peer, is_broken);
    let said_goodbye = said.is_some();
    assert!(!said_goodbye || expected.starts_with(&frames), "it stands behind whole replies");

    let is_of_goodbye = matches!(end, ConnectionEnd::IdleTimeout | ConnectionEnd::LifetimeMax);
    if (end.is_orderly() || is_of_goodbye) && !is_broken {
        assert!(peer.has_ended(), "it lingers until its peer's end");
        assert_eq!(peer.taken, peer.input.len(), "unread bytes would reset the connection");
    }
    let (got, wanted) = (frames.concat(), expected.concat());
    let is_whole = match end {
        ConnectionEnd::ClosedByPeer => {
            assert_eq!(next, Next::Close);
            true
        }
        ConnectionEnd::Failed(error) => {
            assert_eq!(next, Next::Fail(error));
            !said_goodbye
        }
        ConnectionEnd::TlsFailed(fault) => {
            assert_eq!((fault, peer.ending), (TlsFault::NotDecrypted, Ending::BadRecord));
            false
        }
        ConnectionEnd::PeerVanished => {
            assert!(peer.ending == Ending::Fin && peer.taken == peer.input.len());
            !said_goodbye
        }
        ConnectionEnd::ClosedByServer => {
            assert!(said == Some(Goodbye::Stopping) || is_broken);
            false
        }
        ConnectionEnd::IdleTimeout => {
            assert!(said == Some(Goodbye::Idle) || is_broken);
            false
        }
        ConnectionEnd::LifetimeMax => {
            assert!(said == Some(Goodbye::LifetimeOver) || is_broken);
            false
        }
        ConnectionEnd::Broken(_)
        | ConnectionEnd::KeepAliveTimeout
        | ConnectionEnd::WriteTimeout
        | ConnectionEnd::MemoryShed
        | ConnectionEnd::CloseTimeout
        | ConnectionEnd::Abandoned => false,
        other => panic!("{other:?} is not an end in the engine"),
    };
    // A peer that breaks, or that is given up, while its last replies are on their way lacks them.
    if is_whole && (peer.server_has_ended || !is_broken) {
        assert_eq!(got.len(), wanted.len());
    }
    assert!(wanted.starts_with(&got), "what arrives is what was sent");
}

/// The replies among what a peer has got, and which of the server's goodbyes stands behind them. What
/// the server says of its own accord is no reply; the end may have cut it.
fn replies(peer: &Peer, may_be_cut: bool) -> (Vec<Vec<u8>>, Option<Goodbye>) {
    let goodbyes = [Goodbye::Idle, Goodbye::LifetimeOver, Goodbye::Stopping];
    let mut frames = split(&peer.output);
    let is_of = |frame: &Vec<u8>, goodbye: &Goodbye| close_frame(*goodbye) == *frame;
    let said = frames.last().and_then(|last| goodbyes.into_iter().find(|it| is_of(last, it)));
    let is_cut = |frame: &Vec<u8>| {
        goodbyes.iter().any(|goodbye| close_frame(*goodbye).starts_with(frame))
            || PING.starts_with(frame)
    };
    frames.pop_if(|frame| said.is_some() || may_be_cut && is_cut(frame));
    frames.retain(|frame| *frame != PING);
    (frames, said)
}

/// Holds what a peer has got, whose connection may have ended at any point, against what it has sent.
fn check_prefix(peer: &Peer) {
    let (expected, _) = reference(&peer.input[..peer.taken]);
    let (frames, _) = replies(peer, true);
    assert!(expected.concat().starts_with(&frames.concat()), "what arrives is what was sent");
}

fn random_peer(rng: &mut SmallRng) -> Peer {
    const ENDINGS: [Ending; 5] =
        [Ending::Close, Ending::Violation, Ending::Fin, Ending::Reset, Ending::Silence];
    let ending = ENDINGS[rng.random_range(0..ENDINGS.len())];
    let reads = match rng.random_range(0..10) {
        0..5 => Reads::Well,
        5..9 => Reads::Slowly,
        _ => Reads::Never,
    };
    let input = conversation(rng, ending);
    let taken = if rng.random() { 0 } else { rng.random_range(0..=input.len()) };
    let room = rng.random_range(0..3000);
    let farewell = [Farewell::Ends, Farewell::Follows, Farewell::Breaks, Farewell::Stays]
        [rng.random_range(0..4)];
    Peer { taken, farewell, reads, room, ..peer(input, ending) }
}

/// A peer that sends this, reads well, and ends its side when the server has.
fn peer(input: Vec<u8>, ending: Ending) -> Peer {
    Peer {
        input,
        taken: 0,
        ending,
        farewell: Farewell::Follows,
        reads: Reads::Well,
        output: Vec::new(),
        room: 0,
        server_has_ended: false,
        broken: false,
        is_struck: false,
        tls: None,
        witness: None,
    }
}

/// Messages, some of them text or fragmented, with Pings in between, and the ending behind them.
fn conversation(rng: &mut SmallRng, ending: Ending) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.random_range(0..12) {
        let opcode = if rng.random() { OpCode::Text } else { OpCode::Binary };
        let fragments = rng.random_range(1..4);
        for fragment in 0..fragments {
            let opcode = if fragment == 0 { opcode } else { OpCode::Continuation };
            let len = if rng.random_ratio(1, 10) { 3000 } else { 150 };
            let payload = vec![rng.random_range(b'a'..=b'z'); rng.random_range(0..len)];
            bytes.extend(frame(rng, fragment + 1 == fragments, opcode, payload));
            if rng.random_ratio(1, 6) {
                bytes.extend(frame(rng, true, OpCode::Ping, b"ping".to_vec()));
            }
        }
    }
    match ending {
        Ending::Close => bytes.extend(frame(rng, true, OpCode::Close, vec![0x03, 0xe8])),
        Ending::Violation => bytes.extend(frame(rng, false, OpCode::Ping, Vec::new())),
        Ending::BadRecord | Ending::Fin | Ending::Reset | Ending::Silence => {}
    }
    if matches!(ending, Ending::Close | Ending::Violation) && rng.random_ratio(1, 4) {
        // The server discards what comes behind.
        bytes.resize(bytes.len() + rng.random_range(0..5000), 0);
    }
    bytes
}

/// A Close frame, and bytes behind it.
fn close_and_more(rng: &mut SmallRng) -> Vec<u8> {
    let mut bytes = frame(rng, true, OpCode::Close, vec![0x03, 0xe8]);
    bytes.resize(bytes.len() + 200, 0);
    bytes
}

fn frame(rng: &mut SmallRng, fin: bool, opcode: OpCode, mut payload: Vec<u8>) -> Vec<u8> {
    let key: [u8; 4] = rng.random();
    let payload_len = payload.len() as u64;
    let header = FrameHeader { fin, rsv1: false, opcode, masking_key: Some(key), payload_len };
    let mut bytes = vec![0; header.encoded_len()];
    header.encode(&mut bytes);
    unmask(&mut payload, key);
    bytes.extend(payload);
    bytes
}
