//! What the worker's tasks wait for in the engine's kernel: descriptors, and time.
//!
//! All kernels that were tried wake a thread that sleeps in its own ring, but some do not wake one
//! that sleeps elsewhere while its ring receives (docs/decisions.md). So a worker with an engine
//! sleeps in the engine's kernel only: it waits for its listener, for a request head and for the
//! next sweep by operations of that kernel.

use std::{
    io,
    task::{Context, Poll, Waker},
};

use nix::errno::Errno;
use slab::Slab;

/// Something that a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The wait's index in [`Waits`].
    pub(super) place: u32,
    /// Which of the successive waits at this index it is, so that a late cancellation never reaches
    /// a successor.
    generation: u16,
    /// How long the wait lasts, if it is for time to pass.
    pub(super) sleep: Option<Sleep>,
}

/// How much time is to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sleep {
    /// A tick, as the sweep does.
    Tick,
    /// Any other time.
    Other,
}

/// How a wait's operation completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The descriptor is ready, or the time has passed.
    There,
    /// It was cancelled.
    Cancelled,
    /// It cannot be waited for.
    Failed(Errno),
}

/// All that is waited for.
#[derive(Debug, Default)]
pub(super) struct Waits {
    states: Slab<State>,
    generation: u16,
}

#[derive(Debug)]
enum State {
    /// It is under way in the kernel.
    UnderWay(Option<Waker>),
    /// It is over, and its task has not asked yet.
    Over(Outcome),
    /// Nobody asks any more, but the kernel has not ended it yet.
    Abandoned,
}

impl Waits {
    /// Begins a wait, whose operation is to be pushed.
    pub(super) fn begin(&mut self, sleep: Option<Sleep>) -> Wait {
        self.generation = self.generation.wrapping_add(1);
        let place = self.states.insert(State::UnderWay(None)) as u32;
        Wait { place, generation: self.generation, sleep }
    }

    /// Whether a wait is over; if not, the task is woken when it is.
    pub(super) fn poll(&mut self, wait: Wait, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.states[wait.place as usize] {
            State::UnderWay(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            State::Over(Outcome::There) => Poll::Ready(Ok(())),
            State::Over(Outcome::Failed(errno)) => Poll::Ready(Err((*errno).into())),
            State::Over(Outcome::Cancelled) | State::Abandoned => {
                unreachable!("whoever lets go of a wait does not ask any more")
            }
        }
    }

    /// Ends a wait for its task. Returns whether its operation is still under way and to be cancelled.
    pub(super) fn end(&mut self, wait: Wait) -> bool {
        let state = &mut self.states[wait.place as usize];
        if matches!(state, State::UnderWay(_)) {
            *state = State::Abandoned;
            return true;
        }
        self.states.remove(wait.place as usize);
        false
    }

    /// A wait's operation has completed. Returns whether a task waits for it.
    pub(super) fn complete(&mut self, wait: Wait, outcome: Outcome) -> bool {
        let state = &mut self.states[wait.place as usize];
        if let State::UnderWay(waker) = state {
            let waker = waker.take();
            *state = State::Over(outcome);
            waker.into_iter().for_each(Waker::wake);
            return true;
        }
        self.states.remove(wait.place as usize);
        false
    }

    /// Takes the wakers of all tasks that wait. Dropping them may end the tasks, which then end their
    /// waits here: so they are to be dropped when this is not borrowed.
    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        let wakers = self.states.iter_mut().filter_map(|(_, state)| match state {
            State::UnderWay(waker) => waker.take(),
            State::Over(_) | State::Abandoned => None,
        });
        wakers.collect()
    }
}

impl Wait {
    const OTHER_BIT: u64 = 1 << u32::BITS;
    const TICK_BIT: u64 = 2 << u32::BITS;
    const GENERATION_SHIFT: u32 = 34;

    pub(super) fn to_bits(self) -> u64 {
        let sleep = match self.sleep {
            None => 0,
            Some(Sleep::Other) => Self::OTHER_BIT,
            Some(Sleep::Tick) => Self::TICK_BIT,
        };
        u64::from(self.place) | sleep | u64::from(self.generation) << Self::GENERATION_SHIFT
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        let sleep = if bits & Self::OTHER_BIT != 0 {
            Some(Sleep::Other)
        } else {
            (bits & Self::TICK_BIT != 0).then_some(Sleep::Tick)
        };
        let generation = (bits >> Self::GENERATION_SHIFT) as u16;
        Self { place: bits as u32, generation, sleep }
    }

    /// What the result of the wait's operation means. The kernel reports passed time as `ETIME`.
    pub(super) fn outcome(self, result: Result<u32, Errno>) -> Outcome {
        match result {
            Ok(_) => Outcome::There,
            Err(Errno::ETIME) if self.sleep.is_some() => Outcome::There,
            Err(Errno::ECANCELED) => Outcome::Cancelled,
            Err(errno) => Outcome::Failed(errno),
        }
    }
}
