//! Connections that open, upgrade, close, and are over: what accepting costs, with the balance that
//! hands connections to the worker with the fewest, and without.
//!
//! Several clients do it at the same time, each one connection after another. A connection is over
//! when the server has ended its side; the client resets it then, so that no port has to wait.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringecho::{
    config::{Config, Cores, Network, Within},
    server::Server,
};
use socket2::SockRef;

criterion_group!(benches, bench_accept);
criterion_main!(benches);

/// Clients that connect at the same time.
const CLIENTS: u64 = 8;

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\n\
    Host: localhost\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// A masked Close frame with code 1000, and its echo.
const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];
const CLOSE_ECHO: [u8; 4] = [0x88, 0x02, 0x03, 0xe8];

fn bench_accept(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("accept");
    group.throughput(Throughput::Elements(CLIENTS));
    for workers in [2, 8] {
        for (balance, name) in [(true, "balanced"), (false, "unbalanced")] {
            let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()];
            let config = Config {
                network: Network { listen, ..Network::default() },
                cores: Cores { workers: Within::new(workers).ok(), balance, ..Cores::default() },
                ..Config::default()
            };
            let server = Server::start(&config).expect("the server starts");
            let (address, stop) = (server.address(), server.stop_handle());
            let running = thread::spawn(move || server.run());
            let id = BenchmarkId::new(format!("connect_upgrade_close-{name}"), workers);
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|rounds| connect_at_once(address, rounds));
            });
            stop.stop();
            let totals = running.join().expect("no panic").expect("the server stops");
            assert!(totals.ended.iter().all(|(kind, _)| *kind == "closed_by_peer"), "{totals:?}");
        }
    }
    group.finish();
}

/// Has every client make this many connections; returns how long that takes.
fn connect_at_once(address: SocketAddr, rounds: u64) -> Duration {
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| (0..rounds).for_each(|_| connect_upgrade_close(address)));
        }
    });
    begin.elapsed()
}

fn connect_upgrade_close(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.write_all(UPGRADE).expect("the server reads");
    let mut response = [0; 1024];
    let mut response_len = 0;
    while !response[..response_len].ends_with(b"\r\n\r\n") {
        response_len += match stream.read(&mut response[response_len..]) {
            Ok(len @ 1..) => len,
            other => panic!("{other:?} instead of a response"),
        };
    }
    assert!(response.starts_with(b"HTTP/1.1 101 "), "the server upgrades");
    stream.write_all(&CLOSE).expect("the server reads");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the server closes");
    assert_eq!(rest, CLOSE_ECHO);
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
}
