//! What others notice of one client's load: round trips beside a client that streams without a
//! pause, and opening handshakes beside connections that keep the worker busy.
//!
//! One worker on the first CPU, all clients on the last, in one thread: what it costs them to keep
//! the worker busy is in the latencies too. Rounds with and without load alternate; what is printed
//! are medians of the rounds. `cargo bench --bench fairness`; as a test each round is short.

mod frame;

use std::{
    env,
    future::Future,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use frame::frame;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use ringecho::{
    config::{Config, Cores, Network, Within},
    host::cpu_list::CpuList,
    protocol::OpCode,
    server::Server,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    task::{JoinSet, spawn_local},
    time::{sleep, timeout},
};

/// The clients whose round trips are measured, one message under way each.
const CLIENTS: usize = 200;

/// The connections that keep the worker busy while others are opened.
const BUSY_CLIENTS: usize = 64;
const BUSY_DEPTH: usize = 16;

const SMALL: usize = 64;
const LARGE: usize = 64 << 10;

/// How much work a benchmark does: next to none as a test.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    round: Duration,
}

fn main() {
    let as_benchmark = env::args().any(|argument| argument == "--bench");
    let effort = if as_benchmark {
        Effort { rounds: 5, round: Duration::from_secs(2) }
    } else {
        Effort { rounds: 1, round: Duration::from_millis(100) }
    };
    let usable = CpuList::usable().unwrap();
    let (first, last) = match usable.as_slice() {
        [only] => (only, only),
        [first, .., last] => (first, last),
        [] => unreachable!("this thread runs"),
    };
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()];
    let config = Config {
        network: Network { listen, ..Network::default() },
        cores: Cores {
            workers: Within::new(1).ok(),
            cpus: first.to_string().parse().ok(),
            ..Cores::default()
        },
        ..Config::default()
    };
    let server = Server::start(&config).expect("the server starts");
    println!("{}", server.ready_line());
    let (address, stop) = (server.address(), server.stop_handle());
    let running = thread::spawn(move || server.run());

    pin(*last);
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        println!("{:34} {:>9} {:>9} {:>9}", "", "p50 us", "p99 us", "max us");
        let round_trips = || round_trips(address, effort.round);
        compare("round trip", "one streams", effort, round_trips, || stream(address)).await;
        let handshakes = || handshakes(address, effort.round);
        compare("opening handshake", "worker busy", effort, handshakes, || keep_busy(address))
            .await;
    });
    drop(local);
    drop(runtime);
    stop.stop();
    running.join().expect("no panic").expect("the server stops");
}

/// Measures alone and beside a load, in turn, and prints both.
async fn compare<M: Future<Output = Vec<Duration>>, L: Future<Output = ()> + 'static>(
    subject: &str,
    load_name: &str,
    effort: Effort,
    measure: impl Fn() -> M,
    load: impl Fn() -> L,
) {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        alone.push(Summary::of(measure().await));
        let load = spawn_local(load());
        // The load has to get under way.
        sleep(effort.round / 10).await;
        beside.push(Summary::of(measure().await));
        assert!(!load.is_finished(), "the load went on until the end");
        load.abort();
        assert!(load.await.is_err_and(|error| error.is_cancelled()), "the load is echoed");
    }
    let [alone, beside] = [alone, beside].map(|rounds| Summary::median(&rounds));
    println!("{:34} {alone}", format!("{subject}, alone"));
    println!("{:34} {beside}", format!("{subject}, {load_name}"));
    let ratio = beside.p99.as_secs_f64() / alone.p99.as_secs_f64();
    println!("{:34} {:>9} {ratio:>9.2}", "ratio", "");
}

/// Latencies of a round, summed up.
#[derive(Clone, Copy)]
struct Summary {
    p50: Duration,
    p99: Duration,
    max: Duration,
}

impl Summary {
    fn of(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        let at = |share: usize| latencies[(latencies.len() - 1) * share / 100];
        Self { p50: at(50), p99: at(99), max: at(100) }
    }

