//! Bounds on connections: who is turned away and how, that those inside do not notice, and that every
//! end makes room.

use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    process::Command,
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use ringecho::{
    config::{Bounds, Config, Within},
    metrics::Totals,
};
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    frames::{close, text},
    peer::{PATIENCE, Peer, TestServer, UPGRADE, config, config_with_workers, planes},
    program::{address, ringecho, signal, start},
};

const MANY: u32 = 1000;

/// A configuration with bounds on all connections, on those of an address, and on handshakes.
fn bounded(config: Config, connections: u32, of_address: u32, handshakes: u32) -> Config {
    let bounds = Bounds {
        connections_max: Some(Within::new(connections).unwrap()),
        connections_per_ip_max: Within::new(of_address).unwrap(),
        handshakes_max: Within::new(handshakes).unwrap(),
        ..Bounds::default()
    };
    Config { bounds, ..config }
}

/// A loopback address. All of 127.0.0.0/8 are this machine's.
pub fn here(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// A connection from that address, without a request.
pub fn connect_from(from: IpAddr, to: SocketAddr) -> Peer {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Peer { stream }
}

/// Tries to connect until the server lets the peer in, and counts the refusals until then.
fn open_in_the_end(from: IpAddr, to: SocketAddr, refusals: &mut u64) -> Peer {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let mut peer = connect_from(from, to);
        peer.send(UPGRADE);
        let head = peer.read_head();
        if head.starts_with("HTTP/1.1 101 ") {
            return peer;
        }
        assert!(head.starts_with("HTTP/1.1 503 ") || head.starts_with("HTTP/1.1 429 "), "{head}");
        *refusals += 1;
        thread::sleep(Duration::from_millis(1));
    }
    panic!("nothing has made room");
}

/// The peer is told why it may not stay, and its connection ends in order.
#[track_caller]
fn expect_refusal(peer: &mut Peer, status: &str, retry_after: u32, reason: &str) {
    let response = peer.read_to_end();
    let (head, body) = response.split_once("\r\n\r\n").expect("a whole response");
    assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}");
    assert!(head.ends_with(&format!("\r\nRetry-After: {retry_after}")), "{head}");
    assert!(body.contains(reason), "{body}");
}

pub fn expect_echo(peer: &mut Peer) {
    peer.send(text("still here").encode());
    peer.expect(text("still here").encode_echo());
}

fn refused(totals: &Totals) -> u64 {
    let refused = totals.ended.iter().find(|(kind, _)| *kind == "refused");
    refused.map_or(0, |(_, count)| *count)
}

#[test]
fn connections_beyond_the_bound_get_503_and_those_inside_do_not_notice() {
    for config in planes(&bounded(config(), 3, 0, MANY)) {
        let server = TestServer::start(&config);
        let mut inside: Vec<Peer> = (0..3).map(|_| server.open()).collect();
        let reason = "as many connections as it takes";
        let mut silent = server.connect();
        expect_refusal(&mut silent, "503 Service Unavailable", 10, reason);
        // Its request comes when it has been answered already.
        silent.send(UPGRADE);
        silent.expect_end();
        let mut asking = server.connect();
        asking.send(UPGRADE);
        expect_refusal(&mut asking, "503 Service Unavailable", 10, reason);
        inside.iter_mut().for_each(expect_echo);
        let mut refusals = 2;
        inside.pop();
        inside.push(open_in_the_end(here(1), server.address, &mut refusals));
        inside.iter_mut().for_each(expect_echo);
        drop(inside);
        let totals = server.stop();
        assert_eq!(totals.refused, [("connections_max", refusals)]);
        assert_eq!(refused(&totals), refusals);
        assert_eq!(totals.accepted, 4 + refusals);
    }
}

/// The flood's sockets are more than the server keeps, and some have sent their request already.
#[test]
fn flood_of_refused_connections_is_answered_and_disturbs_nobody() {
    const FLOOD: u64 = 500;
    for config in planes(&bounded(config_with_workers(2), 2, 0, MANY)) {
        let server = TestServer::start(&config);
        let mut inside = [server.open(), server.open()];
        for at in 0..FLOOD {
            let mut peer = server.connect();
            if at % 2 == 0 {
                peer.send(UPGRADE);
            }
            assert!(peer.read_head().starts_with("HTTP/1.1 503 "));
            if at % 100 == 0 {
                inside.iter_mut().for_each(expect_echo);
            }
        }
        drop(inside);
        let totals = server.stop();
        assert_eq!(totals.refused, [("connections_max", FLOOD)]);
        assert_eq!((totals.accepted, totals.ended_count()), (FLOOD + 2, FLOOD + 2));
    }
}

