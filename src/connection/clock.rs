//! Time as the server counts it: in ticks of the sweep, about one a second.
//!
//! No message reads a clock. Traffic stores the current [`Tick`], and once a tick the worker asks each
//! connection's [`Timing`] what is due. So a deadline is met after at least its time, and at most one
//! tick and the time of the sweeps later: each tick begins when the sweep before it is done.
//!
//! Deadlines are for peers that stand still. A peer that has bytes to take is given up when its
//! deadline has passed and it has acknowledged none of them since a deadline last passed.

use std::{mem, num::NonZeroU32, time::Duration};

use crate::{config::Time, connection::intake::Intake};

/// The time between two sweeps.
pub const TICK: Duration = Duration::from_secs(1);

/// A point in time: the number of sweeps so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(u32);

/// A connection's place in time.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    stage: Stage,
    /// When the stage began or, while open, when the peer last sent or took something. Set anew when
    /// an end was due but the peer had taken something.
    since: Tick,
    /// How much the peer had acknowledged when an end was last due.
    acknowledged: Option<NonZeroU32>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Handshake,
    Open { is_pinged: bool },
    Closing,
}

/// What a connection's deadlines ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// A Ping: the peer has been silent for the keep-alive interval.
    Ping,
    /// The end: no whole request head came in time.
    HandshakeTimeout,
    /// The end: nothing came after the Ping.
    KeepAliveTimeout,
    /// The end: the peer has not ended a closed connection.
    CloseTimeout,
}

/// The deadlines, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    handshake: u32,
    keep_alive_interval: Option<u32>,
    keep_alive_timeout: u32,
    close: u32,
}

impl Tick {
    /// The next point in time.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// Whole ticks that have certainly passed since something happened during `earlier`.
    fn passed_since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0).saturating_sub(1)
    }
}

impl Deadlines {
    /// The deadlines that the configuration sets.
    pub fn new(time: &Time) -> Self {
        let interval = ticks(time.keep_alive_interval.get());
        Self {
            handshake: ticks(time.handshake_timeout.get()),
            keep_alive_interval: (interval > 0).then_some(interval),
            keep_alive_timeout: ticks(time.keep_alive_timeout.get()),
            close: ticks(time.close_timeout.get()),
        }
    }
}

impl Timing {
    /// A connection that was accepted `now`.
    pub fn accepted(now: Tick) -> Self {
        Self { stage: Stage::Handshake, since: now, acknowledged: None }
    }

    /// The opening handshake is over.
    pub fn opened(&mut self, now: Tick) {
        *self = Self { stage: Stage::Open { is_pinged: false }, since: now, acknowledged: None };
    }

    /// Whether the opening handshake is over, and the connection is not closed.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open { .. })
    }

    /// The peer sent or took something.
    #[inline]
    pub fn traffic(&mut self, now: Tick) {
        if let Stage::Open { is_pinged } = &mut self.stage {
            *is_pinged = false;
            self.since = now;
        }
    }

    /// The connection is closed, and what the peer sends no longer counts as traffic.
    pub fn closing(&mut self, now: Tick) {
        if !matches!(self.stage, Stage::Closing) {
            *self = Self { stage: Stage::Closing, since: now, acknowledged: None };
        }
    }

    /// What is due `now`. A Ping that is due is taken to be sent.
    ///
    /// No end is due while the peer goes on taking what it was sent. Only where an end would be due,
    /// `intake` is asked how much it has taken.
    pub fn sweep(
        &mut self,
        now: Tick,
        deadlines: &Deadlines,
        intake: impl FnOnce() -> Option<Intake>,
    ) -> Option<Due> {
        let passed = now.passed_since(self.since);
        let end = match self.stage {
            Stage::Handshake if passed >= deadlines.handshake => {
                return Some(Due::HandshakeTimeout);
            }
            Stage::Open { is_pinged: false }
                if deadlines.keep_alive_interval.is_some_and(|interval| passed >= interval) =>
            {
                self.stage = Stage::Open { is_pinged: true };
                self.since = now;
                return Some(Due::Ping);
            }
            Stage::Open { is_pinged: true } if passed >= deadlines.keep_alive_timeout => {
                Due::KeepAliveTimeout
            }
            Stage::Closing if passed >= deadlines.close => Due::CloseTimeout,
            _ => return None,
        };
        if intake().is_some_and(|intake| self.goes_on(intake, passed)) {
            self.since = now;
            return None;
        }
        Some(end)
    }

    /// Whether the peer has taken something in the last `passed` ticks, or may have: the first time,
    /// there is no earlier intake to compare with.
    fn goes_on(&mut self, intake: Intake, passed: u32) -> bool {
        if !intake.is_behind {
            // Only a segment that came more than a tick after these ticks began says that the peer
            // has read: an earlier one may acknowledge what was sent before. With a deadline of one
            // tick no segment is late enough.
            return intake.silence.is_some_and(|silence| silence + TICK < passed * TICK);
        }
        let acknowledged = NonZeroU32::new(intake.acknowledged.max(1));
        mem::replace(&mut self.acknowledged, acknowledged) != acknowledged
    }
}

