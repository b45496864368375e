//! Hostile input against the program itself: whatever a peer sends, it costs no more memory than a
//! bound, and the next peer is served. `scripts/hostile.sh` prints what it costs.

use std::{fs, io::Write, net::SocketAddr, process::Child, thread, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use ringecho::protocol::OpCode;

use crate::{
    frames::{ClientFrame, binary, ping, text},
    peer::{Peer, UPGRADE},
    program::{ringecho, start, url},
};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// What an attack may take once, by however many peers: the receive buffers that it is the first to
/// touch, 2 MiB of them on the engine, and what the allocator keeps.
pub const ONCE_MAX: u64 = 8 * MIB;

/// The ways in which the program may run: the engine on a ring and on epoll, and the portable path.
pub const WAYS: [&str; 3] = ["--driver=auto", "--driver=epoll", "--data-plane=portable"];

/// In which the kernel tells user space of CPU time (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// A running program.
pub struct Target {
    program: Child,
    pub address: SocketAddr,
}

/// What a program has used.
#[derive(Clone, Copy)]
struct Usage {
    /// Memory that it has resident, in bytes.
    resident: u64,
    /// The most that it has had resident since it was last asked to forget it.
    resident_max: u64,
    /// CPU, in milliseconds.
    cpu_ms: u64,
}

impl Target {
    pub fn start(way: &str, arguments: &[&str]) -> Self {
        let mut command = ringecho();
        command.args(["--listen=127.0.0.1:0", "--workers=1", "--log-level=warn"]);
        let (program, line) = start(command.arg(way).args(arguments));
        let address = url(&line).strip_prefix("ws://").unwrap().strip_suffix("/ws").unwrap();
        Self { address: address.parse().unwrap(), program }
    }

    /// What it has used; from here on the most it has resident is counted anew.
    fn usage(&self) -> Usage {
        let directory = format!("/proc/{}", self.program.id());
        let status = fs::read_to_string(format!("{directory}/status")).unwrap();
        let bytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
            line.trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
        };
        let stat = fs::read_to_string(format!("{directory}/stat")).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        // utime and stime, the 14th and 15th of proc_pid_stat(5), of which the third is the first
        // behind the name.
        let ticks: u64 =
            fields.split(' ').skip(11).take(2).map(|it| it.parse::<u64>().unwrap()).sum();
        fs::write(format!("{directory}/clear_refs"), "5").unwrap();
        Usage {
            resident: bytes("VmRSS:"),
            resident_max: bytes("VmHWM:"),
            cpu_ms: ticks * 1000 / TICKS_PER_SECOND,
        }
    }

    /// Waits until the program has no more descriptors than `count`, for a minute at most.
    pub fn expect_descriptors(&self, count: usize) {
        let is_there = |_| {
            thread::sleep(Duration::from_millis(10));
            self.descriptors() <= count
        };
        assert!((0..6000).any(is_there), "{} descriptors, not {count}", self.descriptors());
    }

    /// How many descriptors the program has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.program.id())).unwrap().count()
    }

    pub fn expect_service(&self) {
        let mut peer = Peer::open(self.address);
        peer.send(text("and I?").encode());
        peer.expect(text("and I?").encode_echo());
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.program.kill().unwrap();
        self.program.wait().unwrap();
    }
}

/// Attacks the program in each way in which it may run. Its memory must not grow by more than `growth_max`, at
/// any time, and others must be served while what the attack returns is held.
pub fn assert_bounded<T>(
    name: &str,
    growth_max: u64,
    arguments: &[&str],
    attack: impl Fn(SocketAddr) -> T,
) {
    assert_bounded_on(name, growth_max, arguments, |target| attack(target.address));
}

