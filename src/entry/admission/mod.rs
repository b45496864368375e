//! Admission: whether an accepted connection may stay, by the bounds of all and those of its address.
//!
//! All workers share one [`Admission`]. It is asked when a connection is accepted, when its handshake
//! is over, when another request comes on it, and when it ends; no message touches it. Whoever may
//! stay has a [`Ticket`] until its worker has entered it in the worker's [`Roster`]. Telling the others
//! so is left to the worker; [`AdmissionRefusal`] has the response.
//!
//! The invariant: what a connection was counted for is given back exactly once, when its ticket is
//! dropped, when it leaves the roster, or when the roster is closed; so it is with a stream of HTTP/2
//! that counts for an address. A worker's end closes its roster, whatever becomes of the worker's tasks.

mod addresses;
mod pauses;
mod refusal;
mod roster;
#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Instant,
};

use self::addresses::{AddressBlock, Addresses};
pub use self::{
    pauses::{PauseEnd, Pauses},
    refusal::AdmissionRefusal,
    roster::{Entered, EnteredStream, Roster},
};
use crate::config::{Bounds, Within};

/// What all workers' connections are counted by.
#[derive(Debug)]
pub struct Admission {
    connections: Counted,
    handshakes: Counted,
    /// Whether addresses are looked at; if not, accepting takes no lock.
    bounds_addresses: AtomicBool,
    addresses: Mutex<Addresses>,
    /// The time that buckets are filled by.
    epoch: Instant,
    /// How many connections there may be if the configuration does not say.
    room: AtomicU32,
    room_for_refused: AtomicU32,
    pauses: Pauses,
}

/// How many connections there are descriptors for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub connections: u32,
    /// Those that each worker may keep for a while after it has refused them.
    pub refused: u32,
}

/// A number that may not become larger than a bound.
#[derive(Debug, Default)]
struct Counted {
    number: AtomicU32,
    max: AtomicU32,
}

/// A connection that has been admitted and that no worker has entered in its roster yet.
///
/// Dropped, it gives back what the connection was counted for.
#[derive(Debug)]
pub struct Ticket {
    /// `None` once the ticket has been handed in.
    admission: Option<Arc<Admission>>,
    /// The block of addresses that it was counted for.
    block: Option<AddressBlock>,
    /// The block of addresses whose bounds it was asked for.
    admitted_as: Option<AddressBlock>,
}

impl Admission {
    /// With these bounds. Until [`set_room`](Self::set_room) says how many connections there is room
    /// for, a bound on all connections holds only if it is configured.
    pub fn new(bounds: &Bounds) -> Self {
        let admission = Self {
            connections: Counted::default(),
            handshakes: Counted::default(),
            bounds_addresses: AtomicBool::default(),
            addresses: Mutex::default(),
            epoch: Instant::now(),
            room: AtomicU32::new(u32::MAX),
            room_for_refused: AtomicU32::new(u32::MAX),
            pauses: Pauses::default(),
        };
        admission.set_bounds(bounds);
        admission
    }

    /// Changes the bounds. Connections that are open stay, even if they are more than a new bound.
    /// Those that came while addresses were not bounded are not counted for their addresses.
    pub fn set_bounds(&self, bounds: &Bounds) {
        let room = self.room.load(Relaxed);
        self.connections.bound(bounds.connections_max.map_or(room, Within::get));
        self.handshakes.bound(bounds.handshakes_max.get());
        let mut addresses = self.addresses();
        addresses.connections_max = bounds.connections_per_ip_max.get();
        addresses.rate_max = bounds.connect_rate_per_ip.get();
        self.bounds_addresses.store(addresses.are_bounded(), Relaxed);
    }

    /// Says how many connections there is room for, and for how many refused ones beside them on each
    /// worker. The first bounds connections if `bounds` do not.
    pub fn set_room(&self, room: Room, bounds: &Bounds) {
        self.room.store(room.connections, Relaxed);
        self.room_for_refused.store(room.refused, Relaxed);
        self.set_bounds(bounds);
    }

    /// How many refused connections a worker has room for.
    pub fn room_for_refused(&self) -> u32 {
        self.room_for_refused.load(Relaxed)
    }

    /// Admits a connection of a peer with this address, whose handshake is in progress from now on. A
    /// peer without an address, or whose address is [not known yet](Entered::belongs_to), meets the
    /// bounds of all.
    pub fn admit(
        self: &Arc<Self>,
        peer: impl Into<Option<IpAddr>>,
    ) -> Result<Ticket, AdmissionRefusal> {
        let admitted_as = peer.into().map(AddressBlock::from);
        let block = self.admit_address(admitted_as)?;
        if !self.connections.raise() {
            self.give_back_address(block);
            return Err(AdmissionRefusal::ConnectionsMax);
        }
        if !self.handshakes.raise() {
            self.connections.lower(1);
            self.give_back_address(block);
            return Err(AdmissionRefusal::HandshakesMax);
        }
        Ok(Ticket { admission: Some(self.clone()), block, admitted_as })
    }

    /// Counts a handshake that begins on a connection that is open, if as many may be in progress.
    fn begin_handshake(&self) -> Result<(), AdmissionRefusal> {
        if self.handshakes.raise() { Ok(()) } else { Err(AdmissionRefusal::HandshakesMax) }
    }

    /// Connections that are open, and those whose handshake is not over.
    pub fn counts(&self) -> (u32, u32) {
        (self.connections.get(), self.handshakes.get())
    }

    /// Workers that cannot accept, and wait for the end of a connection.
    pub fn pauses(&self) -> &Pauses {
        &self.pauses
    }

    /// Admits a connection by the bounds of an address. Returns what it is counted for from now on, so
    /// that it has to be given back.
    fn admit_address(
        &self,
        block: Option<AddressBlock>,
    ) -> Result<Option<AddressBlock>, AdmissionRefusal> {
        match block {
            Some(block) if self.bounds_addresses.load(Relaxed) => {
                Ok(self.addresses().admit(block, self.epoch.elapsed())?.then_some(block))
            }
            _ => Ok(None),
        }
    }

    fn give_back_address(&self, block: Option<AddressBlock>) {
        if let Some(block) = block {
            self.addresses().give_back(block);
        }
    }

    /// Gives back what so many connections were counted for beside their addresses.
    fn give_back(&self, connections: u32, handshakes: u32) {
        self.handshakes.lower(handshakes);
        if connections > 0 {
            self.connections.lower(connections);
            self.pauses.end_all();
        }
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    fn bound(&self, max: u32) {
        self.max.store(max, Relaxed);
    }

    fn get(&self) -> u32 {
        self.number.load(Relaxed)
    }

    /// Counts one more if the bound allows it, and returns whether it does.
    fn raise(&self) -> bool {
        let max = self.max.load(Relaxed);
        let more = |number| (number < max).then(|| number + 1);
        self.number.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    fn lower(&self, number: u32) {
        let before = self.number.fetch_sub(number, Relaxed);
        debug_assert!(before >= number, "nothing is given back twice");
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(admission) = self.admission.take() {
            admission.give_back_address(self.block);
            admission.give_back(1, 1);
        }
    }
}
