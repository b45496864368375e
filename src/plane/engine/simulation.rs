//! A kernel that is as awkward as a real one may be: it receives in pieces, sends short or not at
//! all, completes late, ends receives for no reason, runs out of buffers; and its peers stall, end
//! and reset at any time. If it is told to, it also fails: it refuses registrations, has no memory
//! for an operation, or takes the engine down. All of it comes from a seed.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet, VecDeque},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, RawFd},
        unix::net::UnixStream,
    },
    panic::resume_unwind,
    rc::Rc,
};

use nix::errno::Errno;
use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::SliceRandom};

use super::{
    kernel::{Completion, Kernel, Operation, SendFrom, SendMode},
    tls_peers::TlsPeer,
};

/// The kernel, which the engine owns while a test looks at the world behind it.
#[derive(Clone)]
pub(super) struct Simulation(pub(super) Rc<RefCell<World>>);

/// Everything behind the kernel's interface.
pub(super) struct World {
    rng: SmallRng,
    pub(super) faults: Faults,
    /// Registrations that were refused.
    pub(super) refused: u64,
    pub(super) peers: HashMap<RawFd, Peer>,
    /// The descriptor in each slot that is in use.
    pub(super) slots: HashMap<u32, RawFd>,
    /// Slots that could not be emptied, and that the next registration overwrites.
    stale: HashSet<u32>,
    free_buffers: VecDeque<FreeBuffer>,
    pushed: Vec<(Pushed, u64)>,
    /// Completions of sends at once that were performed before the kernel was entered.
    early: Vec<Completion>,
    receives: Vec<ArmedReceive>,
    /// User data of what is to be ended, with that of the cancellations.
    cancels: Vec<(u64, u64)>,
    patient_sends: Vec<PatientSend>,
    /// User data of watches and sleeps.
    waits: Vec<u64>,
    /// Completions that have not been collected, in order.
    completed: VecDeque<Completion>,
}

/// How often the kernel fails, each in thousandths of the calls; 0 for never.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// A descriptor is not registered.
    register: u32,
    /// A slot is not emptied.
    release: u32,
    /// There is no memory to receive with: the receive ends before it has begun.
    receive: u32,
    /// There is no memory to send with, at once or patiently.
    send: u32,
    /// There is no memory to watch a descriptor with.
    watch: u32,
    /// The kernel fails as a whole, or the engine panics, so that the worker dies.
    death: u32,
}

/// What unwinds out of the engine when its worker is to die.
pub(super) struct Death;

impl Faults {
    /// Half of the kinds, each up to 5 % of the calls. A quarter of the seeds has a death in it.
    pub(super) fn random(rng: &mut SmallRng) -> Self {
        let mut odds = || if rng.random() { rng.random_range(1..=50) } else { 0 };
        let (register, release, receive) = (odds(), odds(), odds());
        let (send, watch) = (odds(), odds());
        let death = if rng.random_ratio(1, 4) { rng.random_range(1..=5) } else { 0 };
        Self { register, release, receive, send, watch, death }
    }

    /// No send finds memory, and nothing else fails.
    pub(super) fn of_every_send() -> Self {
        Self { send: 1000, ..Self::default() }
    }
}

#[derive(Clone, Copy)]
enum Pushed {
    Operation(Operation),
    Send { slot: u32, from: SendFrom, mode: SendMode },
}

/// A client, as the kernel's socket buffers show it.
pub(super) struct Peer {
    /// What it has sent, and how much of that has been received.
    pub(super) input: Vec<u8>,
    pub(super) taken: usize,
    /// What it does behind its input.
    pub(super) ending: Ending,
    /// What it does behind its Close frame or its violation.
    pub(super) farewell: Farewell,
    pub(super) reads: Reads,
    /// What it has got, and how much more its socket takes for now.
    pub(super) output: Vec<u8>,
    pub(super) room: usize,
    /// The server has ended its side.
    pub(super) server_has_ended: bool,
    /// Nothing gets through any more.
    pub(super) broken: bool,
    /// The kernel has failed an operation of its connection, and what was to be sent may be lost.
    pub(super) is_struck: bool,
    /// What it speaks TLS with, if it does; then input and output are records.
    pub(super) tls: Option<Box<TlsPeer>>,
    /// The other end of the connection's descriptor, which shows whether that is closed.
    pub(super) witness: Option<UnixStream>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// Its last frame is a Close.
    Close,
    /// Its last frame is a violation.
    Violation,
    /// Its last record is none of its session.
    BadRecord,
    /// It ends its side.
    Fin,
    /// Its connection breaks, at any time.
    Reset,
    /// It falls silent.
    Silence,
}

