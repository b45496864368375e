//! Real workers behind a proxy that misbehaves as networks do: it delays, splits what it forwards
//! into small segments, lets one direction end before the other, goes dark for a while, and resets.
//! A client gets all of its echoes, byte by byte, or a prefix of them and a reset.
//!
//! The proxy is one thread that never waits in a socket, so it owns all of them: a socket with
//! `SO_LINGER` 0 that is dropped resets its connection at once.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use ringecho::protocol::OpCode;
use socket2::SockRef;

use crate::{
    frames::{ClientFrame, binary, close, ping},
    peer::{PATIENCE, TestServer, UPGRADE, config_with_workers, planes},
};

/// Connections through a proxy, all at the same time.
const CLIENTS: u64 = 60;

/// The first of the seeds, one for each connection.
const SEED: u64 = 16_000;

/// The most that a direction holds back, and the most segments of a direction in one round.
const HELD_MAX: usize = 64 << 10;
const SEGMENTS_MAX: usize = 16;

/// How long an end is held back for the end of the other direction.
const END_HELD: Duration = Duration::from_millis(100);

/// A proxy's rest after a round in which nothing moved.
const REST: Duration = Duration::from_micros(300);

/// What is to go wrong on a connection.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// The longest segment.
    segment_max: usize,
    /// One in this many segments comes late.
    delay_odds: u32,
    /// Resets both sides when so many bytes have been forwarded.
    reset_at: Option<usize>,
    /// Forwards nothing for so long when so many bytes have been forwarded.
    dark: Option<(usize, Duration)>,
    /// Tells neither side that the other has ended before it has ended too, or some time has passed.
    holds_ends: bool,
}

impl Plan {
    fn random(rng: &mut SmallRng) -> Self {
        let at = |rng: &mut SmallRng| rng.random_range(0..20_000);
        Self {
            segment_max: 1 << rng.random_range(0..15),
            delay_odds: rng.random_range(1..20),
            reset_at: rng.random_ratio(1, 4).then(|| at(rng)),
            dark: rng
                .random_ratio(1, 4)
                .then(|| (at(rng), Duration::from_millis(rng.random_range(50..500)))),
            holds_ends: rng.random(),
        }
    }
}

/// A running proxy.
struct Proxy {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    running: JoinHandle<HashMap<SocketAddr, Plan>>,
}

/// A connection of a client, and the proxy's own to the server.
struct Link {
    client: TcpStream,
    server: TcpStream,
    to_server: Direction,
    to_client: Direction,
    plan: Plan,
    rng: SmallRng,
    forwarded: usize,
    dark_until: Instant,
}

struct Direction {
    held: VecDeque<u8>,
    /// Nothing is forwarded before.
    not_before: Instant,
    /// Since when nothing more comes.
    ended: Option<Instant>,
    /// The end has been forwarded.
    is_over: bool,
}

impl Proxy {
    /// A proxy in front of a server, for connections whose plans come from seeds from `SEED` on.
    fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let told = is_over.clone();
        let running = thread::spawn(move || forward(&listener, server, &told));
        Self { address, is_over, running }
    }

    /// Ends the proxy; returns the plans of all connections by the clients' addresses.
    fn stop(self) -> HashMap<SocketAddr, Plan> {
        self.is_over.store(true, Relaxed);
        self.running.join().expect("the proxy")
    }
}

/// Forwards until the proxy is over and has no connection left.
fn forward(
    listener: &TcpListener,
    server: SocketAddr,
    is_over: &AtomicBool,
) -> HashMap<SocketAddr, Plan> {
    let mut plans = HashMap::new();
    let mut links: Vec<Link> = Vec::new();
    loop {
        let mut has_moved = false;
        if let Ok((client, address)) = listener.accept() {
            let link = Link::new(client, server, SEED + plans.len() as u64);
            plans.insert(address, link.plan);
            links.push(link);
            has_moved = true;
        }
        links.retain_mut(|link| match link.step() {
            Ok(step) => {
                has_moved |= step.has_moved;
                !step.is_over
            }
            // Dropped as it is, it resets both sides.
            Err(_) => false,
        });
        if !has_moved {
            if links.is_empty() && is_over.load(Relaxed) {
                return plans;
            }
            thread::sleep(REST);
        }
    }
}

