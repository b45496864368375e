//! A scripted load in lock-step on the whole program: it sends, waits for the whole echo, and sends
//! again, so each turn of the server sees the same thing and takes the same instructions.
//!
//! `cargo bench --bench lockstep -- --count PROGRAM [ARGUMENT...]` counts them with callgrind, and
//! prints a line "benchmark instructions" for each case: those of a message, or of a cycle that
//! connects, upgrades, has one message echoed and closes. They are what a longer run takes more
//! than a shorter one, so that starting, warming up and stopping cancel out. Without arguments the
//! program is started with ringecho's, for one worker on epoll; a peer needs its port, 0. A program
//! that says that it listens on `wss://` is spoken to over TLS, and has a second kind of cycle, with
//! the ticket of the one before. A peer that echoes bytes, as `tls-echo`, may do that. Without
//! `--count`, every case runs once and nothing is counted.
//!
//! Over HTTP/2 each message is a DATA frame on a stream (RFC 8441); programs that do not speak it have no
//! such cases.
//!
//! Client and server share one CPU, on which the server is of the class `SCHED_BATCH` and the client,
//! where it may, of `SCHED_FIFO`: the server runs only when the client waits, so it finds all that
//! the client has written, however many writes that took. Where another program comes between, the
//! server finds a part, and takes a turn more: so each run is made twice, and the cheaper one counts.

mod frame;
mod http2;
mod tls_client;

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use frame::frame;
use http2::Http2Client;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ringecho::{host::cpu_list::CpuList, protocol::OpCode, tls::default_provider};
use rustls::ClientConfig;
use socket2::SockRef;

/// Payload sizes in bytes: a small message, the longest with the shortest header, and larger ones.
const SIZES: [usize; 4] = [16, 125, 1024, 16_384];

/// Those of messages over HTTP/2, each of which fits a DATA frame.
const HTTP2_SIZES: [usize; 3] = [16, 125, 1024];

/// Messages in one write.
const DEPTHS: [usize; 2] = [1, 16];

const CONNECTIONS: [usize; 2] = [1, 8];

/// Messages, or cycles, that are not counted: memory and sockets' windows grow meanwhile.
const WARM_UP_MESSAGES: usize = 512;
const WARM_UP_CYCLES: usize = 20;

/// Messages that are counted, and cycles.
const MESSAGES: usize = 2048;
const CYCLES: usize = 200;

/// How often each run is made.
const ATTEMPTS: usize = 2;

/// ringecho on epoll, with the plane that it takes there by itself.
const RINGECHO_ARGUMENTS: [&str; 10] = [
    "--listen",
    "127.0.0.1:0",
    "--workers",
    "1",
    "--driver",
    "epoll",
    "--data-plane",
    "auto",
    "--log-level",
    "warn",
];

/// Longer than any reply takes, also under callgrind on a busy machine.
const REPLY_TIMEOUT: Duration = Duration::from_mins(1);

/// Asked of the kernel for what a client has sent, in bytes: a write must not wait for the server.
const SEND_BUFFER_LEN: usize = 4 << 20;

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

const MASK_BIT: u8 = 0x80;

const MASKING_KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn main() -> ExitCode {
    let words: Vec<String> = env::args().collect();
    let counted = words.iter().position(|word| word == "--count").map(|at| &words[at + 1..]);
    let command: Vec<&str> = match counted {
        None => vec![env!("CARGO_BIN_EXE_ringecho")],
        // cargo adds its own word at the end.
        Some(command) => {
            command.iter().map(|word| &**word).filter(|word| *word != "--bench").collect()
        }
    };
    let command = match &command[..] {
        [] => {
            eprintln!("error: --count needs a program, such as target/release/ringecho");
            return ExitCode::from(2);
        }
        [program] => [&[*program], &RINGECHO_ARGUMENTS[..]].concat(),
        command => command.to_vec(),
    };
    let missing = |tool: &&str| Command::new(tool).arg("--version").output().is_err();
    if counted.is_some()
        && let Some(tool) = ["valgrind", "chrt"].iter().find(|tool| missing(tool))
    {
        eprintln!("error: --count needs {tool}, which is missing");
        return ExitCode::from(2);
    }

    share_a_cpu();
    if counted.is_some() {
        // Only root may, and the counts repeat almost as well without.
        let own_id = process::id().to_string();
        let _ = Command::new("chrt").args(["--fifo", "--pid", "1", &own_id]).output();
    }
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let profile = directory.join(format!("lockstep-{}", process::id()));
    let speaks_http2 = !is_over_tls(&command) && {
        let mut server = Server::start(&mut program(&command));
        let speaks_http2 = Http2Client::open(server.address, 1).is_some();
        server.stop();
        speaks_http2
    };
    for case in cases(is_over_tls(&command))
        .filter(|case| speaks_http2 || !matches!(case, Case::Http2 { .. }))
    {
        if counted.is_some() {
            println!("{case} {:.1}", count(case, &command, &profile));
        } else {
            let mut server = Server::start(&mut program(&command));
            case.run(&server, 1);
            server.stop();
            println!("{case} runs");
        }
    }
    ExitCode::SUCCESS
}