/// What a peer does behind its Close frame or its violation, and what follows that.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    /// It ends its side at once.
    Ends,
    /// It ends its side when the server has.
    Follows,
    /// Its connection breaks when the server has ended its side.
    Breaks,
    /// It never ends its side.
    Stays,
}

/// How a peer makes room in its socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    /// Always.
    Well,
    /// Now and then, a little.
    Slowly,
    /// Not at all.
    Never,
}

struct FreeBuffer {
    number: u16,
    memory: *mut u8,
    len: usize,
    used: usize,
}

struct ArmedReceive {
    slot: u32,
    user_data: u64,
    left: usize,
}

struct PatientSend {
    slot: u32,
    user_data: u64,
    piece: libc::iovec,
}

impl Simulation {
    pub(super) fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(World {
            rng: SmallRng::seed_from_u64(seed),
            faults: Faults::default(),
            refused: 0,
            peers: HashMap::new(),
            slots: HashMap::new(),
            stale: HashSet::new(),
            free_buffers: VecDeque::new(),
            pushed: Vec::new(),
            early: Vec::new(),
            receives: Vec::new(),
            cancels: Vec::new(),
            patient_sends: Vec::new(),
            waits: Vec::new(),
            completed: VecDeque::new(),
        })))
    }
}

impl World {
    /// Whether every completion has been collected.
    pub(super) fn is_quiet(&self) -> bool {
        self.completed.is_empty() && self.cancels.is_empty()
    }

    /// Checks that nothing is left of any connection, with `buffer_count` buffers in all.
    pub(super) fn check_leftovers(&self, buffer_count: usize) {
        assert!(self.receives.is_empty() && self.patient_sends.is_empty());
        assert!(self.waits.is_empty());
        assert!(self.slots.is_empty() && self.peers.is_empty() && self.pushed.is_empty());
        assert_eq!(self.free_buffers.len(), buffer_count);
    }

    fn peer(&mut self, slot: u32) -> &mut Peer {
        self.peers.get_mut(&self.slots[&slot]).expect("the slot's peer")
    }

    /// Whether a fault strikes that has these odds, in thousandths.
    fn strikes(&mut self, odds: u32) -> bool {
        odds > 0 && self.rng.random_ratio(odds, 1000)
    }

    /// Takes the engine down in the middle of what it does, now and then.
    fn may_die(&mut self) {
        if self.strikes(self.faults.death) {
            // As a panic, but without its message.
            resume_unwind(Box::new(Death));
        }
    }

    fn push(&mut self, pushed: Pushed, user_data: u64) {
        self.may_die();
        self.pushed.push((pushed, user_data));
        // As when a submission queue is full.
        if self.rng.random_ratio(1, 20) {
            self.perform_pushed();
        }
    }

    fn perform_pushed(&mut self) {
        let mut failed = std::mem::take(&mut self.early);
        for (pushed, user_data) in std::mem::take(&mut self.pushed) {
            self.perform(pushed, user_data, &mut failed);
        }
        self.early = failed;
    }

