//! Drain: closing a worker's connections, a share of them at each of many steps, so that their
//! clients do not come back at once.
//!
//! A connection's turn comes once: it then gets its Close frame as soon as no message is under way.
//! Every step looks at all connections, so it finds those that changed their place or were upgraded
//! since, in the order of the tables. [`Steps`] is pure; the worker's clock moves it on.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::future::{Either, select};

use super::{Worker, orders::Drain};
use crate::{
    connection::{ConnectionEnd, Control, Demand},
    plane::Plane,
    protocol::session::Goodbye,
    pulse::Activity,
};

/// How many steps there are, unless they would be too far apart or too close together.
const STEPS: u32 = 1000;

/// The least and the most time between two steps. Closer ones would be late on a busy worker, and
/// steps far apart would have many clients come back together.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The steps of a drain: when each is due, and the share of the connections that it closes.
pub(super) struct Steps {
    /// The number of steps that are still to come.
    left: u32,
    count: u32,
    spread: Duration,
    /// How many connections should have been closed by now, less those that have been, in parts of
    /// [`ONE`]. Negative after a step that was rounded up.
    owed: i64,
}

/// One connection.
const ONE: i64 = 1 << 20;

/// More connections than there can be, of which the parts can still be counted.
const LEFT_MAX: i64 = 1 << 40;

impl Steps {
    /// Steps that are spread evenly over a time, the first at its beginning and the last at its end;
    /// a single step if there is no time.
    pub(super) fn over(spread: Duration) -> Self {
        let pause = (spread / STEPS).clamp(PAUSE_MIN, PAUSE_MAX);
        let count = 1 + spread.as_nanos().div_ceil(pause.as_nanos()) as u32;
        Self { left: count, count, spread, owed: 0 }
    }

    /// Takes a step: how many of the connections `left` are to be closed now. The last step closes
    /// all of them.
    pub(super) fn share(&mut self, left: usize) -> usize {
        let steps = i64::from(self.left.max(1));
        self.left = self.left.saturating_sub(1);
        let left = i64::try_from(left).map_or(LEFT_MAX, |left| left.min(LEFT_MAX));
        // As if the connections that are left could be closed in parts.
        self.owed += (left * ONE - self.owed) / steps;
        let rounded_up = (self.owed + ONE - 1).div_euclid(ONE);
        let share = if steps == 1 { left } else { rounded_up.clamp(0, left) };
        self.owed -= share * ONE;
        usize::try_from(share).unwrap_or(0)
    }

    /// When the next step is due, after the first; `None` if there is none.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let taken = self.count - self.left;
        (self.left > 0).then(|| self.spread * taken / (self.count - 1))
    }
}

impl<P: Plane> Worker<P> {
    /// Has every connection closed, and waits for their ends, for as long as the order says.
    pub(super) async fn drain(&self, order: Drain) {
        self.counters.pulse.begin(Activity::Draining);
        // Requests are refused, and their clients have nothing to lose by that.
        self.demand_of(
            |control| !control.is_open(),
            usize::MAX,
            Demand::Goodbye(Goodbye::Stopping),
        );
        let mut steps = Steps::over(order.spread);
        let begun = Instant::now();
        loop {
            self.close_some(steps.share(self.undrained_count()));
            let Some(due) = steps.next_due().filter(|_| self.undrained_count() > 0) else { break };
            let pause = (begun + due).saturating_duration_since(Instant::now());
            let pause = self.plane.sleep(pause);
            if let Either::Left(_) = select(pin!(self.drained()), pin!(pause)).await {
                return;
            }
        }
        // A connection whose handshake ends later is closed at once.
        self.plane.drain();
        let timeout = self.plane.sleep(order.timeout);
        if let Either::Right(_) = select(pin!(self.drained()), pin!(timeout)).await {
            self.demand_of(|_| true, usize::MAX, Demand::End(ConnectionEnd::Abandoned));
            self.plane.abandon();
            self.drained().await;
        }
    }