/// The same for an attack that looks at the program.
pub fn assert_bounded_on<T>(
    name: &str,
    growth_max: u64,
    arguments: &[&str],
    attack: impl Fn(&Target) -> T,
) {
    for way in WAYS {
        let target = Target::start(way, arguments);
        target.expect_service();
        let before = target.usage();
        let attackers = attack(&target);
        target.expect_service();
        let after = target.usage();
        drop(attackers);
        let growth = after.resident_max.saturating_sub(before.resident);
        println!(
            "| {name} | {way} | {} KiB | {} KiB | {} ms |",
            before.resident >> 10,
            growth >> 10,
            after.cpu_ms - before.cpu_ms
        );
        assert!(growth <= growth_max, "{name}, {way}: {} KiB more", growth >> 10);
    }
}

/// Sends `request` so many times, and expects `reply` as often, with a pause before each.
pub fn flood(peer: &mut Peer, request: Vec<u8>, reply: &[u8], times: usize, pause: Duration) {
    let mut writer = peer.stream.try_clone().unwrap();
    let sending = thread::spawn(move || {
        for _ in 0..times {
            writer.write_all(&request).unwrap();
        }
    });
    for _ in 0..times {
        thread::sleep(pause);
        peer.expect(reply);
    }
    sending.join().unwrap();
}

#[test]
fn a_million_fragments_of_one_byte_take_no_memory() {
    let fragment = ClientFrame::new(false, OpCode::Continuation, "x");
    let (requests, replies) = (fragment.encode().repeat(1000), fragment.encode_echo().repeat(1000));
    let first = ClientFrame::new(false, OpCode::Text, "x");
    assert_bounded("a million fragments of one byte", ONCE_MAX, &[], |address| {
        let mut peer = Peer::open(address);
        peer.send(first.encode());
        peer.expect(first.encode_echo());
        flood(&mut peer, requests.clone(), &replies, 1000, Duration::ZERO);
    });
}

#[test]
fn flood_of_pings_takes_no_memory() {
    let ping = ping(&"p".repeat(125));
    let (request, reply) = (ping.encode().repeat(1000), ping.encode_echo().repeat(1000));
    assert_bounded("100,000 Pings of 125 bytes", ONCE_MAX, &[], |address| {
        flood(&mut Peer::open(address), request.clone(), &reply, 100, Duration::ZERO);
    });
}

#[test]
fn slow_reader_of_a_long_message_takes_what_may_be_unsent() {
    let fragment = ClientFrame::new(false, OpCode::Continuation, vec![7; 128 << 10]);
    let (request, reply) = (fragment.encode(), fragment.encode_echo());
    let first = ClientFrame::new(false, OpCode::Binary, "");
    let name = "128 MiB to a peer that reads 128 KiB a millisecond";
    assert_bounded(name, ONCE_MAX + MIB, &[], |address| {
        let mut peer = Peer::open(address);
        peer.send(first.encode());
        peer.expect(first.encode_echo());
        flood(&mut peer, request.clone(), &reply, 1024, Duration::from_millis(1));
    });
}

#[test]
fn promise_of_a_long_frame_takes_no_memory() {
    let mut header = vec![0x82, 0xff];
    header.extend_from_slice(&(i64::MAX as u64).to_be_bytes());
    let reply_header = [&[0x82, 0x7f], &header[2..]].concat();
    header.extend_from_slice(&[0; 4]);
    assert_bounded("100 frames of 2^63 - 1 bytes, begun", ONCE_MAX, &[], |address| {
        (0..100)
            .map(|_| {
                let mut peer = Peer::open(address);
                peer.send([&header, &[7; 10_000][..]].concat());
                peer.expect([&reply_header, &[7; 10_000][..]].concat());
                peer
            })
            .collect::<Vec<_>>()
    });
}

#[test]
fn request_heads_byte_by_byte_take_no_memory() {
    let patient = ["--handshake-timeout=1h"];
    assert_bounded("50 request heads of 8 KiB, byte by byte", ONCE_MAX, &patient, |address| {
        let mut peers: Vec<Peer> = (0..50).map(|_| Peer::connect(address)).collect();
        let head = format!("GET /ws HTTP/1.1\r\nX: {}", "x".repeat(8 << 10));
        for byte in &head.as_bytes()[..8 << 10] {
            for peer in &mut peers {
                peer.send([*byte]);
            }
        }
        for peer in &mut peers {
            assert!(peer.read_to_end().starts_with("HTTP/1.1 431 "));
        }
    });
}