    fn perform(&mut self, pushed: Pushed, user_data: u64, failed: &mut Vec<Completion>) {
        match pushed {
            Pushed::Operation(operation) => self.begin(operation, user_data),
            Pushed::Send { slot, from: SendFrom::Piece(piece), mode: SendMode::Patient } => {
                if self.strikes(self.faults.send) {
                    self.peer(slot).is_struck = true;
                    self.completed.push_back(Completion::last(user_data, Err(Errno::ENOMEM)));
                } else {
                    self.patient_sends.push(PatientSend { slot, user_data, piece });
                }
            }
            Pushed::Send { slot, from: SendFrom::Piece(piece), .. } => {
                failed.extend(self.send_at_once(slot, &[piece], user_data));
            }
            Pushed::Send { slot, from: SendFrom::Gathered(header), .. } => {
                let pieces = copy_pieces(header);
                failed.extend(self.send_at_once(slot, &pieces, user_data));
            }
        }
    }

    fn begin(&mut self, operation: Operation, user_data: u64) {
        match operation {
            Operation::Receive { slot, len_max } => {
                assert!(self.receives.iter().all(|receive| receive.slot != slot), "receives twice");
                if self.strikes(self.faults.receive) {
                    self.peer(slot).is_struck = true;
                    self.completed.push_back(Completion::last(user_data, Err(Errno::ENOMEM)));
                    return;
                }
                let left = if len_max == 0 { usize::MAX } else { len_max as usize };
                self.receives.push(ArmedReceive { slot, user_data, left });
            }
            Operation::CancelReceive { target, .. } | Operation::CancelWait { target, .. } => {
                self.cancels.push((target, user_data));
            }
            Operation::Watch { .. } if self.strikes(self.faults.watch) => {
                self.completed.push_back(Completion::last(user_data, Err(Errno::ENOMEM)));
            }
            // Without a clock no worker goes on.
            Operation::Sleep { .. } if self.strikes(self.faults.death) => {
                self.completed.push_back(Completion::last(user_data, Err(Errno::ENOMEM)));
            }
            Operation::Watch { .. } | Operation::Sleep { .. } => self.waits.push(user_data),
        }
    }

    /// Sends what there is room for; completes unless that is all.
    fn send_at_once(
        &mut self,
        slot: u32,
        pieces: &[libc::iovec],
        user_data: u64,
    ) -> Option<Completion> {
        let is_out_of_memory = self.strikes(self.faults.send);
        let peer = self.peer(slot);
        peer.is_struck |= is_out_of_memory;
        let len: usize = pieces.iter().map(|piece| piece.iov_len).sum();
        if peer.broken {
            return Some(Completion::last(user_data, Err(Errno::EPIPE)));
        }
        if is_out_of_memory {
            return Some(Completion::last(user_data, Err(Errno::ENOMEM)));
        }
        let sent = pieces.iter().map(|piece| peer.take(piece)).sum::<usize>();
        let is_short = sent < len;
        is_short.then(|| {
            Completion::last(user_data, if sent == 0 { Err(Errno::EAGAIN) } else { Ok(sent) })
        })
    }

    /// Lets time pass: peers make room, or break.
    fn pass(&mut self) {
        let Self { peers, rng, .. } = self;
        for peer in peers.values_mut() {
            match peer.reads {
                Reads::Well => peer.room = usize::MAX,
                Reads::Slowly if rng.random_ratio(1, 4) => {
                    peer.room = peer.room.max(rng.random_range(1..500));
                }
                Reads::Slowly | Reads::Never => {}
            }
            let may_break = peer.ending == Ending::Reset
                || peer.server_has_ended && peer.farewell == Farewell::Breaks;
            peer.broken |= may_break && rng.random_ratio(1, 30);
        }
    }

    fn progress_cancels(&mut self) {
        let mut cancels = std::mem::take(&mut self.cancels);
        cancels.retain(|(target, user_data)| {
            if self.rng.random() {
                return true;
            }
            let under_way = self.receives.len() + self.waits.len();
            self.receives.retain(|receive| receive.user_data != *target);
            self.waits.retain(|wait| wait != target);
            let is_found = self.receives.len() + self.waits.len() < under_way;
            if is_found {
                self.completed.push_back(Completion::last(*target, Err(Errno::ECANCELED)));
            }
            let result = if is_found { Ok(0) } else { Err(Errno::ENOENT) };
            self.completed.push_back(Completion::last(*user_data, result));
            false
        });
        self.cancels = cancels;
    }

