//! The admin listener: what an operator and Prometheus ask of a running server, over HTTP, apart from
//! the port of the echo.
//!
//! It has threads of its own, which read counters and ask workers; no worker ever waits for it. Bounded:
//! at most [`CONNECTIONS_MAX`] connections at a time, further ones are told 503; each has
//! [`REQUEST_TIMEOUT`] from its first byte to the last of its response; a request head is no longer than
//! that of the main port. Its connections are in no counter.
//!
//! `directory` knows the workers, `answer` finds what a request is answered with, and `report` makes the
//! JSON of `/status` and `/connections`.

mod answer;
mod directory;
mod report;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures_util::FutureExt;
use http::{Method, StatusCode};
use socket2::{Domain, Socket, Type};
use thiserror::Error;
use tracing::{info, warn};

use self::answer::answer;
pub(super) use self::directory::Directory;
use crate::{
    config::ListenAddress,
    entry::socket_file::{Behind, PassingFile, SocketFile, knock, listen, remove_stale},
    http::{
        HeadError, REQUEST_HEAD_LEN_MAX, Refusal, RequestRefusal, encode_refusal,
        read_request_head, without_body,
    },
};

/// Connections that are answered at the same time: a few scrapers and a few people.
const CONNECTIONS_MAX: usize = 16;

/// The time that a request and its response have together.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// How long accepting rests when it fails.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a client may take to end its side after a response.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Whoever may connect to the file of a Unix socket: the server's user and group.
const SOCKET_MODE: u32 = 0o660;

/// How long it may take to find out whether somebody listens at a path.
const PATIENCE: Duration = Duration::from_secs(1);

/// A bound socket, before it is served.
pub(super) struct AdminListener {
    socket: Socket,
    address: ListenAddress,
    file: Option<ListenerFile>,
}

/// The file of a Unix socket.
enum ListenerFile {
    InPlace(SocketFile),
    /// Another server's is still at its path.
    Passing(PassingFile),
}

/// The threads that serve it. They end when this is dropped.
pub(super) struct Admin {
    socket: Arc<Socket>,
    address: ListenAddress,
    file: Option<SocketFile>,
    thread: Option<JoinHandle<()>>,
}

/// Why the admin listener cannot be had.
#[derive(Debug, Error)]
pub enum AdminError {
    /// It cannot listen.
    #[error("--admin-listen {address}: cannot listen: {source}")]
    Listen {
        /// The address or path.
        address: ListenAddress,
        /// The cause.
        source: io::Error,
    },
    /// Another program listens at the path.
    #[error("--admin-listen {0}: another program listens there; choose another path")]
    InUse(ListenAddress),
}

impl AdminListener {
    /// Binds the address. A socket file that nobody listens at is replaced. With `takes_over`, a server
    /// may still listen there that is about to be taken over: its port is shared with it, and its
    /// socket file is replaced once this listener is served.
    pub(super) fn bind(address: &ListenAddress, takes_over: bool) -> Result<Self, AdminError> {
        let bound = match address {
            ListenAddress::Tcp(address) => bind_tcp(*address, takes_over).map(|it| (it, None)),
            ListenAddress::Unix(path) => {
                let cannot_listen =
                    |source| AdminError::Listen { address: address.clone(), source };
                let behind = knock(path, Type::STREAM, PATIENCE).map_err(cannot_listen)?;
                let is_taken = matches!(behind, Behind::Server(_));
                if is_taken && !takes_over {
                    return Err(AdminError::InUse(address.clone()));
                }
                bind_unix(path, is_taken).map(|(socket, file)| (socket, Some(file)))
            }
        };
        match bound {
            Ok((socket, file)) => Ok(Self { socket, address: address.clone(), file }),
            Err(source) => Err(AdminError::Listen { address: address.clone(), source }),
        }
    }

    /// Starts to serve.
    pub(super) fn serve(self, directory: Arc<Directory>) -> io::Result<Admin> {
        let Self { socket, address, file } = self;
        let file = match file {
            Some(ListenerFile::Passing(file)) => Some(file.put_in_place()?),
            Some(ListenerFile::InPlace(file)) => Some(file),
            None => None,
        };
        let socket = Arc::new(socket);
        let address = match socket.local_addr()?.as_socket() {
            Some(bound) => ListenAddress::Tcp(bound),
            None => address,
        };
        info!(%address, "serving metrics, status and connections");
        let accepting = socket.clone();
        let run = move || accept(&accepting, &directory);
        let thread = thread::Builder::new().name("admin".to_owned()).spawn(run)?;
        Ok(Admin { socket, address, file, thread: Some(thread) })
    }
}

impl Admin {
    /// Where it listens, with its real port.
    pub(super) fn address(&self) -> &ListenAddress {
        &self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        // This ends a wait for connections.
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // A server that has taken over may have put its own file there.
        if let Some(file) = &self.file {
            file.remove();
        }
    }
}