    /// Connections with a session that have not had their turn.
    pub(super) fn undrained_count(&self) -> usize {
        let tasks = self.connections.borrow();
        let tasks = tasks.iter().filter(|(_, control)| control.is_undrained()).count();
        tasks + self.plane.undrained_count()
    }

    /// Gives the next `count` connections their turn.
    pub(super) fn close_some(&self, count: usize) {
        let demanded =
            self.demand_of(Control::is_undrained, count, Demand::Goodbye(Goodbye::Stopping));
        self.plane.drain_some(count - demanded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shares of all steps, for connections of which at each step `change` says how many are
    /// left, given how many were.
    fn shares(
        spread: Duration,
        count: usize,
        change: impl Fn(usize, usize) -> usize,
    ) -> Vec<usize> {
        let mut steps = Steps::over(spread);
        let mut left = count;
        let mut shares = Vec::new();
        loop {
            left = change(shares.len(), left);
            shares.push(steps.share(left));
            left -= shares[shares.len() - 1];
            if steps.next_due().is_none() {
                assert_eq!(left, 0, "nobody is forgotten");
                return shares;
            }
        }
    }

    #[test]
    fn without_time_all_are_closed_at_once() {
        assert_eq!(shares(Duration::ZERO, 50_000, |_, left| left), [50_000]);
    }

    #[test]
    fn shares_are_even_and_add_up() {
        for (seconds, steps) in [(1, 101), (10, 1001), (60, 1001), (3600, 7201)] {
            for count in [0, 1, 2, 10, 999, 1000, 1001, 50_000] {
                let shares = shares(Duration::from_secs(seconds), count, |_, left| left);
                assert_eq!((shares.len(), shares.iter().sum::<usize>()), (steps, count));
                let mean = count / steps;
                let is_even = |share: &usize| (mean..=mean + 1).contains(share);
                assert!(shares.iter().all(is_even), "{count} over {seconds} s: {shares:?}");
                // So are the shares of each whole tenth of the steps.
                let tenths = shares.chunks_exact(steps.div_ceil(10)).map(|it| it.iter().sum());
                let tenths: Vec<usize> = tenths.collect();
                assert!(
                    tenths.iter().max().unwrap() - tenths.iter().min().unwrap() <= 2,
                    "{tenths:?}"
                );
            }
        }
    }

    #[test]
    fn few_connections_are_closed_at_even_distances() {
        let shares = shares(Duration::from_secs(10), 5, |_, left| left);
        let closed_at: Vec<_> = (0..shares.len()).filter(|at| shares[*at] > 0).collect();
        assert_eq!(closed_at.len(), 5);
        let distances: Vec<_> = closed_at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(distances.iter().all(|distance| (199..=202).contains(distance)), "{distances:?}");
    }

    #[test]
    fn connections_that_come_or_go_meanwhile_change_the_shares_and_not_the_end() {
        let halved_at_500 = |step, left| if step == 500 { left / 2 } else { left };
        let shares_of_fewer = shares(Duration::from_secs(10), 10_010, halved_at_500);
        assert_eq!(shares_of_fewer[0], 10);
        assert!(shares_of_fewer[501..].iter().all(|share| (4..=6).contains(share)));
        let some_each = |_, left| left + 1;
        let shares_of_more = shares(Duration::from_secs(10), 1001, some_each);
        assert_eq!(shares_of_more.iter().sum::<usize>(), 1001 + 1001);
    }

    #[test]
    fn steps_are_due_from_the_beginning_of_the_time_to_its_end() {
        for spread in [1, 15, 1000, 3_600_000].map(Duration::from_millis) {
            let mut steps = Steps::over(spread);
            let mut due = vec![Duration::ZERO];
            loop {
                steps.share(1);
                let Some(next) = steps.next_due() else { break };
                due.push(next);
            }
            assert!(due.windows(2).all(|pair| pair[0] < pair[1]), "{due:?}");
            assert_eq!(due.last(), Some(&spread));
        }
    }
}