/// What a connection has done in a round.
struct Step {
    has_moved: bool,
    is_over: bool,
}

impl Link {
    fn new(client: TcpStream, server: SocketAddr, seed: u64) -> Self {
        let server = TcpStream::connect(server).expect("the server accepts");
        for stream in [&client, &server] {
            stream.set_nonblocking(true).unwrap();
            stream.set_nodelay(true).unwrap();
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        let mut rng = SmallRng::seed_from_u64(seed);
        let plan = Plan::random(&mut rng);
        let now = Instant::now();
        let (to_server, to_client) = (Direction::new(now), Direction::new(now));
        Self { client, server, to_server, to_client, plan, rng, forwarded: 0, dark_until: now }
    }

    /// Forwards what may be forwarded now. An error is the end of both sides, by a reset.
    fn step(&mut self) -> io::Result<Step> {
        let Self { client, server, to_server, to_client, plan, rng, forwarded, dark_until } = self;
        let now = Instant::now();
        if now < *dark_until {
            return Ok(Step { has_moved: false, is_over: false });
        }
        let before = *forwarded;
        let mut has_moved = to_server.receive(client, now)?;
        has_moved |= to_client.receive(server, now)?;
        *forwarded += to_server.send(server, plan, rng, now)?;
        *forwarded += to_client.send(client, plan, rng, now)?;
        if plan.reset_at.is_some_and(|at| *forwarded > at) {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if let Some((at, duration)) = plan.dark
            && (before..*forwarded).contains(&at)
        {
            *dark_until = now + duration;
        }
        to_server.end(server, plan, to_client.is_over, now)?;
        to_client.end(client, plan, to_server.is_over, now)?;
        let is_over = to_server.is_over && to_client.is_over;
        if is_over {
            for stream in [client, server] {
                SockRef::from(&*stream).set_linger(None)?;
            }
        }
        Ok(Step { has_moved: has_moved || *forwarded > before, is_over })
    }
}

impl Direction {
    fn new(now: Instant) -> Self {
        Self { held: VecDeque::new(), not_before: now, ended: None, is_over: false }
    }

    /// Takes what has come, and returns whether anything has.
    fn receive(&mut self, mut from: &TcpStream, now: Instant) -> io::Result<bool> {
        let mut bytes = [0; 16 << 10];
        if self.ended.is_some() || self.held.len() >= HELD_MAX {
            return Ok(false);
        }
        match from.read(&mut bytes) {
            Ok(0) => self.ended = Some(now),
            Ok(len) => self.held.extend(&bytes[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Sends on some segments, and returns their length.
    fn send(
        &mut self,
        mut to: &TcpStream,
        plan: &Plan,
        rng: &mut SmallRng,
        now: Instant,
    ) -> io::Result<usize> {
        let mut sent = 0;
        for _ in 0..SEGMENTS_MAX {
            if self.held.is_empty() || now < self.not_before {
                break;
            }
            let len = rng.random_range(1..=plan.segment_max).min(self.held.len());
            let segment: Vec<u8> = self.held.iter().take(len).copied().collect();
            match to.write(&segment) {
                Ok(len) => {
                    self.held.drain(..len);
                    sent += len;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            if rng.random_ratio(1, plan.delay_odds) {
                self.not_before = now + Duration::from_micros(rng.random_range(0..2000));
            }
        }
        Ok(sent)
    }

    /// Tells that nothing more comes, when nothing is held and the end is not held back either.
    fn end(
        &mut self,
        to: &TcpStream,
        plan: &Plan,
        is_other_over: bool,
        now: Instant,
    ) -> io::Result<()> {
        let Some(ended) = self.ended else { return Ok(()) };
        let is_held = plan.holds_ends && !is_other_over && now < ended + END_HELD;
        if self.held.is_empty() && !self.is_over && !is_held {
            to.shutdown(Shutdown::Write)?;
            self.is_over = true;
        }
        Ok(())
    }
}

/// What a client has seen.
struct Seen {
    /// Its own address, by which the proxy knows it.
    address: SocketAddr,
    /// What it should get, and what it has got, behind the response to its handshake.
    expected: Vec<u8>,
    got: Vec<u8>,
    /// The connection broke.
    is_broken: bool,
}

/// Says everything at once, and listens meanwhile until the connection is over.
fn converse(proxy: SocketAddr, seed: u64) -> Seen {
    let mut rng = SmallRng::seed_from_u64(!seed);
    let mut request = UPGRADE.as_bytes().to_vec();
    let mut expected = Vec::new();
    let mut say = |frame: ClientFrame| {
        request.extend(frame.encode());
        expected.extend(frame.encode_echo());
    };
    for _ in 0..rng.random_range(0..30) {
        let len = 1 << rng.random_range(0..13);
        match rng.random_range(0..4) {
            0 => say(ping("in between")),
            1 => {
                say(ClientFrame::new(false, OpCode::Text, vec![b'a'; rng.random_range(0..len)]));
                say(ClientFrame::new(true, OpCode::Continuation, vec![b'z'; len]));
            }
            _ => say(binary(vec![rng.random(); rng.random_range(0..len)])),
        }
    }
    let closes = rng.random_ratio(3, 4);
    if closes {
        say(close(1000, "done"));
    }
    // Without a Close frame the end of TCP is all that ends the connection.
    let ends_first = !closes || rng.random();

    let stream = TcpStream::connect(proxy).expect("the proxy accepts");
    let address = stream.local_addr().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut received = Vec::new();
    let is_broken = thread::scope(|scope| {
        scope.spawn(|| {
            let is_sent = (&stream).write_all(&request).is_ok();
            if is_sent && ends_first {
                // The connection may be over already.
                let _ = stream.shutdown(Shutdown::Write);
            }
        });
        (&stream).read_to_end(&mut received).is_err()
    });
    let head_len = received.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
    let got = head_len.map_or_else(Vec::new, |head_len| received.split_off(head_len));
    Seen { address, expected, got, is_broken }
}

#[test]
fn echoes_through_a_bad_network_are_exact_or_their_connection_was_reset() {
    for config in planes(&config_with_workers(2)) {
        let server = TestServer::start(&config);
        let proxy = Proxy::start(server.address);
        let address = proxy.address;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|seed| thread::spawn(move || converse(address, SEED + seed)))
            .collect();
        let seen: Vec<Seen> =
            clients.into_iter().map(|client| client.join().expect("a client")).collect();
        let plans = proxy.stop();
        let totals = server.stop();

        let mut whole = 0;
        for Seen { address, expected, got, is_broken } in seen {
            let plan = plans[&address];
            assert!(expected.starts_with(&got), "{plan:?}: {} bytes are no prefix", got.len());
            if got == expected && !is_broken {
                whole += 1;
            } else {
                // Nothing but a reset is an excuse.
                assert!(plan.reset_at.is_some(), "{plan:?}: {} of {}", got.len(), expected.len());
            }
        }
        assert!((CLIENTS / 2..CLIENTS).contains(&whole), "{whole} whole of {CLIENTS}");
        assert_eq!((totals.accepted, totals.ended_count()), (CLIENTS, CLIENTS), "{totals:?}");
        let count = |kinds: &[&str]| -> u64 {
            let ended = totals.ended.iter().filter(|(kind, _)| kinds.contains(kind));
            ended.map(|(_, count)| count).sum()
        };
        let orderly = count(&["closed_by_peer", "peer_vanished"]);
        assert!(orderly >= whole, "{totals:?}");
        assert_eq!(orderly + count(&["broken", "peer_left"]), CLIENTS, "{totals:?}");
    }
}