    fn median(rounds: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> Duration| {
            let mut figures: Vec<_> = rounds.iter().map(figure).collect();
            figures.sort_unstable();
            figures[figures.len() / 2]
        };
        Self { p50: of(|round| round.p50), p99: of(|round| round.p99), max: of(|round| round.max) }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let us = |figure: Duration| figure.as_secs_f64() * 1e6;
        write!(f, "{:>9.0} {:>9.0} {:>9.0}", us(self.p50), us(self.p99), us(self.max))
    }
}

/// Round trips of many clients, each of which gets some.
async fn round_trips(address: SocketAddr, round: Duration) -> Vec<Duration> {
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn_local(async move {
            let mut client = Client::open(address, SMALL).await;
            let mut latencies = Vec::new();
            let end = Instant::now() + round;
            while Instant::now() < end {
                let begin = Instant::now();
                client.exchange(1).await;
                latencies.push(begin.elapsed());
            }
            latencies
        });
    }
    let by_client = clients.join_all().await;
    assert!(by_client.iter().all(|latencies| latencies.len() > 1), "nobody starves");
    by_client.concat()
}

/// Times from connecting to the 101, one after the other.
async fn handshakes(address: SocketAddr, round: Duration) -> Vec<Duration> {
    let mut latencies = Vec::new();
    let end = Instant::now() + round;
    while Instant::now() < end {
        let begin = Instant::now();
        let mut client = Client::open(address, SMALL).await;
        latencies.push(begin.elapsed());
        client.exchange(1).await;
        client.close().await;
    }
    latencies
}

/// Sends without a pause, and reads what comes back.
async fn stream(address: SocketAddr) {
    let Client { stream, request, reply } = Client::open(address, LARGE).await;
    let (mut reader, mut writer) = stream.into_split();
    let sending = async {
        loop {
            writer.write_all(&request).await.expect("the server reads");
        }
    };
    let receiving = async {
        let mut received = vec![0; reply.len()];
        loop {
            reader.read_exact(&mut received).await.expect("the server echoes");
            assert!(received == reply, "the reply is the echo");
        }
    };
    tokio::join!(sending, receiving);
}

/// Keeps the worker busy with many messages under way.
async fn keep_busy(address: SocketAddr) {
    let mut clients = JoinSet::new();
    for _ in 0..BUSY_CLIENTS {
        clients.spawn_local(async move {
            let mut client = Client::open(address, SMALL).await;
            loop {
                client.exchange(BUSY_DEPTH).await;
            }
        });
    }
    clients.join_all().await;
}

/// A connection, one message, and its echo.
struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Client {
    /// Opens a connection, up to the response head's end.
    async fn open(address: SocketAddr, payload_len: usize) -> Self {
        const REQUEST: &[u8] = b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Version: 13\r\n\r\n";
        let mut stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.write_all(REQUEST).await.expect("the server reads");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut head).await.expect("the server upgrades");
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        // A masking key of zeros: what is masked stays as it is.
        let payload = vec![b'x'; payload_len];
        Self {
            stream,
            request: frame(Some([0; 4]), OpCode::Binary, &payload),
            reply: frame(None, OpCode::Binary, &payload),
        }
    }

    /// Sends `depth` messages at once, and waits for their echoes.
    async fn exchange(&mut self, depth: usize) {
        let (requests, replies) = (self.request.repeat(depth), self.reply.repeat(depth));
        let mut received = vec![0; replies.len()];
        self.stream.write_all(&requests).await.expect("the server reads");
        self.stream.read_exact(&mut received).await.expect("the server echoes");
        assert!(received == replies, "the reply is the echo");
    }

    async fn close(mut self) {
        let close = frame(Some([0; 4]), OpCode::Close, &[]);
        self.stream.write_all(&close).await.expect("the server reads");
        let mut rest = Vec::new();
        let ended = self.stream.read_to_end(&mut rest);
        timeout(Duration::from_secs(10), ended).await.expect("an end").expect("an orderly end");
    }
}

/// Pins this thread to a CPU.
fn pin(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).expect("a CPU of the process");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("a CPU of the process");
}