#[test]
fn handshakes_beyond_the_bound_get_503_until_others_are_over() {
    for config in planes(&bounded(config(), MANY, 0, 2)) {
        let server = TestServer::start(&config);
        // Upgraded connections are no handshakes in progress any more.
        let mut refusals = 0;
        let mut inside: Vec<Peer> =
            (0..5).map(|_| open_in_the_end(here(1), server.address, &mut refusals)).collect();
        let mut half = [server.connect(), server.connect()];
        for peer in &mut half {
            peer.send("GET ");
        }
        let mut third = server.connect();
        let reason = "too many clients are connecting at once";
        expect_refusal(&mut third, "503 Service Unavailable", 1, reason);
        refusals += 1;
        half[0].send(&UPGRADE[4..]);
        assert!(half[0].read_head().starts_with("HTTP/1.1 101 "));
        inside.push(open_in_the_end(here(1), server.address, &mut refusals));
        // A request that is answered otherwise is over as well.
        half[1].send("/nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(half[1].read_head().starts_with("HTTP/1.1 404 "));
        inside.push(open_in_the_end(here(1), server.address, &mut refusals));
        inside.iter_mut().for_each(expect_echo);
        drop((inside, half));
        let totals = server.stop();
        assert_eq!(totals.refused, [("handshakes_max", refusals), ("path_unknown", 1)]);
        assert_eq!(refused(&totals), refusals + 1);
    }
}

#[test]
fn address_beyond_its_bound_gets_429_and_others_are_served() {
    for config in planes(&bounded(config_with_workers(2), MANY, 2, MANY)) {
        let server = TestServer::start(&config);
        let mut refusals = 0;
        let mut greedy: Vec<Peer> =
            (0..2).map(|_| open_in_the_end(here(2), server.address, &mut refusals)).collect();
        assert_eq!(refusals, 0);
        let mut third = connect_from(here(2), server.address);
        let reason = "your address has as many connections as this server takes";
        expect_refusal(&mut third, "429 Too Many Requests", 10, reason);
        refusals += 1;
        let mut others: Vec<Peer> = (3..9)
            .flat_map(|last| [here(last); 2])
            .map(|from| open_in_the_end(from, server.address, &mut refusals))
            .collect();
        assert_eq!(refusals, 1);
        greedy.pop();
        greedy.push(open_in_the_end(here(2), server.address, &mut refusals));
        greedy.iter_mut().chain(&mut others).for_each(expect_echo);
        drop((greedy, others));
        assert_eq!(server.stop().refused, [("connections_per_ip_max", refusals)]);
    }
}

#[test]
fn flood_from_one_address_leaves_others_their_share() {
    const FLOOD: usize = 300;
    let bounds = Bounds { connect_rate_per_ip: Within::new(5).unwrap(), ..Bounds::default() };
    for config in planes(&Config { bounds, ..config_with_workers(2) }) {
        let server = TestServer::start(&config);
        let mut witness = open_in_the_end(here(3), server.address, &mut 0);
        let mut refusals = 0;
        for at in 0..FLOOD {
            let mut peer = connect_from(here(2), server.address);
            peer.send(UPGRADE);
            let head = peer.read_head();
            if !head.starts_with("HTTP/1.1 101 ") {
                assert!(at >= 5, "the bucket was full");
                assert!(head.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{head}");
                assert!(head.contains("\r\nRetry-After: 1\r\n"), "{head}");
                refusals += 1;
            }
            if at % 100 == 0 {
                expect_echo(&mut witness);
                let newcomer = here(100 + (at / 100) as u8);
                expect_echo(&mut open_in_the_end(newcomer, server.address, &mut 0));
            }
        }
        assert!(refusals > 0);
        drop(witness);
        assert_eq!(server.stop().refused, [("connect_rate_per_ip", refusals)]);
    }
}

/// If an end gave anything back twice, the server would have a negative count at the stop.
#[test]
fn every_kind_of_end_makes_room() {
    const INSIDE: u32 = 3;
    let ends: [fn(Peer); 9] = [
        drop,
        |peer| {
            SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer);
        },
        |mut peer| {
            peer.send(close(1000, "").encode());
            peer.expect(b"\x88\x02\x03\xe8");
            peer.expect_end();
        },
        // A violation, an unmasked frame.
        |mut peer| {
            peer.send(b"\x81\x02hi");
            peer.read_to_close();
        },
        // In the middle of a message, and with echoes that nobody reads.
        |mut peer| peer.send(&text("cut off").encode()[..8]),
        |mut peer| {
            peer.send_until_blocked(&text(&"x".repeat(50_000)).encode().repeat(20));
        },
        |mut peer| peer.end(),
        |mut peer| {
            peer.send(text("a").encode());
            peer.expect(text("a").encode_echo());
        },
        |mut peer| {
            peer.send(close(1001, "going").encode());
        },
    ];
    let before_upgrade: [fn(&TestServer); 6] = [
        |server| drop(server.connect()),
        |server| server.connect().send("GET /"),
        |server| {
            let mut peer = server.connect();
            peer.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            peer.read_to_end();
        },
        |server| {
            let mut peer = server.connect();
            peer.send("GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            peer.read_to_end();
        },
        |server| server.connect().send(b"\x16\x03\x01"),
        |server| server.connect().send(UPGRADE),
    ];
    for config in planes(&bounded(config_with_workers(2), INSIDE, INSIDE, INSIDE)) {
        let server = TestServer::start(&config);
        let mut refusals = 0;
        for _ in 0..3 {
            for end in ends {
                let inside: Vec<Peer> = (0..INSIDE)
                    .map(|_| open_in_the_end(here(1), server.address, &mut refusals))
                    .collect();
                inside.into_iter().for_each(end);
            }
            for end in before_upgrade {
                for _ in 0..INSIDE {
                    end(&server);
                }
            }
        }
        let inside: Vec<Peer> =
            (0..INSIDE).map(|_| open_in_the_end(here(1), server.address, &mut refusals)).collect();
        drop(inside);
        let totals = server.stop();
        assert_eq!(totals.accepted, totals.ended_count(), "{totals:?}");
        assert_eq!(refused(&totals), totals.refused.iter().map(|(_, count)| count).sum::<u64>());
    }
}

#[test]
fn header_fields_beyond_the_bound_get_431() {
    let bounds = Bounds { header_fields_max: Within::new(5).unwrap(), ..Bounds::default() };
    for config in planes(&Config { bounds, ..config() }) {
        let server = TestServer::start(&config);
        // The upgrade has five.
        drop(server.open());
        let mut peer = server.connect();
        peer.send(UPGRADE.replace("\r\n\r\n", "\r\nX: x\r\n\r\n"));
        let response = peer.read_to_end();
        assert!(response.starts_with("HTTP/1.1 431 "), "{response}");
        assert!(response.contains("more than 5 header fields"), "{response}");
        assert_eq!(server.stop().refused, [("header_fields_too_many", 1)]);
    }
}

/// The program with so many open files, the lines of its log, and its address.
struct Narrow {
    program: std::process::Child,
    log: Receiver<String>,
    address: SocketAddr,
}

impl Narrow {
    fn start(open_files: u32, arguments: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!(r#"ulimit -n {open_files} && exec "$@""#), "sh"]);
        command.arg(ringecho().get_program()).args(["--listen=127.0.0.1:0"]).args(arguments);
        let (mut program, line) = start(&mut command);
        let stderr = BufReader::new(program.stderr.take().unwrap());
        let (say, log) = channel();
        thread::spawn(move || stderr.lines().try_for_each(|line| say.send(line.unwrap())));
        let address = address(&line).parse().unwrap();
        Self { program, log, address }
    }

    /// Waits for a line with this in it.
    fn expect_line(&self, part: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE).expect(part);
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Stops the program, and returns the rest of its log.
    fn stop(mut self) -> String {
        signal(&self.program, Signal::SIGTERM);
        assert_eq!(self.program.wait().unwrap().code(), Some(0));
        self.log.iter().collect::<Vec<_>>().join("\n")
    }
}

const WAYS: [&str; 4] = [
    "--driver=auto",
    "--driver=epoll",
    "--data-plane=portable",
    "--driver=epoll --data-plane=portable",
];

#[test]
fn whoever_finds_no_descriptor_free_is_served_when_one_is() {
    const CLIENTS: usize = 80;
    for way in WAYS {
        let mut arguments = vec!["--workers=2", "--connections-max=1000"];
        arguments.extend(way.split(' '));
        let server = Narrow::start(64, &arguments);
        let warning = server.expect_line("--connections-max 1000: ");
        assert!(warning.contains("the limit of open files leaves room for "), "{warning}");
        let mut clients: Vec<Peer> = (0..CLIENTS)
            .map(|_| {
                let mut peer = connect_from(here(1), server.address);
                peer.send(UPGRADE);
                peer
            })
            .collect();
        let line = server.expect_line("cannot accept");
        assert!(line.contains("ulimit -n"), "{line}");
        // Each that has been served makes room for another.
        let began = Instant::now();
        while !clients.is_empty() {
            assert!(began.elapsed() < PATIENCE, "{way}: {} still wait", clients.len());
            clients.retain_mut(|client| {
                if !client.has_received() {
                    return true;
                }
                assert!(client.read_head().starts_with("HTTP/1.1 101 "));
                expect_echo(client);
                false
            });
        }
        let log = server.stop();
        assert!(!log.contains("cannot accept"), "once a minute: {log}");
        assert!(log.contains(&format!("stopped connections={CLIENTS} ")), "{log}");
    }
}

/// By default connections are bounded by what descriptors are free, less a reserve.
#[test]
fn more_connections_than_there_is_room_for_get_503_and_none_waits() {
    for way in WAYS {
        let mut arguments = vec!["--workers=2"];
        arguments.extend(way.split(' '));
        let server = Narrow::start(64, &arguments);
        let line = server.expect_line("connections at a time");
        let room = line.split("at most ").nth(1).unwrap().split(' ').next().unwrap();
        let room: usize = room.parse().unwrap();
        assert!(line.contains("are kept in reserve"), "{line}");
        let mut inside: Vec<Peer> = (0..room).map(|_| Peer::open(server.address)).collect();
        for _ in 0..100 {
            let mut peer = Peer::connect(server.address);
            assert!(peer.read_head().starts_with("HTTP/1.1 503 "));
        }
        inside.iter_mut().for_each(expect_echo);
        drop(inside);
        let log = server.stop();
        assert!(!log.contains("cannot accept"), "{log}");
        assert!(log.contains(r#"refused=[("connections_max", 100)]"#), "{log}");
    }
}