fn bind_tcp(address: SocketAddr, takes_over: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(takes_over)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Binds a socket file. If its place `is_taken`, by a server that is to be taken over, the file has
/// another name for now.
fn bind_unix(path: &Path, is_taken: bool) -> io::Result<(Socket, ListenerFile)> {
    if is_taken {
        let (socket, file) = PassingFile::listen(path, Type::STREAM, SOCKET_MODE, BACKLOG)?;
        return Ok((socket, ListenerFile::Passing(file)));
    }
    remove_stale(path);
    let socket = listen(path, Type::STREAM, SOCKET_MODE, BACKLOG)?;
    Ok((socket, ListenerFile::InPlace(SocketFile::at(path)?)))
}

/// Accepts connections until the socket is shut down.
fn accept(socket: &Socket, directory: &Arc<Directory>) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match socket.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
            Err(error) => {
                warn!(%error, "the admin listener cannot accept; trying again");
                thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        let Some(place) = Place::take(&open) else {
            turn_away(&stream);
            continue;
        };
        let directory = directory.clone();
        let run = move || {
            let _place = place;
            converse(stream, &directory);
        };
        // A connection without a thread is closed. The next one may have more luck.
        let _ = thread::Builder::new().name("admin-request".to_owned()).spawn(run);
    }
}

/// Tells a client that there are too many, if its socket takes that at once. What it has sent is
/// discarded, since unread bytes would reset the connection, and the response with it.
fn turn_away(mut stream: &Socket) {
    let text = "there are too many connections to the admin listener; try again".to_owned();
    let headers = &[("Retry-After", "1")];
    let refusal = Refusal { status: StatusCode::SERVICE_UNAVAILABLE, headers, text };
    let response = encode_refusal(&refusal);
    if stream.set_nonblocking(true).and_then(|()| stream.send(&response)).is_ok() {
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read(&mut [0; REQUEST_HEAD_LEN_MAX]);
    }
}

/// One of the connections that may be answered at the same time.
struct Place(Arc<AtomicUsize>);

impl Place {
    /// A place, if one is free. Only the accepting thread takes places, so none is taken twice.
    fn take(open: &Arc<AtomicUsize>) -> Option<Self> {
        if open.load(Relaxed) >= CONNECTIONS_MAX {
            return None;
        }
        open.fetch_add(1, Relaxed);
        Some(Self(open.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A connection whose whole request and response must be over at a time.
struct Timed {
    stream: Socket,
    deadline: Instant,
}

impl Timed {
    /// The time that is left; an error if none is.
    fn remaining(&self) -> io::Result<Duration> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        // A timeout of zero would be none.
        if remaining.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(remaining) }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.remaining()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.remaining()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Answers the one request of a connection, and ends the connection.
fn converse(stream: Socket, directory: &Directory) {
    let mut stream = Timed { stream, deadline: Instant::now() + REQUEST_TIMEOUT };
    let response = match read_request(&mut stream) {
        Ok(request) if *request.method() == Method::HEAD => {
            without_body(answer(&request, directory).into()).into()
        }
        Ok(request) => answer(&request, directory),
        Err(HeadError::Refused { refusal, .. }) => encode_refusal(&refusal.into()),
        Err(HeadError::PeerLeft) => return,
    };
    respond(stream, &response);
}

/// Sends a response, and waits until the client has ended its side: unread bytes would reset the
/// connection, and the response with it.
fn respond(mut stream: Timed, response: &[u8]) {
    if stream.write_all(response).is_err() || stream.stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    stream.deadline = stream.deadline.min(Instant::now() + LINGER_TIMEOUT);
    while matches!(stream.read(&mut [0; 1024]), Ok(1..)) {}
}

/// Reads a request head, as the main port does; a body is not read.
fn read_request(stream: &mut impl Read) -> Result<http::Request<()>, HeadError> {
    let mut received = Vec::with_capacity(REQUEST_HEAD_LEN_MAX);
    loop {
        let at = received.len();
        received.resize(REQUEST_HEAD_LEN_MAX, 0);
        let result = stream.read(&mut received[at..]);
        received.truncate(at + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if is_timeout(&error) => {
                let refusal = RequestRefusal::TimedOut;
                return Err(HeadError::Refused { refusal, is_head: false });
            }
            Ok(0) | Err(_) => return Err(HeadError::PeerLeft),
        }
        let is_whole = received[at.saturating_sub(3)..].windows(4).any(|it| it == b"\r\n\r\n");
        if is_whole || received.len() == REQUEST_HEAD_LEN_MAX {
            // Bytes in memory are read without waiting.
            let head = read_request_head(&mut &received[..], BytesMut::new()).now_or_never();
            return head.unwrap_or(Err(HeadError::PeerLeft)).map(|(request, _)| request);
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}
