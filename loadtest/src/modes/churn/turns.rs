//! Who begins the next cycle, and when.
//!
//! In a closed loop whoever has ended a cycle begins the next. In an open loop cycle number `n` of
//! the run belongs to thread `n` modulo the threads; there the tasks without a cycle take the
//! numbers in order, and each waits for the instant of its own. So those that wait are in the order
//! of their instants, and a schedule that has fallen behind is a number.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    io,
    task::{Poll, Waker},
    time::Duration,
};

use super::thread_state::{ThreadState, Turn};
use crate::{
    drive::pacer::{Pause, SLEEP_MIN, explained},
    plan::{Load, rate::Arrivals},
};

/// The turns of one thread.
#[derive(Debug)]
pub(super) struct Turns {
    /// The number of this thread.
    thread: usize,
    /// The instants of the plan's cycles, in an open loop.
    arrivals: Option<Arrivals>,
    /// How many cycles have been taken.
    taken: Cell<u64>,
    /// Tasks that wait for their instants, soonest first; never more than there are tasks.
    waiting: RefCell<VecDeque<(u64, Waker)>>,
    /// Who wakes them, while nobody waits.
    pacer: RefCell<Option<Waker>>,
}

impl Turns {
    pub(super) fn new(state: &ThreadState, thread: usize) -> Self {
        let plan = &state.plan;
        let arrivals = match &plan.load {
            Load::Closed => None,
            Load::Open(rate) => Some(Arrivals::new(rate, plan.warmup, plan.duration)),
        };
        Self {
            thread,
            arrivals,
            taken: Cell::new(0),
            waiting: RefCell::default(),
            pacer: RefCell::default(),
        }
    }

    /// Takes the next cycle and waits until it may begin. `None` when the load has ended.
    pub(super) async fn next(&self, state: &ThreadState) -> Option<Turn> {
        let schedule = &state.schedule;
        let Some(arrivals) = &self.arrivals else {
            let now = schedule.now();
            let turn = Turn { planned: now, is_held_back: false };
            return (!schedule.has_ended(now)).then_some(turn);
        };
        let threads = state.plan.threads.count as u64;
        let taken = self.taken.replace(self.taken.get() + 1);
        let planned = schedule.origin()? + arrivals.planned(taken * threads + self.thread as u64);
        // The first cycle of each task waits for none before it.
        let is_held_back = schedule.now() > planned && taken >= state.tasks.get() as u64;
        let mut is_waiting = false;
        poll_fn(|cx| {
            if schedule.now() >= planned.min(schedule.end()) {
                return Poll::Ready(());
            }
            if !is_waiting {
                is_waiting = true;
                self.waiting.borrow_mut().push_back((planned, cx.waker().clone()));
                if let Some(pacer) = self.pacer.take() {
                    pacer.wake();
                }
            }
            Poll::Pending
        })
        .await;
        schedule.admits(planned, schedule.now()).then_some(Turn { planned, is_held_back })
    }

    /// Wakes everybody whose instant has come, or all when the load has ended. Says when the next
    /// one's is; `None` if nobody waits.
    pub(super) fn wake_due(&self, state: &ThreadState) -> Option<u64> {
        let now = state.schedule.now();
        let all = state.schedule.has_ended(now);
        loop {
            let mut waiting = self.waiting.borrow_mut();
            let (planned, _) = waiting.front()?;
            if *planned > now && !all {
                return Some(*planned);
            }
            if let Some((_, waker)) = waiting.pop_front() {
                waker.wake();
            }
        }
    }

    /// Wakes those whose instants have come, for as long as the thread lives.
    pub(super) async fn pace(&self, state: &ThreadState, pause: &Pause) -> io::Result<()> {
        loop {
            let next = self.wake_due(state);
            let now = state.schedule.now();
            let paused = match (pause, next) {
                (Pause::Poll(poll), _) => {
                    let busy_turns = state.busy_turns.get();
                    let polled = poll.once().await;
                    if state.busy_turns.get() == busy_turns {
                        let until = state.schedule.now().min(next.unwrap_or(u64::MAX));
                        state.count_polled_in_vain(until.saturating_sub(now));
                    }
                    polled
                }
                (Pause::Sleep(timer), Some(planned)) => {
                    let pause = Duration::from_nanos(planned.saturating_sub(now));
                    timer.sleep(pause.max(SLEEP_MIN)).await
                }
                (Pause::Sleep(_), None) => {
                    self.until_somebody_waits().await;
                    Ok(())
                }
            };
            paused.map_err(|error| explained(&error))?;
        }
    }

    async fn until_somebody_waits(&self) {
        poll_fn(|cx| {
            if !self.waiting.borrow().is_empty() {
                return Poll::Ready(());
            }
            *self.pacer.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