/// Whether a server speaks TLS, as it says when it starts.
fn is_over_tls(command: &[&str]) -> bool {
    let mut server = Server::start(&mut program(command));
    server.stop();
    server.is_over_tls
}

fn cases(is_over_tls: bool) -> impl Iterator<Item = Case> {
    let echoes = CONNECTIONS.into_iter().flat_map(|connections| {
        DEPTHS.into_iter().flat_map(move |depth| {
            SIZES.into_iter().map(move |payload_len| Case::Echo { connections, depth, payload_len })
        })
    });
    let over_http2 = CONNECTIONS.into_iter().flat_map(|streams| {
        DEPTHS.into_iter().flat_map(move |depth| {
            HTTP2_SIZES.into_iter().map(move |payload_len| Case::Http2 {
                streams,
                depth,
                payload_len,
            })
        })
    });
    let resumed = is_over_tls.then_some(Case::Cycle { resumes: true });
    echoes.chain([Case::Cycle { resumes: false }]).chain(resumed).chain(over_http2)
}

/// Instructions of one message or one cycle.
fn count(case: Case, command: &[&str], profile: &Path) -> f64 {
    let (warm_up, counted) = case.rounds();
    let [shorter, longer] = [warm_up, warm_up + counted].map(|rounds| {
        (0..ATTEMPTS).map(|_| count_run(case, rounds, command, profile)).min().unwrap_or_default()
    });
    f64::from(longer - shorter) / f64::from((counted * case.messages_per_round()) as u32)
}

/// Instructions from the server's start to its end.
fn count_run(case: Case, rounds: usize, command: &[&str], profile: &Path) -> u32 {
    let mut valgrind = Command::new("chrt");
    valgrind.args(["--batch", "0", "valgrind", "--tool=callgrind", "--quiet"]);
    valgrind.arg(format!("--callgrind-out-file={}", profile.display()));
    valgrind.args(command);
    let mut server = Server::start(&mut valgrind);
    case.run(&server, rounds);
    server.stop();
    let profiled = fs::read_to_string(profile).expect("callgrind has written its profile");
    fs::remove_file(profile).expect("the profile is ours");
    let total = profiled.lines().find_map(|line| line.strip_prefix("totals: "));
    total.and_then(|total| total.trim().parse::<u32>().ok()).expect("a total below 2^32")
}

/// What the client does, again and again.
#[derive(Clone, Copy)]
enum Case {
    /// Writes `depth` messages to each connection, then reads all echoes.
    Echo { connections: usize, depth: usize, payload_len: usize },
    /// Connects, over TLS with the ticket of the cycle before or without, upgrades, has one message
    /// echoed, and closes.
    Cycle { resumes: bool },
    /// The same as `Echo`, on the streams of one connection.
    Http2 { streams: usize, depth: usize, payload_len: usize },
}

impl Case {
    /// Rounds that warm up, and rounds that are counted.
    fn rounds(self) -> (usize, usize) {
        match self {
            Self::Echo { .. } | Self::Http2 { .. } => {
                let per_round = self.messages_per_round();
                (WARM_UP_MESSAGES / per_round, MESSAGES / per_round)
            }
            Self::Cycle { .. } => (WARM_UP_CYCLES, CYCLES),
        }
    }

    fn messages_per_round(self) -> usize {
        match self {
            Self::Echo { connections, depth, .. } => connections * depth,
            Self::Http2 { streams, depth, .. } => streams * depth,
            Self::Cycle { .. } => 1,
        }
    }

    fn run(self, server: &Server, rounds: usize) {
        let resumes = matches!(self, Self::Cycle { resumes: true });
        let suites = default_provider().cipher_suites;
        let tls = server.is_over_tls.then(|| tls_client::config(&suites, resumes));
        match self {
            Self::Echo { connections, depth, payload_len } => {
                let mut clients: Vec<_> =
                    (0..connections).map(|_| Client::open(server.address, tls.as_ref())).collect();
                let exchange = Exchange::new(OpCode::Binary, &pattern(payload_len), depth);
                for _ in 0..rounds {
                    for client in &mut clients {
                        client.send(&exchange);
                    }
                    for client in &mut clients {
                        client.receive(&exchange);
                    }
                }
            }
            Self::Http2 { streams, depth, payload_len } => {
                let mut client =
                    Http2Client::open(server.address, streams).expect("the server speaks HTTP/2");
                let exchange = Exchange::new(OpCode::Binary, &pattern(payload_len), 1);
                for _ in 0..rounds {
                    client.send(&exchange.requests, depth);
                    client.receive(&exchange.replies.repeat(depth));
                }
            }
            Self::Cycle { .. } => {
                let message = Exchange::new(OpCode::Binary, &pattern(SIZES[0]), 1);
                // Close code 1000.
                let close = Exchange::new(OpCode::Close, &[0x03, 0xe8], 1);
                for _ in 0..rounds {
                    let mut client = Client::open(server.address, tls.as_ref());
                    for exchange in [&message, &close] {
                        client.send(exchange);
                        client.receive(exchange);
                    }
                    client.end();
                }
            }
        }
    }
}