    /// Bytes are collected in the call that receives them, the end of a receive perhaps later.
    fn progress_receives(&mut self, completions: &mut Vec<Completion>) {
        let mut receives = std::mem::take(&mut self.receives);
        receives.shuffle(&mut self.rng);
        receives.retain_mut(|receive| {
            let mut goes_on = true;
            while goes_on && self.rng.random_ratio(2, 3) {
                match self.receive(receive) {
                    Some(completion) => {
                        match completion.buffer {
                            Some(_) => completions.push(completion),
                            None => self.completed.push_back(completion),
                        }
                        goes_on = completion.goes_on;
                    }
                    None => break,
                }
            }
            goes_on
        });
        self.receives = receives;
    }

    /// The next completion of a receive, if there is something to complete.
    fn receive(&mut self, receive: &mut ArmedReceive) -> Option<Completion> {
        let Self { peers, slots, free_buffers, rng, .. } = self;
        let peer = peers.get_mut(&slots[&receive.slot]).expect("the slot's peer");
        let available = peer.input.len() - peer.taken;
        if peer.broken {
            return Some(Completion::last(receive.user_data, Err(Errno::ECONNRESET)));
        }
        if available == 0 {
            return peer.has_ended().then(|| Completion::last(receive.user_data, Ok(0)));
        }
        let (Some(buffer), false) = (free_buffers.front_mut(), rng.random_ratio(1, 30)) else {
            return Some(Completion::last(receive.user_data, Err(Errno::ENOBUFS)));
        };
        let len_max = available.min(buffer.len - buffer.used).min(receive.left);
        let len = if rng.random() { len_max } else { rng.random_range(1..=len_max) };
        buffer.fill(&peer.input[peer.taken..][..len]);
        peer.taken += len;
        receive.left -= len;
        let number = buffer.number;
        // An incremental buffer goes on until it is full; others end with their first bytes.
        if buffer.used == buffer.len || rng.random_ratio(1, 20) {
            free_buffers.pop_front();
        }
        Some(Completion {
            buffer: Some(number),
            goes_on: receive.left > 0 && !rng.random_ratio(1, 10),
            ..Completion::last(receive.user_data, Ok(len))
        })
    }

    fn progress_patient_sends(&mut self) {
        let mut sends = std::mem::take(&mut self.patient_sends);
        sends.retain(|send| {
            let peer = self.peer(send.slot);
            let result = if peer.broken {
                Err(Errno::EPIPE)
            } else {
                // Even a patient send may be short, but not empty.
                match peer.take(&send.piece) {
                    0 => return true,
                    sent => Ok(sent),
                }
            };
            self.completed.push_back(Completion::last(send.user_data, result));
            false
        });
        self.patient_sends = sends;
    }
}

impl Peer {
    /// Whether it ends its side behind its input.
    pub(super) fn has_ended(&self) -> bool {
        match (self.ending, self.farewell) {
            (Ending::Fin, _)
            | (Ending::Close | Ending::Violation | Ending::BadRecord, Farewell::Ends) => true,
            (Ending::Close | Ending::Violation | Ending::BadRecord, Farewell::Follows) => {
                self.server_has_ended
            }
            _ => false,
        }
    }

    /// Takes what there is room for from a piece, and returns how much that is.
    #[expect(unsafe_code, reason = "the kernel is given addresses")]
    fn take(&mut self, piece: &libc::iovec) -> usize {
        assert!(!self.server_has_ended, "nothing is sent behind the server's end");
        let len = self.room.min(piece.iov_len);
        // SAFETY: whoever pushed the send keeps the pieces until the kernel has been entered or, if
        // it is patient, until it has completed; this comes before both.
        let bytes = unsafe { std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), len) };
        self.output.extend_from_slice(bytes);
        self.room -= len;
        len
    }
}

