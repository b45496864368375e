//! The roster of a worker: the connections that it has, so that what they were counted for is given
//! back even if the worker dies.
//!
//! A connection that is a task holds an [`Entered`]. One that the engine carries holds nothing: the
//! roster knows its number, and its address by its descriptor if addresses are bounded. A stream of
//! HTTP/2 whose request comes from a client of its own holds an [`EnteredStream`]. A task that a dead
//! worker leaves behind is no matter, since the roster was closed.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    os::fd::RawFd,
    rc::Rc,
    sync::Arc,
};

use slab::Slab;

use super::{Admission, AdmissionRefusal, Ticket, addresses::AddressBlock};

/// The connections of a worker.
#[derive(Debug)]
pub struct Roster {
    admission: Arc<Admission>,
    connections: Cell<u32>,
    handshakes: Cell<u32>,
    /// The addresses of connections that are counted for them, by descriptor.
    blocks: RefCell<HashMap<RawFd, AddressBlock>>,
    /// The addresses that streams are counted for.
    streams: RefCell<Slab<AddressBlock>>,
    is_closed: Cell<bool>,
}

const _: () = assert!(size_of::<(RawFd, AddressBlock)>() == 24, "what a counted address costs");

/// A connection in a roster. It leaves the roster when this is dropped.
#[derive(Debug)]
pub struct Entered {
    roster: Rc<Roster>,
    /// `None` once it has been handed over.
    descriptor: Option<RawFd>,
    is_in_handshake: Cell<bool>,
    /// The block of addresses whose bounds it was asked for, if its address is known.
    admitted_as: Cell<Option<AddressBlock>>,
}

/// A stream that counts for an address of its own until this is dropped.
#[derive(Debug)]
pub struct EnteredStream {
    roster: Rc<Roster>,
    key: usize,
}

impl Roster {
    /// An empty roster.
    pub fn new(admission: Arc<Admission>) -> Rc<Self> {
        Rc::new(Self {
            admission,
            connections: Cell::default(),
            handshakes: Cell::default(),
            blocks: RefCell::default(),
            streams: RefCell::default(),
            is_closed: Cell::default(),
        })
    }

    /// Enters an admitted connection. It has this descriptor until it leaves.
    pub fn enter(self: &Rc<Self>, mut ticket: Ticket, descriptor: RawFd) -> Entered {
        let is_of_another =
            ticket.admission.take().is_none_or(|it| !Arc::ptr_eq(&it, &self.admission));
        debug_assert!(!is_of_another, "a ticket is for the admission that gave it");
        self.connections.set(self.connections.get() + 1);
        self.handshakes.set(self.handshakes.get() + 1);
        if let Some(block) = ticket.block {
            self.blocks.borrow_mut().insert(descriptor, block);
        }
        Entered {
            roster: self.clone(),
            descriptor: Some(descriptor),
            is_in_handshake: Cell::new(true),
            admitted_as: Cell::new(ticket.admitted_as),
        }
    }

    /// The connection with this descriptor, which was [handed over](Entered::hand_over), has ended.
    pub fn leave(&self, descriptor: RawFd) {
        if self.is_closed.get() {
            return;
        }
        self.connections.set(self.connections.get() - 1);
        self.give_back_address(descriptor);
        self.admission.give_back(1, 0);
    }

    /// Gives back what all connections in it were counted for. Nothing is given back for them later.
    pub fn close(&self) {
        if self.is_closed.replace(true) {
            return;
        }
        let connections = self.blocks.take().into_values();
        let streams = self.streams.take().into_iter().map(|(_, block)| block);
        for block in connections.chain(streams) {
            self.admission.give_back_address(Some(block));
        }
        self.admission.give_back(self.connections.get(), self.handshakes.get());
    }

    fn give_back_address(&self, descriptor: RawFd) {
        let mut blocks = self.blocks.borrow_mut();
        if blocks.is_empty() {
            return;
        }
        self.admission.give_back_address(blocks.remove(&descriptor));
        if blocks.len() < blocks.capacity() / 8 {
            let kept = 2 * blocks.len();
            blocks.shrink_to(kept);
        }
    }

