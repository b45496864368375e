//! What the worker's tasks wait for in the engine's ring: descriptors, and time.
//!
//! A thread that sleeps in its own ring is woken on every kernel; one that sleeps elsewhere while
//! that ring receives is not (docs/kernels.md). So a worker with an engine sleeps in that ring only,
//! and whatever else it waits for, its listener, a request head, the next sweep, is an operation of
//! that ring.

use std::task::{Context, Poll, Waker};

use slab::Slab;

/// Something that a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Its place among all that is waited for.
    place: u32,
    /// It is time that is to pass.
    pub(super) is_sleep: bool,
}

/// All that is waited for.
#[derive(Debug, Default)]
pub(super) struct Waits(Slab<State>);

#[derive(Debug)]
enum State {
    /// It is under way in the ring.
    UnderWay(Option<Waker>),
    /// It is over, and its task has not asked yet.
    Over,
    /// Nobody asks any more, but the ring has not ended it yet.
    Abandoned,
}

impl Waits {
    /// Begins a wait, whose operation is to be pushed.
    pub(super) fn begin(&mut self, is_sleep: bool) -> Wait {
        Wait { place: self.0.insert(State::UnderWay(None)) as u32, is_sleep }
    }

    /// Whether a wait is over, which ends it; if not, the task is woken when it is.
    pub(super) fn poll(&mut self, wait: Wait, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.0[wait.place as usize] {
            State::UnderWay(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            State::Over | State::Abandoned => Poll::Ready(()),
        }
    }

    /// Lets go of a wait. Says whether its operation is still under way, and to be cancelled.
    pub(super) fn end(&mut self, wait: Wait) -> bool {
        let state = &mut self.0[wait.place as usize];
        if matches!(state, State::UnderWay(_)) {
            *state = State::Abandoned;
            return true;
        }
        self.0.remove(wait.place as usize);
        false
    }

    /// A wait's operation has completed. Says whether a task waits for it.
    pub(super) fn complete(&mut self, wait: Wait) -> bool {
        let state = &mut self.0[wait.place as usize];
        if let State::UnderWay(waker) = state {
            let waker = waker.take();
            *state = State::Over;
            waker.into_iter().for_each(Waker::wake);
            return true;
        }
        self.0.remove(wait.place as usize);
        false
    }
}

impl Wait {
    const SLEEP_BIT: u64 = 1 << u32::BITS;

    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.place) | if self.is_sleep { Self::SLEEP_BIT } else { 0 }
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self { place: bits as u32, is_sleep: bits & Self::SLEEP_BIT != 0 }
    }
}
