//! Wakes the connections of one thread when they have a message to send, in an open loop.
//!
//! Planned messages go to the connections in turn. Each connection knows by itself which of them
//! are due ([`Worker::planned`]), also those that it could not send in their time; so nothing is
//! handed over here, and a wake-up too many does no harm.

use std::{io, time::Duration};

use monoio::time::sleep;

use super::{busy_poll::BusyPoll, fine_timer::FineTimer, worker::Worker};
use crate::plan::Wait;

/// The shortest sleep. Messages that become due within it are sent together, and other tasks get
/// their turn in between. At 50,000 messages a second, 20 us took twice as much time in user space.
pub(crate) const SLEEP_MIN: Duration = Duration::from_micros(50);

/// How often is looked whether the schedule is known.
const SCHEDULE_INTERVAL: Duration = Duration::from_millis(1);

/// Wakes connections when they have a message to send. Where the thread sleeps in between, this
/// ends after the last message. Where it polls, this goes on, so that no echo waits for a wake-up.
pub(crate) async fn pace(worker: &Worker, pause: &Pause) -> io::Result<()> {
    follow(worker, pause).await.map_err(|error| explained(&error))
}

async fn follow(worker: &Worker, pause: &Pause) -> io::Result<()> {
    while worker.schedule.origin().is_none() {
        sleep(SCHEDULE_INTERVAL).await;
    }
    let mut turn = Turn::default();
    loop {
        let now = worker.schedule.now();
        let next = wake_due(&mut turn, worker, now);
        match (pause, next) {
            (Pause::Poll(poll), _) => {
                let busy_turns = worker.busy_turns();
                poll.once().await?;
                if worker.busy_turns() == busy_turns {
                    // From the next planned instant on there was something to do.
                    let until = worker.schedule.now().min(next.unwrap_or(u64::MAX));
                    worker.count_polled_in_vain(until.saturating_sub(now));
                }
            }
            (Pause::Sleep(timer), Some(planned)) => {
                let pause = Duration::from_nanos(planned.saturating_sub(now));
                timer.sleep(pause.max(SLEEP_MIN)).await?;
            }
            (Pause::Sleep(_), None) => return Ok(()),
        }
    }
}

/// Wakes the connections whose messages are due at the instant `now`, each at most once. Returns the
/// instant of the message after these; `None` behind the last one of the load.
fn wake_due(turn: &mut Turn, worker: &Worker, now: u64) -> Option<u64> {
    let end = worker.schedule.end();
    let mut planned = turn.planned(worker);
    for _ in 0..worker.connections() {
        if planned > now || planned >= end {
            break;
        }
        worker.wake(turn.index);
        *turn = turn.next(worker);
        planned = turn.planned(worker);
    }
    (planned < end).then_some(planned)
}

/// What a thread does when no message is due.
#[derive(Debug)]
pub(crate) enum Pause {
    Poll(BusyPoll),
    Sleep(FineTimer),
}

impl Pause {
    /// On the runtime of this thread.
    pub(crate) fn new(wait: Wait) -> io::Result<Self> {
        let pause = match wait {
            Wait::Poll => BusyPoll::new().map(Self::Poll),
            Wait::Sleep => FineTimer::new().map(Self::Sleep),
        };
        pause.map_err(|error| explained(&error))
    }
}

/// The error of a descriptor that a pause needs, with what mends it.
pub(crate) fn explained(error: &io::Error) -> io::Error {
    let text = format!(
        "what --rate waits with is refused ({error}); allow eventfd2, timerfd_create and \
         timerfd_settime in the container's seccomp profile"
    );
    io::Error::new(error.kind(), text)
}

/// Which connection has the next message.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    /// How many messages the connection at `index` and each one behind it have had; each connection
    /// before `index` has had one more.
    round: u64,
    /// The index of the connection in this thread.
    index: usize,
}

impl Turn {
    fn planned(self, worker: &Worker) -> u64 {
        let number = worker.connection_number(self.index);
        let planned = worker.planned(number + self.round * worker.plan.connections as u64);
        planned.expect("the schedule is known")
    }

    fn next(self, worker: &Worker) -> Self {
        let index = self.index + 1;
        if index < worker.connections() {
            Self { index, ..self }
        } else {
            Self { index: 0, round: self.round + 1 }
        }
    }
}