/// `duration` in ticks, rounded up.
fn ticks(duration: Duration) -> u32 {
    duration.as_millis().div_ceil(TICK.as_millis()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Within;

    fn deadlines() -> Deadlines {
        Deadlines::new(&Time {
            handshake_timeout: Within::new(Duration::from_secs(3)).unwrap(),
            keep_alive_interval: Within::new(Duration::from_millis(1500)).unwrap(),
            keep_alive_timeout: Within::new(Duration::from_secs(4)).unwrap(),
            close_timeout: Within::new(Duration::from_secs(2)).unwrap(),
            ..Time::default()
        })
    }

    /// What is due at each of the next `ticks` sweeps.
    fn sweeps(timing: &mut Timing, now: &mut Tick, ticks: usize) -> Vec<Option<Due>> {
        std::iter::repeat_with(|| {
            *now = now.next();
            timing.sweep(*now, &deadlines(), || None)
        })
        .take(ticks)
        .collect()
    }

    #[test]
    fn handshake_times_out_after_at_least_its_time() {
        let mut now = Tick::default();
        let mut timing = Timing::accepted(now);
        // Accepted just before the first sweep, so that one counts for nothing.
        let due = sweeps(&mut timing, &mut now, 4);
        assert_eq!(due, [None, None, None, Some(Due::HandshakeTimeout)]);
    }

    #[test]
    fn silence_is_pinged_once_and_then_ended() {
        let mut now = Tick::default();
        let mut timing = Timing::accepted(now);
        timing.opened(now);
        assert_eq!(sweeps(&mut timing, &mut now, 3), [None, None, Some(Due::Ping)]);
        let due = sweeps(&mut timing, &mut now, 5);
        assert_eq!(due, [None, None, None, None, Some(Due::KeepAliveTimeout)]);
    }

    #[test]
    fn traffic_answers_a_ping() {
        let mut now = Tick::default();
        let mut timing = Timing::accepted(now);
        timing.opened(now);
        assert_eq!(sweeps(&mut timing, &mut now, 3)[2], Some(Due::Ping));
        timing.traffic(now);
        assert_eq!(sweeps(&mut timing, &mut now, 3), [None, None, Some(Due::Ping)]);
    }

    #[test]
    fn traffic_does_not_keep_a_closed_connection() {
        let mut now = Tick::default();
        let mut timing = Timing::accepted(now);
        timing.closing(now);
        timing.traffic(now.next());
        timing.closing(now.next());
        assert_eq!(sweeps(&mut timing, &mut now, 3), [None, None, Some(Due::CloseTimeout)]);
    }

    #[test]
    fn traffic_does_not_open_a_connection() {
        let mut now = Tick::default();
        let mut timing = Timing::accepted(now);
        timing.traffic(now);
        let due = sweeps(&mut timing, &mut now, 4);
        assert_eq!(due, [None, None, None, Some(Due::HandshakeTimeout)]);
    }

    /// What is due at each of the next ticks to a peer whose intake is this.
    fn sweeps_of(timing: &mut Timing, now: &mut Tick, intakes: &[Intake]) -> Vec<Option<Due>> {
        let sweep = |intake: &Intake| {
            *now = now.next();
            timing.sweep(*now, &deadlines(), || Some(*intake))
        };
        intakes.iter().map(sweep).collect()
    }

    const BEHIND: Intake =
        Intake { acknowledged: 7, is_behind: true, silence: Some(Duration::from_millis(100)) };

    #[test]
    fn peer_that_takes_what_it_was_sent_is_not_given_up_until_it_stands_still() {
        for (end, deadline) in [(Due::CloseTimeout, 3), (Due::KeepAliveTimeout, 5)] {
            let mut now = Tick::default();
            let mut timing = Timing::accepted(now);
            timing.opened(now);
            if end == Due::CloseTimeout {
                timing.closing(now);
            } else {
                assert_eq!(sweeps(&mut timing, &mut now, 3)[2], Some(Due::Ping));
            }
            for acknowledged in 1..20 {
                let intakes = vec![Intake { acknowledged, ..BEHIND }; deadline];
                assert_eq!(sweeps_of(&mut timing, &mut now, &intakes), vec![None; deadline]);
            }
            let intakes = vec![Intake { acknowledged: 19, ..BEHIND }; deadline];
            assert_eq!(sweeps_of(&mut timing, &mut now, &intakes).last(), Some(&Some(end)));
        }
    }

    /// The peer's program reads, so its system announces the new room in further segments. A peer
    /// whose program stands still acknowledges a Ping or a Close, and no more.
    #[test]
    fn peer_that_has_all_but_reads_it_slowly_is_not_given_up() {
        let mut now = Tick::default();
        let mut timing = Timing::accepted(now);
        timing.closing(now);
        let has_all = |silence| Intake { is_behind: false, silence, ..BEHIND };
        let reads = [has_all(Some(Duration::from_millis(900))); 6];
        assert_eq!(sweeps_of(&mut timing, &mut now, &reads), [None; 6]);
        for silence in [Some(Duration::from_millis(1900)), None] {
            let mut timing = Timing::accepted(now);
            timing.closing(now);
            let due = sweeps_of(&mut timing, &mut now, &[has_all(silence); 3]);
            assert_eq!(due.last(), Some(&Some(Due::CloseTimeout)));
        }
    }

    #[test]
    fn interval_of_zero_never_pings() {
        let keep_alive_interval = Within::new(Duration::ZERO).unwrap();
        let deadlines = Deadlines::new(&Time { keep_alive_interval, ..Time::default() });
        let mut timing = Timing::accepted(Tick(0));
        timing.opened(Tick(0));
        assert_eq!(timing.sweep(Tick(1_000_000), &deadlines, || None), None);
    }
}
