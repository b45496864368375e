//! A raw TCP echo on `io_uring`: what the bytes cost when nobody looks at them, see
//! [`ringecho_peers::raw_tcp`].
//!
//! It does what is known to be cheapest: multishot receives into a few buffers that all
//! connections share, one send for each connection and turn straight from there, completions of
//! sends only where they fail, descriptors that only the ring knows, and one system call for each
//! turn, which sends the replies and waits for more to arrive ([`ring`]).
//!
//! This file is what happens on a connection. One whose peer does not read must hold no shared
//! buffer: what a short send leaves over is copied, its receive cancelled, and both go on when the
//! socket has taken the rest.

mod ring;

use std::{
    collections::{HashSet, VecDeque},
    io, mem,
};

use ringecho_peers::{listen, raw_tcp::opening_reply};

use self::ring::{Event, ReceiveEnd, Ring};

/// Connections at a time, if the limit on open files allows that many.
const CONNECTIONS_MAX: u32 = 32_768;

struct Server {
    ring: Ring,
    /// By slot.
    connections: Vec<Connection>,
    /// Connections whose receive found no shared buffer, in the order in which they are armed again.
    starved: VecDeque<u32>,
    /// Those whose turn it was, but for whom others left no buffer; they go to the front.
    unfed: Vec<u32>,
    /// Connections that are closed as soon as nothing is under way on them.
    ending: HashSet<u32>,
}

struct Connection {
    stage: Stage,
    /// Whether a receive is under way.
    is_receiving: bool,
    /// Whether it has waited for a shared buffer, and not received since.
    is_hungry: bool,
}

enum Stage {
    /// The request head, as far as it has come.
    Opening(Vec<u8>),
    Echoing,
    /// A patient send is under way; these are the bytes behind it.
    Sending(Vec<u8>),
}

fn main() -> anyhow::Result<()> {
    let ring = Ring::new(listen("tcp")?, CONNECTIONS_MAX)?;
    let mut server = Server {
        ring,
        connections: Vec::new(),
        starved: VecDeque::new(),
        unfed: Vec::new(),
        ending: HashSet::new(),
    };
    loop {
        server.turn()?;
    }
}

impl Server {
    fn turn(&mut self) -> io::Result<()> {
        // Nothing else would end a turn that waits for these.
        let is_in_haste =
            !self.starved.is_empty() || self.ending.iter().any(|slot| self.ring.has_reply(*slot));
        self.ring.turn(!is_in_haste)?;
        while let Some((slot, event)) = self.ring.next_event() {
            self.handle(slot, event);
        }
        self.feed();
        self.close_ended();
        Ok(())
    }

    fn handle(&mut self, slot: u32, event: Event) {
        match event {
            Event::Received { chunk, goes_on } => {
                let connection = &mut self.connections[slot as usize];
                connection.is_receiving = goes_on;
                connection.is_hungry = false;
                match &mut connection.stage {
                    Stage::Echoing => self.ring.reply(slot, chunk),
                    Stage::Sending(waiting) => {
                        waiting.extend_from_slice(self.ring.bytes(chunk));
                    }
                    Stage::Opening(received) => {
                        received.extend_from_slice(self.ring.bytes(chunk));
                        self.open(slot);
                    }
                }
                self.arm(slot);
            }
            Event::ReceiveEnded(end) => {
                let connection = &mut self.connections[slot as usize];
                connection.is_receiving = false;
                match end {
                    ReceiveEnd::NoBuffer if mem::replace(&mut connection.is_hungry, true) => {
                        self.unfed.push(slot);
                    }
                    ReceiveEnd::NoBuffer => self.starved.push_back(slot),
                    ReceiveEnd::Cancelled => self.arm(slot),
                    ReceiveEnd::PeerEnded => drop(self.ending.insert(slot)),
                }
            }
            Event::Unsent(rest) => self.send_patiently(slot, rest),
            Event::Sent => self.unblock(slot),
            Event::SendBroken => self.end(slot),
            Event::Accepted => self.accept(slot),
        }
    }

    fn accept(&mut self, slot: u32) {
        let needed = slot as usize + 1;
        if self.connections.len() < needed {
            let vacant =
                || Connection { stage: Stage::Echoing, is_receiving: false, is_hungry: false };
            self.connections.resize_with(needed, vacant);
        }
        self.connections[slot as usize].stage = Stage::Opening(Vec::new());
        self.arm(slot);
    }

    /// More of the request head has come.
    #[cold]
    fn open(&mut self, slot: u32) {
        let stage = &mut self.connections[slot as usize].stage;
        let Stage::Opening(received) = stage else { return };
        match opening_reply(received) {
            Ok(None) => {}
            Ok(Some(reply)) => {
                *stage = Stage::Sending(Vec::new());
                self.ring.send_patiently(slot, reply);
            }
            Err(error) => {
                eprintln!("a connection ended early: {error}");
                self.end(slot);
            }
        }
    }

    /// Has as many of those who wait receive as there are buffers. The others would find none.
    fn feed(&mut self) {
        for slot in self.unfed.drain(..).rev() {
            self.starved.push_front(slot);
        }
        for _ in 0..self.ring.free_buffers() {
            let Some(slot) = self.starved.pop_front() else { return };
            self.arm(slot);
        }
    }

    /// Receives, unless that is under way, or the connection is blocked or ending.
    fn arm(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if !connection.is_receiving
            && !matches!(connection.stage, Stage::Sending(_))
            && (self.ending.is_empty() || !self.ending.contains(&slot))
        {
            connection.is_receiving = true;
            self.ring.receive(slot);
        }
    }

    /// Takes a peer that does not read off the shared buffers.
    #[cold]
    fn send_patiently(&mut self, slot: u32, rest: Vec<u8>) {
        let connection = &mut self.connections[slot as usize];
        connection.stage = Stage::Sending(Vec::new());
        self.ring.send_patiently(slot, rest);
        if connection.is_receiving {
            self.ring.cancel_receive(slot);
        }
    }

    /// A peer has taken what it was sent.
    #[cold]
    fn unblock(&mut self, slot: u32) {
        let stage = &mut self.connections[slot as usize].stage;
        match stage {
            Stage::Sending(waiting) if !waiting.is_empty() => {
                let waiting = mem::take(waiting);
                self.ring.send_patiently(slot, waiting);
            }
            _ => {
                *stage = Stage::Echoing;
                self.arm(slot);
            }
        }
    }

    /// A connection broke, or is none that can be served.
    #[cold]
    fn end(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        connection.stage = Stage::Echoing;
        self.ending.insert(slot);
        if connection.is_receiving {
            self.ring.cancel_receive(slot);
        }
    }

    fn close_ended(&mut self) {
        if self.ending.is_empty() {
            return;
        }
        let Self { ring, connections, starved, ending, .. } = self;
        ending.retain(|slot| {
            let connection = &connections[*slot as usize];
            let is_quiet = !connection.is_receiving
                && !matches!(connection.stage, Stage::Sending(_))
                && !ring.has_reply(*slot)
                && !starved.contains(slot);
            if is_quiet {
                ring.close(*slot);
            }
            !is_quiet
        });
    }
}
