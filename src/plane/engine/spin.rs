//! How long an engine polls for events before it sleeps in its kernel (`--spin`).
//!
//! A thread that sleeps has to be woken, which takes longer than a small message. An engine that
//! spins turns without waiting instead, until a turn finds an event or the time since the last event
//! is over. Whether it spins, and for how long, changes no reply. The clock is read only after a turn
//! that found nothing, so not while there is work, and not at all without `--spin`.

use std::{
    hint::spin_loop,
    time::{Duration, Instant},
};

#[derive(Debug)]
pub(super) struct Spin {
    duration: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The last turn found an event.
    Busy,
    /// No turn has found an event since then.
    QuietSince(Instant),
}

impl Spin {
    /// Polls for `duration` after each event; zero is not at all.
    pub(super) fn new(duration: Duration) -> Self {
        Self { duration, state: State::Busy }
    }

    /// Whether the next turn may sleep until something happens.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.duration.is_zero() || self.has_been_quiet()
    }

    #[inline]
    fn has_been_quiet(&self) -> bool {
        match self.state {
            State::Busy => false,
            State::QuietSince(since) => since.elapsed() >= self.duration,
        }
    }

    /// Takes note of a turn, and of whether it found an event.
    #[inline]
    pub(super) fn note(&mut self, found_event: bool) {
        if found_event {
            self.state = State::Busy;
        } else if !self.duration.is_zero() {
            if let State::Busy = self.state {
                self.state = State::QuietSince(Instant::now());
            }
            spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        fs::File,
        io,
        os::fd::{AsFd, BorrowedFd},
        rc::Rc,
        sync::Arc,
    };

    use super::*;
    use crate::{
        config::HugePages,
        connection::ConnectionEnd,
        metrics::Counters,
        plane::engine::{
            Dimensions, Engine, Interest, Kernel,
            kernel::{Completion, Operation, SendFrom, SendMode},
        },
        protocol::echo::Rules,
    };

    /// A kernel on which only a watch is under way.
    #[derive(Default)]
    struct Watching {
        /// The watch's user data.
        watch: Option<u64>,
        /// Enters without waiting after which the watch completes; `None` has it wait for an enter
        /// that may wait.
        polls: Option<usize>,
        /// Whether each enter was one that may wait.
        enters: Rc<RefCell<Vec<bool>>>,
    }

    impl Kernel for Watching {
        fn register(&mut self, _: u32, _: Option<BorrowedFd<'_>>) -> io::Result<()> {
            unreachable!("there are no connections")
        }

        fn shut_down(&mut self, _: BorrowedFd<'_>) {}

        fn push(&mut self, _: &Operation, user_data: u64) {
            self.watch = Some(user_data);
        }

        #[expect(unsafe_code, reason = "the trait's function is unsafe")]
        unsafe fn push_send(&mut self, _: u32, _: SendFrom, _: SendMode, _: u64) {
            unreachable!("there are no connections")
        }

        #[expect(unsafe_code, reason = "the trait's function is unsafe")]
        unsafe fn provide(&mut self, _: impl Iterator<Item = (u16, *mut u8)>, _: u32) {}

        fn enter(&mut self, completions: &mut Vec<Completion>, may_wait: bool) -> io::Result<()> {
            let mut enters = self.enters.borrow_mut();
            enters.push(may_wait);
            if may_wait || self.polls == Some(enters.len()) {
                let user_data = self.watch.take().expect("somebody waits");
                completions.push(Completion::last(user_data, Ok(1)));
            }
            Ok(())
        }
    }

    /// Runs an engine until a task's wait is over, `times` times, and returns the enters of each run.
    fn enters(spin: Duration, polls: Option<usize>, times: usize) -> Vec<Vec<bool>> {
        let dimensions = Dimensions {
            receive_buffers: 1,
            receive_buffer_len: 4096,
            huge_pages: HugePages::Off,
            receive_quota: 0,
            unsent_max: 4096,
            connections_max: 1,
            spin,
        };
        let enters = Rc::default();
        let kernel = Watching { watch: None, polls, enters: Rc::clone(&enters) };
        let rules = Rules { hold: 0, frame_size_max: u64::MAX, message_size_max: u64::MAX };
        let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
        let mut engine = Engine::with_kernel(kernel, dimensions, rules, counters).unwrap();
        let awaited = File::open("/dev/null").unwrap();
        let run = |_| {
            let wait = engine.wait_for(awaited.as_fd(), Interest::Readable);
            engine.run().unwrap();
            engine.end_wait(wait);
            enters.take()
        };
        (0..times).map(run).collect()
    }

    #[test]
    fn without_a_time_the_engine_sleeps_at_once() {
        assert_eq!(enters(Duration::ZERO, None, 2), [[true], [true]]);
    }

    #[test]
    fn engine_polls_and_then_sleeps_after_every_event() {
        for run in enters(Duration::from_micros(100), None, 3) {
            let (sleeps, polls) = run.split_last().unwrap();
            assert!(*sleeps, "it sleeps in the end");
            assert!(!polls.is_empty() && !polls.contains(&true), "it polls until then: {polls:?}");
        }
    }

    #[test]
    fn event_ends_the_polling() {
        let an_hour = Duration::from_hours(1);
        for run in enters(an_hour, Some(1000), 2) {
            assert_eq!(run, [false; 1000]);
        }
    }
}
