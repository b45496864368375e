//! One message there and back over a loopback socket: the whole server on one worker, beside
//! fastwebsockets on tokio, and beside a thread that echoes the bytes and knows no WebSocket.
//!
//! With one message under way at a time most of it is the kernel's: two wake-ups, and TCP. What
//! many connections cost under load is for the load test to say.

mod measure;
mod sizes;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket};
use measure::measure;
use ringecho::{
    config::{Config, Cores, Network, Within},
    server::Server,
};
use sizes::SIZES;

criterion_group!(benches, bench_round_trip);
criterion_main!(benches);

fn bench_round_trip(criterion: &mut Criterion) {
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()];
    let config = Config {
        network: Network { listen, ..Network::default() },
        cores: Cores { workers: Within::new(1).ok(), ..Cores::default() },
        ..Config::default()
    };
    let server = Server::start(&config).expect("the server starts");
    let stop = server.stop_handle();
    let url = format!("ws://{}{}", server.address(), config.handshake.paths[0].as_ref());
    let stream = connect(server.address());
    let running = thread::spawn(move || server.run());
    let (websocket, _) = tungstenite::client(url, stream).expect("the server upgrades");
    let mut ringecho = websocket.into_inner();
    let mut fastwebsockets = connect(serve_fastwebsockets());
    let mut tcp = connect(serve_tcp());

    let mut group = criterion.benchmark_group("round_trip");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        let payload: Vec<u8> = (b'a'..=b'z').cycle().take(size).collect();
        let frame = |key| Frame::new(true, OpCode::Binary, key, Payload::Borrowed(&payload));
        let mut masked = frame(Some([0x37, 0xfa, 0x21, 0x3d]));
        masked.mask();
        let request = masked.write(&mut Vec::new()).to_vec();
        let reply = frame(None).write(&mut Vec::new()).to_vec();

        group.bench_function(BenchmarkId::new("binary", size), |bencher| {
            measure_round_trip(bencher, &mut ringecho, &request, &reply);
        });
        group.bench_function(BenchmarkId::new("binary-by-fastwebsockets", size), |bencher| {
            measure_round_trip(bencher, &mut fastwebsockets, &request, &reply);
        });
        group.bench_function(BenchmarkId::new("bytes-by-tcp", size), |bencher| {
            measure_round_trip(bencher, &mut tcp, &request, &request);
        });
    }
    group.finish();

    drop(ringecho);
    stop.stop();
    running.join().expect("no panic").expect("the server stops");
}

fn measure_round_trip(bencher: &mut Bencher, stream: &mut TcpStream, request: &[u8], reply: &[u8]) {
    let mut received = vec![0; reply.len()];
    measure(bencher, || {
        stream.write_all(request).expect("the server reads");
        stream.read_exact(&mut received).expect("the server answers");
        assert_eq!(received.last(), reply.last());
    });
    assert!(received == reply, "the reply is not the echo of the request");
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream
}

/// Accepts one connection and serves it, without an opening handshake, until it ends.
fn serve_fastwebsockets() -> SocketAddr {
    serve(|stream| {
        stream.set_nonblocking(true).expect("non-blocking");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        runtime.expect("a runtime").block_on(async {
            let stream = tokio::net::TcpStream::from_std(stream).expect("a stream");
            let mut websocket = WebSocket::after_handshake(stream, Role::Server);
            while let Ok(frame) = websocket.read_frame().await {
                // Without a key, since a server's frame is not masked.
                let reply = Frame::new(frame.fin, frame.opcode, None, frame.payload);
                websocket.write_frame(reply).await.expect("the client reads");
            }
        });
    })
}

/// Accepts one connection and echoes its bytes until it ends.
fn serve_tcp() -> SocketAddr {
    serve(|mut stream| {
        let mut buffer = vec![0; 256 << 10];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..read]).expect("the client reads");
        }
    })
}

/// Serves one connection on a thread of its own, which ends with it.
fn serve(connection: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        connection(stream);
    });
    address
}