    /// Has a connection counted for another block of addresses than before, or for none.
    fn move_to(
        &self,
        descriptor: RawFd,
        block: Option<AddressBlock>,
    ) -> Result<(), AdmissionRefusal> {
        if self.is_closed.get() {
            return Ok(());
        }
        let counted = self.admission.admit_address(block)?;
        self.give_back_address(descriptor);
        if let Some(block) = counted {
            self.blocks.borrow_mut().insert(descriptor, block);
        }
        Ok(())
    }

    /// Has a stream counted for a block of addresses, if they are bounded.
    fn enter_stream(
        self: &Rc<Self>,
        block: AddressBlock,
    ) -> Result<Option<EnteredStream>, AdmissionRefusal> {
        if self.is_closed.get() {
            return Ok(None);
        }
        let counted = self.admission.admit_address(Some(block))?;
        Ok(counted.map(|block| {
            let key = self.streams.borrow_mut().insert(block);
            EnteredStream { roster: self.clone(), key }
        }))
    }

    fn leave_stream(&self, key: usize) {
        let mut streams = self.streams.borrow_mut();
        // A closed roster has none.
        self.admission.give_back_address(streams.try_remove(key));
        if streams.is_empty() {
            streams.shrink_to_fit();
        }
    }

    fn begin_handshake(&self) -> Result<(), AdmissionRefusal> {
        if !self.is_closed.get() {
            self.admission.begin_handshake()?;
            self.handshakes.set(self.handshakes.get() + 1);
        }
        Ok(())
    }

    fn end_handshake(&self) {
        if !self.is_closed.get() {
            self.handshakes.set(self.handshakes.get() - 1);
            self.admission.give_back(0, 1);
        }
    }
}

impl Drop for Roster {
    fn drop(&mut self) {
        self.close();
    }
}

impl Entered {
    /// A further request is arriving on the connection, which counts for what it takes like the first
    /// one: like an opening handshake in progress.
    pub fn handshake_begins(&self) -> Result<(), AdmissionRefusal> {
        if !self.is_in_handshake.get() {
            self.roster.begin_handshake()?;
            self.is_in_handshake.set(true);
        }
        Ok(())
    }

    /// The request has been answered: the opening handshake is no longer in progress.
    pub fn handshake_over(&self) {
        if self.is_in_handshake.replace(false) {
            self.roster.end_handshake();
        }
    }

    /// Whether no address is known that the connection belongs to.
    pub fn awaits_address(&self) -> bool {
        self.admitted_as.get().is_none()
    }

    /// The connection turns out to belong to this address, since a proxy has named it. It meets the
    /// bounds of that address now, and no longer counts for another.
    pub fn belongs_to(&self, ip: Option<IpAddr>) -> Result<(), AdmissionRefusal> {
        let block = ip.map(AddressBlock::from);
        if let Some(descriptor) = self.descriptor
            && self.admitted_as.get() != block
        {
            self.roster.move_to(descriptor, block)?;
            self.admitted_as.set(block);
        }
        Ok(())
    }

    /// A stream of the connection turns out to belong to this address, since a proxy has named it in
    /// the stream's request. The stream meets the bounds of that address like a connection, and the
    /// connection counts for whom it did. `None` if the address is not bounded.
    pub fn admit_stream(
        &self,
        ip: Option<IpAddr>,
    ) -> Result<Option<EnteredStream>, AdmissionRefusal> {
        ip.map_or(Ok(None), |ip| self.roster.enter_stream(ip.into()))
    }

    /// Leaves the connection in the roster until [`Roster::leave`] is called for its descriptor.
    pub fn hand_over(mut self) {
        self.descriptor = None;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.handshake_over();
        if let Some(descriptor) = self.descriptor {
            self.roster.leave(descriptor);
        }
    }
}

impl Drop for EnteredStream {
    fn drop(&mut self) {
        self.roster.leave_stream(self.key);
    }
}
