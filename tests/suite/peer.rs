//! A real server in this process, and a scripted peer that says and expects bytes.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    thread::{self, JoinHandle},
    time::Duration,
};

use ringecho::{
    config::{Config, Cores, DataPlane, Driver, Listen, ListenAddress, Network, Within},
    metrics::Totals,
    server::{Server, StopHandle},
    worker::Drain,
};

/// How long a peer waits for what must come. Not a bound on the server, only an end for a test
/// that would wait forever.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A running server.
pub struct TestServer {
    /// The first address of IP at which it listens; any address if there is none.
    pub address: SocketAddr,
    /// Where it listens.
    pub listens: Vec<Listen>,
    /// Where metrics are served, if they are.
    pub admin: Option<ListenAddress>,
    stop: StopHandle,
    running: JoinHandle<Totals>,
}

/// A server's configuration for a test: a free port and one worker.
pub fn config() -> Config {
    config_with_workers(1)
}

/// The same with so many workers.
pub fn config_with_workers(workers: u32) -> Config {
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()];
    let network = Network { listen, ..Network::default() };
    let workers = Some(Within::new(workers).unwrap());
    Config { network, cores: Cores { workers, ..Cores::default() }, ..Config::default() }
}

/// The configuration for each data plane and driver.
pub fn planes(config: &Config) -> [Config; 4] {
    [
        (Driver::Auto, DataPlane::Auto),
        (Driver::Epoll, DataPlane::Engine),
        (Driver::Auto, DataPlane::Portable),
        (Driver::Epoll, DataPlane::Portable),
    ]
    .map(|(driver, data_plane)| {
        let config = config.clone();
        Config { cores: Cores { driver, data_plane, ..config.cores }, ..config }
    })
}

/// Runs a test against a server on each data plane and driver, and checks that every connection is
/// accounted for.
pub fn with_server(config: &Config, test: impl Fn(&TestServer)) {
    for config in planes(config) {
        let server = TestServer::start(&config);
        test(&server);
        let totals = server.stop();
        assert_eq!(totals.accepted, totals.ended_count(), "{totals:?}");
        let streams_ended: u64 = totals.streams_ended.iter().map(|(_, count)| count).sum();
        assert_eq!(totals.streams, streams_ended, "{totals:?}");
        let ended = || totals.ended.iter().chain(&totals.streams_ended);
        let refused: u64 = ended().filter(|it| it.0 == "refused").map(|it| it.1).sum();
        let by_reason: u64 = totals.refused.iter().map(|(_, count)| count).sum();
        assert_eq!(refused, by_reason, "{totals:?}");
        assert!(!ended().any(|(kind, _)| ["panicked", "worker_died"].contains(kind)), "{totals:?}");
    }
}

impl TestServer {
    pub fn start(config: &Config) -> Self {
        let server = Server::start(config).expect("the server starts");
        let listens: Vec<_> = server.listens().cloned().collect();
        let address = listens.iter().find_map(Listen::socket_address);
        let address = address.unwrap_or(SocketAddr::from(([0; 4], 0)));
        let stop = server.stop_handle();
        let admin = server.admin_address().cloned();
        let running = thread::spawn(move || server.run().expect("the server runs"));
        Self { address, listens, admin, stop, running }
    }

    /// A stop that somebody else may give while the server runs.
    pub fn begin_to_stop(&self) {
        self.stop.stop();
    }

    /// A stop in another way than the configured one.
    pub fn drain(&self, drain: Drain) {
        self.stop.drain(drain);
    }

    pub fn stop(self) -> Totals {
        self.stop.stop();
        self.running.join().expect("the server does not panic")
    }

    /// A connection without a request.
    pub fn connect(&self) -> Peer {
        Peer::connect(self.address)
    }

    /// A connection after its opening handshake.
    pub fn open(&self) -> Peer {
        Peer::open(self.address)
    }
}