#[test]
fn compressed_bomb_does_not_go_off() {
    const INFLATED_LEN: usize = 256 << 20;
    let payload = deflated_zeros(INFLATED_LEN);
    let bomb = ClientFrame { rsv1: true, ..ClientFrame::new(true, OpCode::Binary, payload) };
    let (request, reply) = (bomb.encode(), bomb.encode_echo());
    assert_bounded(
        "1.6 MiB that inflate to 256 MiB",
        ONCE_MAX,
        &["--compression=pass-through"],
        |address| {
            let mut peer = Peer::connect(address);
            let offer = "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
            peer.send(UPGRADE.replace("\r\n\r\n", offer));
            assert!(peer.read_head().contains("permessage-deflate"));
            let mut writer = peer.stream.try_clone().unwrap();
            thread::scope(|scope| {
                scope.spawn(|| writer.write_all(&request).unwrap());
                peer.expect(&reply);
            });
        },
    );
}

/// Zeros as DEFLATE has them (RFC 1951 §3.2.6): one, and then copies of the 258 before, 13 bits
/// each.
fn deflated_zeros(len: usize) -> Vec<u8> {
    let mut bits = vec![0, 1, 0];
    bits.extend([0, 0, 1, 1, 0, 0, 0, 0]);
    for _ in 0..len / 258 {
        bits.extend([1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0]);
    }
    bits.extend([0; 7]);
    bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |byte, bit| byte << 1 | bit)).collect()
}

#[test]
fn peers_that_send_and_never_read_are_held_back() {
    const PEERS: usize = 20;
    let mut endless = vec![0x82, 0xff];
    endless.extend_from_slice(&(1_u64 << 40).to_be_bytes());
    endless.extend_from_slice(&[0; 4]);
    endless.resize(32 << 20, 7);
    // 1 MiB each is --unsent-max.
    let growth_max = ONCE_MAX + PEERS as u64 * MIB;
    assert_bounded("20 peers that send and never read", growth_max, &[], |address| {
        (0..PEERS)
            .map(|_| {
                let mut peer = Peer::open(address);
                assert!(peer.send_until_blocked(&endless) < endless.len());
                peer
            })
            .collect::<Vec<_>>()
    });
}

#[test]
fn a_thousand_half_open_handshakes_end_with_their_time() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(20_000), hard).unwrap();
    let arguments = ["--handshake-timeout=5s"];
    // A request head of 8 KiB, and what a task takes.
    assert_bounded(
        "1,000 half-open handshakes",
        ONCE_MAX + 1000 * 12 * KIB,
        &arguments,
        |address| {
            let mut peers: Vec<Peer> = (0..1000)
                .map(|_| {
                    let mut peer = Peer::connect(address);
                    peer.send(&UPGRADE[..UPGRADE.len() - 2]);
                    peer
                })
                .collect();
            for peer in &mut peers {
                assert!(peer.read_to_end().starts_with("HTTP/1.1 408 "));
            }
        },
    );
}

#[test]
fn held_frames_take_what_they_hold() {
    // Each is held, since it could still be answered with a close code, and never ends.
    let unfinished = &binary(vec![7; 4096]).encode()[..4000];
    let request = [&ping("").encode(), unfinished].concat();
    // The frame and a receive buffer, of 4 KiB each.
    assert_bounded(
        "1,000 frames of 4 KiB, all but the end",
        ONCE_MAX + 1000 * 8 * KIB,
        &[],
        |address| {
            (0..1000)
                .map(|_| {
                    let mut peer = Peer::open(address);
                    peer.send(&request);
                    peer.expect(ping("").encode_echo());
                    peer
                })
                .collect::<Vec<_>>()
        },
    );
}
