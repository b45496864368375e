//! Time as the server counts it: in ticks of the sweep, about one a second.
//!
//! No message reads a clock. Traffic stores the current [`Tick`], and once a tick the worker asks each
//! connection's [`Timing`] what is due. So a deadline is met after at least its time, and at most one
//! tick and the time of the sweeps later: each tick begins when the sweep before it is done.
//!
//! Deadlines are for peers that stand still. A peer that has bytes to take is given up when its
//! deadline has passed and it has acknowledged none of them since a deadline last passed.
//!
//! The deadline that is met first ends a connection. Of several that are due in one sweep, the order
//! in [`Timing::sweep`] decides: a peer that takes nothing, one that is silent, one that is too old,
//! one without a message, and last the Ping. While a reply waits for its peer, neither the keep-alive
//! nor the idle timeout runs: a peer that has yet to take its echo owes nothing.

use std::{num::NonZeroU32, time::Duration};

use crate::{config::Time, connection::intake::Intake, protocol::session::Goodbye};

/// The time between two sweeps.
pub const TICK: Duration = Duration::from_secs(1);

/// A point in time: the number of sweeps so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(u32);

/// A connection's place in time.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    stage: Stage,
    /// When `acknowledged` was noted: the lower bits of a tick. No deadline that looks at it is longer.
    noted: u16,
    /// When the stage began or, while open, when the peer last sent or took something. Set anew when
    /// an end was due but the peer had taken something.
    since: Tick,
    /// How much the peer had acknowledged when that was last looked at, if it had bytes to take.
    acknowledged: Option<NonZeroU32>,
    /// When a message last came, or the connection opened.
    last_message: Tick,
    /// When the connection opened.
    opened: Tick,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// A request is awaited or arrives.
    Handshake,
    /// A response is sent that another request may follow.
    Answering,
    /// A request has been answered, and nothing of another has come.
    BetweenRequests,
    Open {
        is_pinged: bool,
    },
    Closing,
}

/// What a connection's deadlines ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// A Ping: the peer has been silent for the keep-alive interval.
    Ping,
    /// The end: no whole request head came in time.
    HandshakeTimeout,
    /// The end: nothing of another request came in time.
    NoRequest,
    /// The end: nothing came after the Ping.
    KeepAliveTimeout,
    /// The end: the peer has not ended a closed connection.
    CloseTimeout,
    /// The end: the peer has taken nothing of what it was sent.
    WriteTimeout,
    /// A Close frame, between two messages.
    Goodbye(Goodbye),
    /// The end: a message that was under way has not ended since the connection was too old.
    LifetimeOver,
}

/// A connection as the sweep finds it.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// A reply waits, since the peer's socket takes no more for now.
    pub is_blocked: bool,
    /// A number that neighbours do not share, such as its descriptor's: it spreads what would
    /// otherwise be due for all at once.
    pub number: u32,
}

/// The deadlines, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    handshake: u32,
    http_keep_alive: u32,
    keep_alive_interval: Option<u32>,
    keep_alive_timeout: u32,
    close: u32,
    write: u32,
    idle: Option<u32>,
    lifetime: Option<u32>,
}

impl Tick {
    /// The next point in time.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// The sweeps since `earlier`.
    pub(crate) fn ticks_since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whole ticks that have certainly passed since something happened during `earlier`.
    fn passed_since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0).saturating_sub(1)
    }
}

impl Deadlines {
    /// The deadlines that the configuration sets.
    pub fn new(time: &Time) -> Self {
        let unless_off = |duration| Some(ticks(duration)).filter(|ticks| *ticks > 0);
        Self {
            handshake: ticks(time.handshake_timeout.get()),
            http_keep_alive: ticks(time.http_keep_alive.get()),
            keep_alive_interval: unless_off(time.keep_alive_interval.get()),
            keep_alive_timeout: ticks(time.keep_alive_timeout.get()),
            close: ticks(time.close_timeout.get()),
            write: ticks(time.write_timeout.get()),
            idle: unless_off(time.idle_timeout.get()),
            lifetime: unless_off(time.lifetime_max.get()),
        }
    }

