//! What the peers on epoll have in common: the loop that accepts connections, reads and writes. An
//! [`Echo`] says what a read is answered with.
//!
//! A connection that is ready is read into the one buffer that all share, and its reply is written
//! from there at once: two system calls and a part of an `epoll_wait` for each read. Only when a
//! write is short does the connection get memory of its own, and is not read before that is sent.
//!
//! Connections are watched edge-triggered, reading and writing together, from the start: epoll
//! then neither polls a connection a second time to see whether it is still ready, nor has to be
//! told to watch for writability. In return a connection must be read until nothing is left, which
//! a read that does not fill the buffer says without a further call, unless the peer has ended
//! its side.

use std::{
    io::{self, ErrorKind, Read, Write},
    mem,
    net::{TcpListener, TcpStream},
    ops::Range,
};

use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};
use slab::Slab;

use crate::{listen, opening};

/// Bytes in front of every read that are an [`Echo`]'s to use.
pub const HEADROOM: usize = 16;

/// Bytes behind the longest read, for a reply that is longer than what it answers.
const TAILROOM: usize = 32 << 10;

const BUFFER_LEN: usize = 256 << 10;

/// Connections that one `epoll_wait` reports.
const EVENTS_MAX: usize = 1024;

/// The listener's place among those of the connections.
const LISTENER: u64 = u64::MAX;

/// How one connection is answered, after its opening handshake if that is not its own to answer.
pub trait Echo: Default {
    /// What a client's URL begins with.
    const SCHEME: &'static str;

    /// Whether it is given the request head too, and answers that itself.
    const ANSWERS_REQUEST_HEAD: bool = false;

    /// Turns `buffer[received]` into what is sent back. At least [`HEADROOM`] bytes are in front of
    /// it, 32 KiB behind the longest read, and the whole buffer may be written to.
    ///
    /// An error ends the connection at once.
    fn answer(&mut self, buffer: &mut [u8], received: Range<usize>) -> io::Result<Answer>;
}

/// What a read is answered with.
pub struct Answer {
    /// Where the reply is in the buffer.
    pub reply: Range<usize>,
    /// The connection ends once it is sent.
    pub is_last: bool,
}

struct Connection<E> {
    stream: TcpStream,
    /// The request head as far as it has come; none once it is answered, or if the echo answers it.
    request_head: Option<Vec<u8>>,
    echo: E,
    /// What a short write has left over.
    unsent: Vec<u8>,
    /// The connection ends once this is sent.
    is_last: bool,
    /// The peer has ended its side, so a last read has to find the end.
    peer_ended: bool,
    /// It is among those that get another turn.
    is_waiting: bool,
}

/// When a connection is to be looked at again.
enum Next {
    /// At its next event.
    Event,
    /// Without one, when others have had their turn.
    Turn,
    /// Never: it is over.
    End,
}

struct Server<E> {
    epoll: Epoll,
    listener: TcpListener,
    connections: Slab<Connection<E>>,
    buffer: Vec<u8>,
    /// Connections that get another turn without an event, each once.
    waiting: Vec<usize>,
}

/// Serves every connection with an echo of its own.
pub fn serve<E: Echo>() -> anyhow::Result<()> {
    let listener = listen(E::SCHEME)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let buffer = vec![0; HEADROOM + BUFFER_LEN + TAILROOM];
    let mut server =
        Server::<E> { epoll, listener, connections: Slab::new(), buffer, waiting: Vec::new() };
    server.run()
}

