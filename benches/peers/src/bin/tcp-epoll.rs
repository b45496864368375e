//! A raw TCP echo on epoll: what the bytes cost when nobody looks at them, see
//! [`ringecho_peers::raw_tcp`].
//!
//! A connection that is ready is read into the one buffer that all share, and written from it at
//! once: two system calls and a part of an `epoll_wait` for each read. Only when a write is short
//! does the connection get memory of its own, and is not read before that is sent.
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
};

use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};
use ringecho_peers::{listen, raw_tcp::opening_reply};
use slab::Slab;

const BUFFER_LEN: usize = 256 << 10;

/// Connections that one `epoll_wait` reports.
const EVENTS_MAX: usize = 1024;

/// The listener's place among those of the connections.
const LISTENER: u64 = u64::MAX;

struct Connection {
    stream: TcpStream,
    stage: Stage,
    /// What a short write has left over.
    unsent: Vec<u8>,
    /// The peer has ended its side, so a last read has to find the end.
    peer_ended: bool,
    /// It is among those that get another turn.
    is_waiting: bool,
}

enum Stage {
    /// The request head, as far as it has come.
    Opening(Vec<u8>),
    Echoing,
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

struct Server {
    epoll: Epoll,
    listener: TcpListener,
    connections: Slab<Connection>,
    buffer: Vec<u8>,
    /// Connections that get another turn without an event, each once.
    waiting: Vec<usize>,
}

fn main() -> anyhow::Result<()> {
    let listener = listen("tcp")?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let buffer = vec![0; BUFFER_LEN];
    let mut server =
        Server { epoll, listener, connections: Slab::new(), buffer, waiting: Vec::new() };
    server.run()
}

impl Server {
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
                stage: Stage::Opening(Vec::new()),
                unsent: Vec::new(),
                peer_ended: false,
                is_waiting: false,
            });
        }
    }
}

impl Connection {
    /// Sends what is unsent, then reads once and echoes that.
    fn turn(&mut self, buffer: &mut [u8]) -> io::Result<Next> {
        if !self.unsent.is_empty() {
            let unsent = mem::take(&mut self.unsent);
            self.send(&unsent)?;
            if !self.unsent.is_empty() {
                return Ok(Next::Event);
            }
        }
        let read = match self.stream.read(buffer) {
            Ok(0) => return Ok(Next::End),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Next::Event),
            Err(error) => return Err(error),
        };
        match &mut self.stage {
            Stage::Echoing => self.send(&buffer[..read])?,
            Stage::Opening(received) => {
                received.extend_from_slice(&buffer[..read]);
                if let Some(reply) = opening_reply(received)? {
                    self.stage = Stage::Echoing;
                    self.send(&reply)?;
                }
            }
        }
        // When the rest can be sent there is an event.
        let goes_on = self.unsent.is_empty() && (read == buffer.len() || self.peer_ended);
        Ok(if goes_on { Next::Turn } else { Next::Event })
    }

    /// Writes once, and keeps what the socket does not take.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
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