    /// What is due to a connection of this age, in ticks, for its age.
    fn due_for_age(&self, age: u32, number: u32) -> Option<Due> {
        let lifetime = u64::from(self.lifetime?);
        // Multiples of the golden ratio spread any row of numbers evenly over 2^32.
        let share = u64::from(number.wrapping_mul(0x9e37_79b9));
        let tenth = lifetime / 10;
        let own = lifetime - ((tenth * share) >> u32::BITS);
        let age = u64::from(age);
        if age >= own + tenth.max(self.close.into()) {
            Some(Due::LifetimeOver)
        } else {
            (age >= own).then_some(Due::Goodbye(Goodbye::LifetimeOver))
        }
    }
}

impl Timing {
    /// A connection that was accepted `now`.
    pub fn accepted(now: Tick) -> Self {
        Self {
            stage: Stage::Handshake,
            noted: 0,
            since: now,
            acknowledged: None,
            last_message: now,
            opened: now,
        }
    }

    /// The opening handshake is over.
    pub fn opened(&mut self, now: Tick) {
        *self = Self { stage: Stage::Open { is_pinged: false }, ..Self::accepted(now) };
    }

    /// A request begins, or a part of one that has as long as its head.
    pub fn request(&mut self, now: Tick) {
        self.enter(Stage::Handshake, now);
    }

    /// A request is answered, and another may follow.
    pub fn answering(&mut self, now: Tick) {
        self.enter(Stage::Answering, now);
    }

    /// A request has been answered, and nothing of another has come.
    pub fn between_requests(&mut self, now: Tick) {
        self.enter(Stage::BetweenRequests, now);
    }

    fn enter(&mut self, stage: Stage, now: Tick) {
        *self = Self { stage, since: now, ..*self };
    }

    /// Whether a request has been answered, and nothing of another has come.
    pub fn is_between_requests(&self) -> bool {
        matches!(self.stage, Stage::BetweenRequests)
    }

    /// Whether the opening handshake is not over, and has certainly lasted so long.
    pub fn is_in_handshake_for(&self, duration: Duration, now: Tick) -> bool {
        matches!(self.stage, Stage::Handshake) && now.passed_since(self.since) >= ticks(duration)
    }

    /// A connection that carries streams has one again, perhaps one that was on its way when the peer
    /// was told to open no more.
    pub(crate) fn occupied(&mut self, now: Tick) {
        self.stage = Stage::Open { is_pinged: false };
        (self.since, self.last_message, self.acknowledged) = (now, now, None);
    }

