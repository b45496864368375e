//! Time as the server counts it: in ticks of the sweep, about one a second.
//!
//! Nothing on a message's way reads a clock. Traffic stores the current [`Tick`], and once a tick
//! the worker asks each connection's [`Timing`] what is due. Deadlines are therefore met at least
//! after the time given, and at most one tick later, beside the time that the sweeps themselves
//! take: each tick begins when the sweep before it is done, so that none is shorter than it says.

use std::time::Duration;

use crate::config::Limits;

/// The time between two sweeps.
pub const TICK: Duration = Duration::from_secs(1);

/// A point in time: the number of sweeps so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(u32);

/// A connection's place in time.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    stage: Stage,
    /// When the stage began or, while open, when the peer last sent or took something.
    since: Tick,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Handshake,
    Open { pinged: Option<Tick> },
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
    /// The deadlines that `limits` set.
    pub fn new(limits: &Limits) -> Self {
        let interval = ticks(limits.keep_alive_interval);
        Self {
            handshake: ticks(limits.handshake_timeout),
            keep_alive_interval: (interval > 0).then_some(interval),
            keep_alive_timeout: ticks(limits.keep_alive_timeout),
            close: ticks(limits.close_timeout),
        }
    }
}

impl Timing {
    /// A connection that was accepted `now`.
    pub fn accepted(now: Tick) -> Self {
        Self { stage: Stage::Handshake, since: now }
    }

    /// The connection is open, or the peer sent or took something.
    pub fn traffic(&mut self, now: Tick) {
        if !matches!(self.stage, Stage::Closing) {
            *self = Self { stage: Stage::Open { pinged: None }, since: now };
        }
    }

    /// The connection is closed, and what the peer does no longer counts as traffic.
    pub fn closing(&mut self, now: Tick) {
        if !matches!(self.stage, Stage::Closing) {
            *self = Self { stage: Stage::Closing, since: now };
        }
    }

    /// What is due `now`. A Ping that is due is taken to be sent.
    pub fn sweep(&mut self, now: Tick, deadlines: &Deadlines) -> Option<Due> {
        let passed = now.passed_since(self.since);
        match self.stage {
            Stage::Handshake if passed >= deadlines.handshake => Some(Due::HandshakeTimeout),
            Stage::Closing if passed >= deadlines.close => Some(Due::CloseTimeout),
            Stage::Handshake | Stage::Closing => None,
            Stage::Open { pinged: Some(pinged) } => (now.passed_since(pinged)
                >= deadlines.keep_alive_timeout)
                .then_some(Due::KeepAliveTimeout),
            Stage::Open { pinged: None } => {
                if passed < deadlines.keep_alive_interval? {
                    return None;
                }
                self.stage = Stage::Open { pinged: Some(now) };
                Some(Due::Ping)
            }
        }
    }
}

/// `duration` in ticks, rounded up.
fn ticks(duration: Duration) -> u32 {
    duration.as_millis().div_ceil(TICK.as_millis()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deadlines() -> Deadlines {
        Deadlines::new(&Limits {
            handshake_timeout: Duration::from_secs(3),
            keep_alive_interval: Duration::from_millis(1500),
            keep_alive_timeout: Duration::from_secs(4),
            close_timeout: Duration::from_secs(2),
            ..Limits::default()
        })
    }

    /// What is due at each of the next `ticks` sweeps.
    fn sweeps(timing: &mut Timing, now: &mut Tick, ticks: usize) -> Vec<Option<Due>> {
        std::iter::repeat_with(|| {
            *now = now.next();
            timing.sweep(*now, &deadlines())
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
        timing.traffic(now);
        assert_eq!(sweeps(&mut timing, &mut now, 3), [None, None, Some(Due::Ping)]);
        let due = sweeps(&mut timing, &mut now, 5);
        assert_eq!(due, [None, None, None, None, Some(Due::KeepAliveTimeout)]);
    }

    #[test]
    fn traffic_answers_a_ping() {
        let mut now = Tick::default();
        let mut timing = Timing::accepted(now);
        timing.traffic(now);
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
    fn interval_of_zero_never_pings() {
        let limits = Limits { keep_alive_interval: Duration::ZERO, ..Limits::default() };
        let deadlines = Deadlines::new(&limits);
        let mut timing = Timing::accepted(Tick(0));
        timing.traffic(Tick(0));
        assert_eq!(timing.sweep(Tick(1_000_000), &deadlines), None);
    }
}