/// A request that is upgraded.
pub const UPGRADE: &str = "GET /ws HTTP/1.1\r\n\
    Host: localhost\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// A client that does what its script says.
pub struct Peer {
    pub stream: TcpStream,
}

impl Peer {
    /// A connection without a request.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// A connection over a Unix socket, without a request.
    pub fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the server accepts");
        // What a test does with a stream is the same for sockets of both families.
        let stream = TcpStream::from(OwnedFd::from(stream));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    /// A connection to wherever a server listens, after its opening handshake.
    pub fn open_at(listen: &Listen) -> Self {
        Self::opened(match &listen.address {
            ListenAddress::Tcp(address) => Self::connect(*address),
            ListenAddress::Unix(path) => Self::connect_unix(path),
        })
    }

    /// A connection after its opening handshake.
    pub fn open(address: SocketAddr) -> Self {
        Self::opened(Self::connect(address))
    }

    fn opened(mut peer: Self) -> Self {
        peer.send(UPGRADE.as_bytes());
        assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
        peer
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server reads");
    }

    /// Sends `bytes` until the server has not taken any for a while, or all are sent; returns how
    /// many are.
    pub fn send_until_blocked(&mut self, bytes: &[u8]) -> usize {
        const A_WHILE: Duration = Duration::from_millis(50);
        let mut sent_len = 0;
        self.stream.set_write_timeout(Some(A_WHILE)).unwrap();
        while let Ok(len @ 1..) = self.stream.write(&bytes[sent_len..]) {
            sent_len += len;
        }
        self.stream.set_write_timeout(None).unwrap();
        sent_len
    }

    /// Reads exactly `expected`.
    #[track_caller]
    pub fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let mut received = vec![0; expected.len()];
        if let Err(error) = self.stream.read_exact(&mut received) {
            panic!("{error} instead of {} bytes", expected.len());
        }
        assert!(received == expected, "received {}", preview(&received));
    }

    /// The server's frames, each with less than 126 bytes, until this one; those before it.
    #[track_caller]
    pub fn read_frames_until(&mut self, last: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        loop {
            let mut frame = vec![0; 2];
            self.stream.read_exact(&mut frame).expect("a frame");
            frame.resize(2 + usize::from(frame[1]), 0);
            self.stream.read_exact(&mut frame[2..]).expect("a frame");
            if frame == last {
                return frames;
            }
            frames.push(frame);
        }
    }

    /// The server ends its side, and nothing comes before.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("an orderly end");
        assert!(rest.is_empty(), "received {}", preview(&rest));
    }

    /// The connection is over, orderly or not, and nothing comes before.
    #[track_caller]
    pub fn expect_over(&mut self) {
        let over = self.stream.read_exact(&mut [0]).map_err(|error| error.kind());
        let ends = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
        assert!(over.is_err_and(|kind| ends.contains(&kind)), "{over:?} instead of an end");
    }

    /// Everything until the server's end, as text.
    pub fn read_to_end(&mut self) -> String {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("an orderly end");
        String::from_utf8(rest).expect("text")
    }

    /// Whether there is something to read, or the end.
    pub fn has_received(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        peeked.is_ok()
    }

    /// Everything until the server's end.
    pub fn read_to_close(&mut self) {
        self.stream.read_to_end(&mut Vec::new()).expect("an orderly end");
    }

    /// Everything until the connection is over, orderly or not.
    pub fn read_to_close_or_reset(&mut self) {
        let _ = self.stream.read_to_end(&mut Vec::new());
    }

    /// A response head, and not a byte more.
    pub fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).expect("a response");
            head.push(byte[0]);
        }
        String::from_utf8(head).expect("text")
    }

    /// Ends this side; the other may still send.
    pub fn end(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("a connection");
    }
}

fn preview(bytes: &[u8]) -> String {
    let shown = bytes[..bytes.len().min(80)].escape_ascii();
    format!("{} bytes: {shown}", bytes.len())
}