impl<E: Echo> Server<E> {
    fn run(&mut self) -> anyhow::Result<()> {
        let mut events = vec![EpollEvent::empty(); EVENTS_MAX];
        let mut turns = Vec::new();
        loop {
            let timeout =
                if self.waiting.is_empty() { EpollTimeout::NONE } else { EpollTimeout::ZERO };
            let count = match self.epoll.wait(&mut events, timeout) {
                Err(Errno::EINTR) => 0,
                count => count?,
            };
            mem::swap(&mut self.waiting, &mut turns);
            for place in turns.drain(..) {
                self.turn(place);
            }
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept()?,
                    place => self.wake(place as usize, event.events()),
                }
            }
        }
    }

    /// An event has come, perhaps of a connection that is over: then it is spurious for the one
    /// that has its place now, which does no harm.
    fn wake(&mut self, place: usize, events: EpollFlags) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        connection.peer_ended |= events.contains(EpollFlags::EPOLLRDHUP);
        let has_work = events != EpollFlags::EPOLLOUT || !connection.unsent.is_empty();
        if has_work && !connection.is_waiting {
            self.turn(place);
        }
    }

    fn turn(&mut self, place: usize) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        // A connection that broke is over as well.
        let next = connection.turn(&mut self.buffer).unwrap_or(Next::End);
        connection.is_waiting = matches!(next, Next::Turn);
        match next {
            Next::Event => {}
            Next::Turn => self.waiting.push(place),
            Next::End => drop(self.connections.remove(place)),
        }
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            stream.set_nonblocking(true)?;
            let flags = EpollFlags::EPOLLIN
                | EpollFlags::EPOLLOUT
                | EpollFlags::EPOLLRDHUP
                | EpollFlags::EPOLLET;
            let entry = self.connections.vacant_entry();
            self.epoll.add(&stream, EpollEvent::new(flags, entry.key() as u64))?;
            entry.insert(Connection {
                stream,
                request_head: (!E::ANSWERS_REQUEST_HEAD).then(Vec::new),
                echo: E::default(),
                unsent: Vec::new(),
                is_last: false,
                peer_ended: false,
                is_waiting: false,
            });
        }
    }
}

impl<E: Echo> Connection<E> {
    /// Sends what is unsent, then reads once and answers that.
    fn turn(&mut self, buffer: &mut [u8]) -> io::Result<Next> {
        if !self.unsent.is_empty() {
            let unsent = mem::take(&mut self.unsent);
            self.send(&unsent)?;
            if !self.unsent.is_empty() {
                return Ok(Next::Event);
            }
            if self.is_last {
                return Ok(Next::End);
            }
        }
        let read = match self.stream.read(&mut buffer[HEADROOM..][..BUFFER_LEN]) {
            Ok(0) => return Ok(Next::End),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Next::Event),
            Err(error) => return Err(error),
        };
        let received = HEADROOM..HEADROOM + read;
        if self.request_head.is_some() {
            self.open(buffer, received)?;
        } else {
            let answer = self.echo.answer(buffer, received)?;
            self.is_last = answer.is_last;
            self.send(&buffer[answer.reply])?;
        }
        // When the rest can be sent there is an event.
        Ok(if !self.unsent.is_empty() {
            Next::Event
        } else if self.is_last {
            Next::End
        } else if read == BUFFER_LEN || self.peer_ended {
            Next::Turn
        } else {
            Next::Event
        })
    }

    /// Goes on with the opening handshake. What came behind the request head is answered with it.
    #[cold]
    fn open(&mut self, buffer: &mut [u8], received: Range<usize>) -> io::Result<()> {
        let mut request_head = self.request_head.take().unwrap_or_default();
        request_head.extend_from_slice(&buffer[received.clone()]);
        let Some((mut reply, request_head_len)) = opening::response(&request_head)? else {
            self.request_head = Some(request_head);
            return Ok(());
        };
        let behind_len = request_head.len() - request_head_len;
        if behind_len > 0 {
            let answer = self.echo.answer(buffer, received.end - behind_len..received.end)?;
            self.is_last = answer.is_last;
            reply.extend_from_slice(&buffer[answer.reply]);
        }
        self.send(&reply)
    }

    /// Writes once, and keeps what the socket does not take.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let written = match self.stream.write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            written => written?,
        };
        if written < bytes.len() {
            self.unsent = bytes[written..].to_vec();
        }
        Ok(())
    }
}