impl FreeBuffer {
    #[expect(unsafe_code, reason = "the kernel is given addresses")]
    fn fill(&mut self, bytes: &[u8]) {
        assert!(self.used + bytes.len() <= self.len);
        // SAFETY: within the `len` bytes of memory that the buffer was provided with.
        unsafe {
            self.memory.add(self.used).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        self.used += bytes.len();
    }
}

#[expect(unsafe_code, reason = "the kernel is given addresses")]
fn copy_pieces(header: *const libc::msghdr) -> Vec<libc::iovec> {
    // SAFETY: header and pieces stay where they are until the kernel has been entered.
    unsafe { std::slice::from_raw_parts((*header).msg_iov, (*header).msg_iovlen) }.to_vec()
}

impl Kernel for Simulation {
    fn register(&mut self, slot: u32, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let world = &mut *self.0.borrow_mut();
        if let Some(descriptor) = descriptor {
            if world.strikes(world.faults.register) {
                world.refused += 1;
                return Err(Errno::ENOMEM.into());
            }
            world.stale.remove(&slot);
            let replaced = world.slots.insert(slot, descriptor.as_raw_fd());
            assert_eq!(replaced, None, "slot {slot} was in use");
        } else {
            world.slots.remove(&slot).expect("the slot was in use");
            assert!(world.receives.iter().all(|receive| receive.slot != slot));
            assert!(world.patient_sends.iter().all(|send| send.slot != slot));
            if world.strikes(world.faults.release) {
                world.stale.insert(slot);
                return Err(Errno::ENOMEM.into());
            }
        }
        Ok(())
    }

    fn shut_down(&mut self, descriptor: BorrowedFd<'_>) {
        let mut world = self.0.borrow_mut();
        let peer = world.peers.get_mut(&descriptor.as_raw_fd()).expect("the descriptor's peer");
        peer.broken = true;
    }

    fn end_sending(&mut self, descriptor: BorrowedFd<'_>) {
        let mut world = self.0.borrow_mut();
        let peer = world.peers.get_mut(&descriptor.as_raw_fd()).expect("the descriptor's peer");
        assert!(!peer.server_has_ended, "the server's side ends once");
        peer.server_has_ended = true;
    }

    fn push(&mut self, operation: &Operation, user_data: u64) {
        self.0.borrow_mut().push(Pushed::Operation(*operation), user_data);
    }

    #[expect(unsafe_code, reason = "the kernel is given addresses")]
    unsafe fn push_send(&mut self, slot: u32, from: SendFrom, mode: SendMode, user_data: u64) {
        self.0.borrow_mut().push(Pushed::Send { slot, from, mode }, user_data);
    }

    #[expect(unsafe_code, reason = "the kernel is given memory")]
    unsafe fn provide(&mut self, buffers: impl Iterator<Item = (u16, *mut u8)>, buffer_len: u32) {
        let mut world = self.0.borrow_mut();
        world.free_buffers.clear();
        for (number, memory) in buffers {
            assert!(world.free_buffers.iter().all(|free| free.number != number), "provided twice");
            let len = buffer_len as usize;
            world.free_buffers.push_back(FreeBuffer { number, memory, len, used: 0 });
        }
    }

    fn enter(&mut self, completions: &mut Vec<Completion>, _: bool) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        let world = &mut *world;
        world.may_die();
        if world.strikes(world.faults.death) {
            return Err(Errno::EBADF.into());
        }
        // What is received does not wait for what is sent.
        if world.rng.random() {
            world.progress_receives(completions);
        }
        world.perform_pushed();
        let failed = std::mem::take(&mut world.early);
        world.pass();
        world.progress_cancels();
        world.progress_receives(completions);
        world.progress_patient_sends();
        let World { waits, completed, rng, .. } = world;
        waits.retain(|wait| {
            let is_over = rng.random_ratio(1, 10);
            if is_over {
                completed.push_back(Completion::last(*wait, Ok(1)));
            }
            !is_over
        });
        let collected = world.rng.random_range(0..=world.completed.len());
        completions.extend(world.completed.drain(..collected));
        // Sends at once complete in the same call, but not before or behind anything in particular.
        for completion in failed {
            let at = world.rng.random_range(0..=completions.len());
            completions.insert(at, completion);
        }
        Ok(())
    }
}