/// Its id, as criterion's benchmarks have it: `subject/operation/size`.
impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Echo { connections, depth, payload_len } => {
                write!(f, "server/echo-{connections}x{depth}/{payload_len}")
            }
            Self::Cycle { resumes: false } => write!(f, "server/cycle/{}", SIZES[0]),
            Self::Cycle { resumes: true } => write!(f, "server/resumed-cycle/{}", SIZES[0]),
            Self::Http2 { streams, depth, payload_len } => {
                write!(f, "server/http2-{streams}x{depth}/{payload_len}")
            }
        }
    }
}

/// A program that serves, for as long as this lives.
struct Server {
    process: Child,
    address: SocketAddr,
    is_over_tls: bool,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        for (name, _) in env::vars().filter(|(name, _)| name.starts_with("RINGECHO_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the server starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(process.stdout.take().expect("stdout is a pipe"));
        stdout.read_line(&mut line).expect("the server says where it listens");
        let address = line.split("://").nth(1).and_then(|url| url.trim().split('/').next());
        let address = address.and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}"));
        Self { process, address, is_over_tls: line.contains("wss://") }
    }

    fn stop(&mut self) {
        let id = Pid::from_raw(self.process.id().cast_signed());
        kill(id, Signal::SIGTERM).expect("the server runs");
        self.process.wait().expect("the server ends");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended, unless a case panics.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Client {
    stream: Stream,
    received: Vec<u8>,
    /// The server echoes bytes, and not messages.
    is_of_bytes: bool,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tls_client::TlsStream>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl Client {
    /// Opens a connection, up to the response head's end.
    fn open(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(REPLY_TIMEOUT)).expect("SO_RCVTIMEO");
        SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_LEN).expect("SO_SNDBUF");
        let mut stream = match tls {
            None => Stream::Plain(stream),
            Some(config) => Stream::Tls(tls_client::client(config.clone(), stream).into()),
        };
        stream.write_all(UPGRADE).expect("the server reads");
        let (mut head, mut head_len) = ([0; 1024], 0);
        while !head[..head_len].ends_with(b"\r\n\r\n") {
            head_len += match stream.read(&mut head[head_len..]) {
                Ok(len @ 1..) => len,
                other => panic!("{other:?} instead of a response"),
            };
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "the server upgrades");
        Self { stream, received: Vec::new(), is_of_bytes: false }
    }

    fn send(&mut self, exchange: &Exchange) {
        self.stream.write_all(&exchange.requests).expect("the server reads");
        self.stream.flush().expect("the server reads");
    }

    fn receive(&mut self, exchange: &Exchange) {
        self.received.resize(exchange.replies.len(), 0);
        self.stream.read_exact(&mut self.received).expect("the server echoes");
        // A client's frame has the bit that says that it is masked.
        self.is_of_bytes = self.received[1] & MASK_BIT != 0;
        if self.is_of_bytes {
            let received_len = self.received.len();
            self.received.resize(exchange.requests.len(), 0);
            self.stream.read_exact(&mut self.received[received_len..]).expect("the server echoes");
            assert!(self.received == exchange.requests, "the reply is what was sent");
        } else {
            assert!(self.received == exchange.replies, "the reply is the echo");
        }
    }

    /// Waits for the end, then resets the connection, so that no port has to wait.
    fn end(mut self) {
        if self.is_of_bytes {
            match &mut self.stream {
                Stream::Plain(stream) => stream.shutdown(Shutdown::Write).expect("it is connected"),
                Stream::Tls(stream) => {
                    stream.conn.send_close_notify();
                    stream.flush().expect("the server reads");
                }
            }
        }
        let read = self.stream.read(&mut [0]).expect("the server closes");
        assert_eq!(read, 0, "nothing follows the Close frame");
        SockRef::from(self.stream.socket()).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }
}

/// What one write sends, and what comes back.
struct Exchange {
    requests: Vec<u8>,
    replies: Vec<u8>,
}

impl Exchange {
    fn new(opcode: OpCode, payload: &[u8], depth: usize) -> Self {
        let masked: Vec<u8> =
            payload.iter().zip(MASKING_KEY.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        Self {
            requests: frame(Some(MASKING_KEY), opcode, &masked).repeat(depth),
            replies: frame(None, opcode, payload).repeat(depth),
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

fn program(command: &[&str]) -> Command {
    let mut program = Command::new(command[0]);
    program.args(&command[1..]);
    program
}

/// Pins this process, and with it the servers that it starts, to the last CPU.
fn share_a_cpu() {
    let usable = CpuList::usable().expect("the CPUs of this process");
    let cpu = *usable.as_slice().last().expect("this thread runs");
    let mut cpus = CpuSet::new();
    cpus.set(cpu).expect("a CPU of the process");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("a CPU of the process");
}