    /// A connection that carries streams has none: it awaits a request, and has as long for it as for
    /// the first one.
    pub(crate) fn vacant(&mut self, now: Tick) {
        if !matches!(self.stage, Stage::Closing) {
            (self.stage, self.since, self.acknowledged) = (Stage::Handshake, now, None);
        }
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

    /// A message came, or is on its way.
    #[inline]
    pub fn message(&mut self, now: Tick) {
        self.last_message = now;
    }

    /// Whether a message has come since the last sweep, the one of `now`.
    pub fn has_message_since(&self, now: Tick) -> bool {
        self.last_message == now
    }

    /// The peer took something of what waited for it.
    pub fn taken(&mut self, now: Tick) {
        self.traffic(now);
        self.acknowledged = None;
    }

    /// The connection is closed, and what the peer sends no longer counts as traffic.
    pub fn closing(&mut self, now: Tick) {
        if !matches!(self.stage, Stage::Closing) {
            *self = Self { stage: Stage::Closing, since: now, acknowledged: None, ..*self };
        }
    }

    /// What is due `now`, once for each tick. A Ping that is due is taken to be sent.
    ///
    /// No end is due while the peer goes on taking what it was sent. `intake` tells how much it has
    /// taken. It is asked only where an end would be due, at the first sweep that finds the peer
    /// blocked, and after traffic once in a write timeout.
    pub fn sweep(
        &mut self,
        now: Tick,
        deadlines: &Deadlines,
        standing: Standing,
        intake: impl Fn() -> Option<Intake>,
    ) -> Option<Due> {
        let Standing { is_blocked, number } = standing;
        if self.is_intake_due(now, deadlines.write, standing)
            && self.stands_still(now, deadlines.write, is_blocked, &intake)
        {
            return Some(Due::WriteTimeout);
        }
        let passed = now.passed_since(self.since);
        let end = match self.stage {
            Stage::Handshake if passed >= deadlines.handshake => {
                return Some(Due::HandshakeTimeout);
            }
            Stage::BetweenRequests if passed >= deadlines.http_keep_alive => {
                return Some(Due::NoRequest);
            }
            Stage::Open { is_pinged: true }
                if !is_blocked && passed >= deadlines.keep_alive_timeout =>
            {
                Due::KeepAliveTimeout
            }
            Stage::Closing | Stage::Answering if passed >= deadlines.close => Due::CloseTimeout,
            Stage::Open { is_pinged } => {
                if is_blocked {
                    self.message(now);
                }
                let goodbye = self.goodbye_due(now, deadlines, number);
                let interval = deadlines.keep_alive_interval.unwrap_or(u32::MAX);
                if goodbye.is_none() && !is_pinged && !is_blocked && passed >= interval {
                    self.stage = Stage::Open { is_pinged: true };
                    self.since = now;
                    return Some(Due::Ping);
                }
                return goodbye;
            }
            Stage::Handshake | Stage::Answering | Stage::BetweenRequests | Stage::Closing => {
                return None;
            }
        };
        let ticks = match end {
            Due::CloseTimeout => deadlines.close,
            _ => deadlines.keep_alive_timeout,
        };
        if intake().is_some_and(|intake| self.goes_on(intake, now, passed, ticks)) {
            return None;
        }
        Some(end)
    }

    /// What is due to an open connection for its age, or for the time without a message.
    #[inline]
    fn goodbye_due(&self, now: Tick, deadlines: &Deadlines, number: u32) -> Option<Due> {
        let is_idle =
            deadlines.idle.is_some_and(|idle| now.passed_since(self.last_message) >= idle);
        deadlines
            .due_for_age(now.passed_since(self.opened), number)
            .or_else(|| is_idle.then_some(Due::Goodbye(Goodbye::Idle)))
    }

    /// Whether it is time to see what the peer has taken. If its replies wait, that is the first
    /// sweep, and the write timeout after what was noted there. If the socket has taken all, they may
    /// still be on their way for some time after the last traffic, which is looked at once in a write
    /// timeout, for each connection at a sweep of its own.
    #[inline]
    fn is_intake_due(&self, now: Tick, write: u32, standing: Standing) -> bool {
        let Standing { is_blocked, number } = standing;
        if is_blocked {
            return self.acknowledged.is_none() || self.noted_for(now) >= write;
        }
        let may_be_behind =
            self.acknowledged.is_some() || now.0.wrapping_sub(self.since.0) <= write;
        may_be_behind && now.0.wrapping_add(number).is_multiple_of(write)
    }

    /// Whether the peer has had bytes to take, and taken none, for the write timeout.
    #[cold]
    fn stands_still(
        &mut self,
        now: Tick,
        write: u32,
        is_blocked: bool,
        intake: impl Fn() -> Option<Intake>,
    ) -> bool {
        let acknowledged = match intake() {
            Some(Intake { is_behind: false, .. }) => None,
            Some(Intake { acknowledged, .. }) => Some(acknowledged),
            // This is no TCP connection, and only the waiting reply tells that something is left.
            None => is_blocked.then_some(0),
        };
        let Some(acknowledged) = acknowledged else {
            self.acknowledged = None;
            return false;
        };
        !self.note(acknowledged, now) && self.noted_for(now) >= write
    }

    /// Whether the peer has taken something in the last `passed` ticks, or may have: the first time,
    /// there is no earlier intake to compare with.
    fn goes_on(&mut self, intake: Intake, now: Tick, passed: u32, ticks: u32) -> bool {
        if !intake.is_behind {
            // Only a segment that came more than a tick after these ticks began says that the peer
            // has read: an earlier one may acknowledge what was sent before. With a deadline of one
            // tick no segment is late enough.
            let goes_on = intake.silence.is_some_and(|silence| silence + TICK < passed * TICK);
            if goes_on {
                self.since = now;
            }
            return goes_on;
        }
        if self.note(intake.acknowledged, now) {
            self.since = now;
            return true;
        }
        // What was noted for the write timeout may be too fresh to say that the peer stands still.
        self.noted_for(now) <= ticks
    }

    /// Notes how much the peer has acknowledged, and returns whether that is news.
    fn note(&mut self, acknowledged: u32, now: Tick) -> bool {
        let acknowledged = NonZeroU32::new(acknowledged.max(1));
        let is_news = self.acknowledged != acknowledged;
        if is_news {
            (self.acknowledged, self.noted) = (acknowledged, now.0 as u16);
        }
        is_news
    }

    /// The ticks that have passed since the sweep that noted what the peer has acknowledged.
    fn noted_for(&self, now: Tick) -> u32 {
        (now.0 as u16).wrapping_sub(self.noted).into()
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
            http_keep_alive: Within::new(Duration::from_secs(5)).unwrap(),
            keep_alive_interval: Within::new(Duration::from_millis(1500)).unwrap(),
            keep_alive_timeout: Within::new(Duration::from_secs(4)).unwrap(),
            close_timeout: Within::new(Duration::from_secs(2)).unwrap(),
            write_timeout: Within::new(Duration::from_secs(1000)).unwrap(),
            ..Time::default()
        })
    }

    const AT_EASE: Standing = Standing { is_blocked: false, number: 1 };
    const BLOCKED: Standing = Standing { is_blocked: true, ..AT_EASE };

    /// What is due at each of the next `ticks` sweeps.
    fn sweeps(timing: &mut Timing, now: &mut Tick, ticks: usize) -> Vec<Option<Due>> {
        std::iter::repeat_with(|| {
            *now = now.next();
            timing.sweep(*now, &deadlines(), AT_EASE, || None)
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
    fn each_request_has_its_time_and_so_has_the_silence_between_two() {
        let mut now = Tick::default();
        let mut timing = Timing::accepted(now);
        assert_eq!(sweeps(&mut timing, &mut now, 3), [None; 3]);
        timing.answering(now);
        assert_eq!(sweeps(&mut timing, &mut now, 2), [None; 2]);
        timing.between_requests(now);
        assert!(timing.is_between_requests() && !timing.is_open());
        assert_eq!(sweeps(&mut timing, &mut now, 5), [None; 5]);
        timing.request(now);
        assert!(!timing.is_between_requests());
        assert_eq!(sweeps(&mut timing, &mut now, 4)[3], Some(Due::HandshakeTimeout));
        timing.answering(now);
        assert_eq!(sweeps(&mut timing, &mut now, 3), [None, None, Some(Due::CloseTimeout)]);
        timing.between_requests(now);
        assert_eq!(sweeps(&mut timing, &mut now, 6)[4..], [None, Some(Due::NoRequest)]);
        timing.request(now);
        timing.opened(now);
        assert!(timing.is_open());
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
            timing.sweep(*now, &deadlines(), AT_EASE, || Some(*intake))
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
        assert_eq!(timing.sweep(Tick(1_000_000), &deadlines, AT_EASE, || None), None);
    }

    fn with(change: impl FnOnce(&mut Time)) -> Deadlines {
        let mut time = Time::default();
        change(&mut time);
        Deadlines::new(&time)
    }

    fn seconds<const MIN: u64, const MAX: u64>(seconds: u64) -> Within<Duration, MIN, MAX> {
        Within::new(Duration::from_secs(seconds)).unwrap()
    }

    /// What falls due within so many ticks, each with its tick, if the peer says nothing.
    fn first_due(
        deadlines: &Deadlines,
        mut timing: Timing,
        standing: Standing,
        intake: Option<Intake>,
    ) -> Option<(u32, Due)> {
        (1..5000).find_map(|tick| {
            let due = timing.sweep(Tick(tick), deadlines, standing, || intake);
            Some(tick).zip(due)
        })
    }

    fn open() -> Timing {
        let mut timing = Timing::accepted(Tick(0));
        timing.opened(Tick(0));
        timing
    }

    fn closing() -> Timing {
        let mut timing = open();
        timing.closing(Tick(0));
        timing
    }

    /// The deadline that is met first wins, and of those that are due together the first in the order.
    #[test]
    fn deadline_that_is_met_first_wins_and_a_blocked_peer_has_that_for_writing() {
        const GOODBYE: Due = Due::Goodbye(Goodbye::LifetimeOver);
        let accepted = Timing::accepted(Tick(0));
        let read_it_all = Intake { is_behind: false, silence: None, ..BEHIND };
        for (name, deadlines, timing, standing, intake, expected) in [
            // A sweep later than its time: what is noted is noted by a sweep.
            ("write", with(|_| ()), open(), BLOCKED, Some(BEHIND), (31, Due::WriteTimeout)),
            ("write, no TCP", with(|_| ()), open(), BLOCKED, None, (31, Due::WriteTimeout)),
            (
                "write, in spite of a shorter keep-alive",
                with(|time| {
                    time.keep_alive_interval = seconds(2);
                    time.keep_alive_timeout = seconds(2);
                }),
                open(),
                BLOCKED,
                Some(BEHIND),
                (31, Due::WriteTimeout),
            ),
            (
                "write, without keep-alive, and with what only the socket has taken",
                with(|time| time.keep_alive_interval = seconds(0)),
                open(),
                AT_EASE,
                Some(BEHIND),
                (59, Due::WriteTimeout),
            ),
            (
                "keep-alive, since all is taken",
                with(|_| ()),
                open(),
                AT_EASE,
                Some(read_it_all),
                (121, Due::Ping),
            ),
            (
                "the handshake's deadline, which is earlier",
                with(|_| ()),
                accepted,
                BLOCKED,
                Some(BEHIND),
                (11, Due::HandshakeTimeout),
            ),
            (
                "write, of a response to a handshake that may take longer",
                with(|time| time.handshake_timeout = seconds(3600)),
                accepted,
                BLOCKED,
                Some(BEHIND),
                (31, Due::WriteTimeout),
            ),
            (
                "the close timeout, which is earlier",
                with(|_| ()),
                closing(),
                BLOCKED,
                Some(BEHIND),
                (7, Due::CloseTimeout),
            ),
            (
                "write, of a Close frame that only the socket has taken",
                with(|time| time.close_timeout = seconds(3600)),
                closing(),
                AT_EASE,
                Some(BEHIND),
                (59, Due::WriteTimeout),
            ),
            (
                "write, of what comes before a Close frame",
                with(|time| time.close_timeout = seconds(3600)),
                closing(),
                BLOCKED,
                Some(BEHIND),
                (31, Due::WriteTimeout),
            ),
            (
                "age before idle",
                with(|time| {
                    time.idle_timeout = seconds(5);
                    time.lifetime_max = seconds(5);
                }),
                open(),
                AT_EASE,
                None,
                (6, GOODBYE),
            ),
            (
                "idle before the Ping",
                with(|time| {
                    time.idle_timeout = seconds(5);
                    time.keep_alive_interval = seconds(5);
                }),
                open(),
                AT_EASE,
                None,
                (6, Due::Goodbye(Goodbye::Idle)),
            ),
        ] {
            assert_eq!(first_due(&deadlines, timing, standing, intake), Some(expected), "{name}");
        }
    }

    #[test]
    fn idle_timeout_does_not_run_while_a_reply_waits() {
        let deadlines = with(|time| {
            time.idle_timeout = seconds(3);
            time.lifetime_max = seconds(5);
        });
        let expected = Some((6, Due::Goodbye(Goodbye::LifetimeOver)));
        assert_eq!(first_due(&deadlines, open(), BLOCKED, Some(BEHIND)), expected);
    }

    #[test]
    fn blocked_peer_that_takes_a_byte_in_time_lives() {
        let (mut timing, deadlines) = (open(), with(|time| time.write_timeout = seconds(3)));
        for tick in 1..98 {
            let acknowledged = 10 + tick / 3;
            let intake = || Some(Intake { acknowledged, ..BEHIND });
            assert_eq!(timing.sweep(Tick(tick), &deadlines, BLOCKED, intake), None, "tick {tick}");
        }
        let stands_still = || Some(Intake { acknowledged: 42, ..BEHIND });
        let due =
            [98, 99, 100].map(|tick| timing.sweep(Tick(tick), &deadlines, BLOCKED, stands_still));
        assert_eq!(due, [None, None, Some(Due::WriteTimeout)]);
    }

    #[test]
    fn peer_with_traffic_is_asked_what_it_took_once_in_a_write_timeout_and_a_silent_one_never() {
        let (mut timing, deadlines) = (open(), with(|_| ()));
        let asked = std::cell::Cell::new(0);
        let intake = || {
            asked.set(asked.get() + 1);
            Some(Intake { is_behind: false, ..BEHIND })
        };
        for tick in 1..=300 {
            timing.traffic(Tick(tick - 1));
            timing.sweep(Tick(tick), &deadlines, AT_EASE, intake);
        }
        assert_eq!(asked.replace(0), 10);
        for tick in 301..420 {
            timing.sweep(Tick(tick), &deadlines, AT_EASE, intake);
        }
        assert_eq!(asked.get(), 1);
    }

    #[test]
    fn message_restarts_the_idle_timeout_and_other_traffic_does_not() {
        let deadlines = with(|time| time.idle_timeout = seconds(3));
        let due = |timing: &mut Timing, tick| {
            timing.traffic(Tick(tick - 1));
            timing.sweep(Tick(tick), &deadlines, AT_EASE, || None)
        };
        let mut timing = open();
        assert_eq!([1, 2, 3].map(|tick| due(&mut timing, tick)), [None; 3]);
        timing.message(Tick(3));
        assert_eq!([4, 5, 6].map(|tick| due(&mut timing, tick)), [None; 3]);
        assert_eq!(due(&mut timing, 7), Some(Due::Goodbye(Goodbye::Idle)));
        assert_eq!(due(&mut timing, 8), Some(Due::Goodbye(Goodbye::Idle)), "until it is said");
    }

    /// Connections that opened together: as many end in each hundredth of the lifetime.
    #[test]
    fn lifetimes_end_evenly_over_a_tenth_and_a_message_has_as_long_to_end() {
        let deadlines = with(|time| time.lifetime_max = seconds(1000));
        for step in [1, 2, 3] {
            let mut ends = [0; 10];
            for number in (0..1000).map(|at| 7 + at * step) {
                let standing = Standing { number, ..AT_EASE };
                let due = |tick| deadlines.due_for_age(tick, standing.number);
                let own = (0..=1000).find(|tick| due(*tick).is_some()).expect("an end");
                assert_eq!(due(own), Some(Due::Goodbye(Goodbye::LifetimeOver)));
                assert_eq!(due(own + 99), Some(Due::Goodbye(Goodbye::LifetimeOver)));
                assert_eq!(due(own + 100), Some(Due::LifetimeOver));
                ends[(own as usize - 901) / 10] += 1;
            }
            assert!(ends.iter().all(|count| (95..=105).contains(count)), "{step}: {ends:?}");
        }
    }
}
