//! A run second by second. Threads hand over what they have counted whenever a second of the
//! measured window is over; the main thread adds it up, into the total and into that second.
//!
//! Nothing is counted twice and nothing is left out: a thread's tally belongs to exactly one
//! *portion*, and the total is the sum of all portions. An echo belongs to the second in which it
//! arrived; what arrives after the window, to its last second. A thread neither allocates nor
//! clears a histogram while it measures: it gets its cleared tallies back.

use std::{
    cell::Cell,
    collections::VecDeque,
    mem,
    sync::mpsc::{self, Receiver, Sender},
    time::{Duration, SystemTime},
};

use super::{
    encoding::EncodedHistograms, errors::ErrorCounts, latency::Histograms,
    latency_report::LatencyReport, tally::Tally,
};
use crate::{plan::schedule::Schedule, text::numbers::per_second};

/// A second, in the nanoseconds of a [`Schedule`].
const SECOND: u64 = 1_000_000_000;

/// What one thread has counted in one second, or before the measured window.
#[derive(Debug)]
struct Portion {
    thread: usize,
    /// The second of the measured window, from 0; `None` for all that was before it.
    second: Option<usize>,
    tally: Tally,
}

/// A thread's end of a timeline: its portions go out here, and cleared tallies come back.
#[derive(Debug)]
pub(crate) struct PortionSender {
    thread: usize,
    portions: Sender<Portion>,
    cleared: Receiver<Tally>,
    /// The second that is being counted.
    second: Cell<Option<usize>>,
    /// The instant at which it ends; 0 before the measured window.
    until: Cell<u64>,
    sent: Cell<Counts>,
}

/// How much has been handed over.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) exchanges: u64,
    pub(crate) errors: u64,
}

impl PortionSender {
    /// Whether the second may be over at the instant `now`.
    #[inline]
    pub(crate) fn is_due(&self, now: u64) -> bool {
        now >= self.until.get()
    }

    /// Hands over what was counted in the second that was over at the instant `now`, if one was,
    /// and leaves an empty tally.
    #[cold]
    pub(crate) fn hand_over(&self, now: u64, schedule: &Schedule, tally: &mut Tally) {
        let begin = schedule.begin();
        if now < begin || schedule.measured().is_zero() {
            return;
        }
        let second = (now.min(schedule.end() - 1) - begin) / SECOND;
        self.until.set(begin + (second + 1) * SECOND);
        let second = Some(second as usize);
        if second > self.second.get() {
            let empty = self.cleared.try_recv().unwrap_or_default();
            self.send(mem::replace(tally, empty));
            self.second.set(second);
        }
    }

    /// Hands over what was counted last.
    pub(crate) fn send(&self, tally: Tally) {
        let Counts { exchanges, errors } = self.sent.get();
        self.sent.set(Counts {
            exchanges: exchanges + tally.exchanges,
            errors: errors + tally.errors.total,
        });
        let portion = Portion { thread: self.thread, second: self.second.get(), tally };
        // The main thread is gone only when the program ends.
        let _ = self.portions.send(portion);
    }

    /// How much has been handed over so far.
    pub(crate) fn handed_over(&self) -> Counts {
        self.sent.get()
    }
}

/// One second of the measured window, all threads together.
#[derive(Clone, Debug)]
pub struct Second {
    /// Correct echoes that arrived in it; in a churn, correct cycles that ended in it.
    pub exchanges: u64,
    /// Errors that happened in it, to about 5 ms.
    pub errors: ErrorCounts,
    /// Latency of the echoes that arrived in it, if their messages were planned in the measured
    /// window.
    pub latency_us: Option<LatencyReport>,
    /// Latency of the same messages from the instant of sending; `None` in a closed loop.
    pub uncorrected_latency_us: Option<LatencyReport>,
    /// Times to the ends of opening handshakes that were done in it; `None` but in a churn.
    pub handshake_us: Option<LatencyReport>,
    /// Times from the planned instant to that of sending, of the messages that were sent in it; of
    /// cycles, to that of beginning. `None` in a closed loop.
    pub lag_us: Option<LatencyReport>,
    /// Times of TLS handshakes, of the SETTINGS of HTTP/2 and of its streams that were done in it, or in
    /// the first second also before it.
    pub layers_us: [Option<LatencyReport>; 3],
    pub(crate) histograms: EncodedHistograms,
}

impl Second {
    fn new(tally: &Tally) -> Self {
        Self {
            exchanges: tally.exchanges_measured,
            errors: tally.errors,
            latency_us: LatencyReport::new(&tally.histograms.latency),
            uncorrected_latency_us: LatencyReport::new(&tally.histograms.uncorrected),
            handshake_us: LatencyReport::new(&tally.histograms.handshake),
            lag_us: LatencyReport::new(&tally.histograms.lag),
            layers_us: tally.histograms.of_layers().map(|(_, times)| LatencyReport::new(times)),
            histograms: EncodedHistograms::new(&tally.histograms),
        }
    }

    /// Exchanges for each second of the second's `length`, which may be a part of one.
    #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
    pub(crate) fn exchanges_per_second(&self, length: Duration) -> f64 {
        per_second(self.exchanges as f64, length)
    }
}

/// The main thread's end of a timeline.
#[derive(Debug)]
pub(crate) struct Timeline {
    handed_over: Receiver<Portion>,
    cleared: Vec<Sender<Tally>>,
    /// For each thread, how many seconds it has left behind.
    seconds_over: Vec<usize>,
    total: Tally,
    /// Seconds that all threads have left behind.
    seconds: Vec<Second>,
    /// The later seconds, which some threads have not left behind: as many as the slowest thread is
    /// late by, and one if no thread is late.
    open: VecDeque<Tally>,
    /// What opening connections took before the measured window, for its first second.
    before: Histograms,
}

impl Timeline {
    /// A timeline, and the ends of `threads` threads.
    pub(crate) fn new(threads: usize) -> (Self, Vec<PortionSender>) {
        let (hand_over, handed_over) = mpsc::channel();
        let (cleared, senders) = (0..threads)
            .map(|thread| {
                let (clear, cleared) = mpsc::channel();
                let sender = PortionSender {
                    thread,
                    portions: hand_over.clone(),
                    cleared,
                    second: Cell::new(None),
                    until: Cell::new(0),
                    sent: Cell::default(),
                };
                (clear, sender)
            })
            .unzip();
        let timeline = Self {
            handed_over,
            cleared,
            seconds_over: vec![0; threads],
            total: Tally::default(),
            seconds: Vec::new(),
            open: VecDeque::new(),
            before: Histograms::default(),
        };
        (timeline, senders)
    }

    /// Adds up what has been handed over.
    pub(crate) fn collect(&mut self) {
        while let Ok(portion) = self.handed_over.try_recv() {
            self.add(portion);
        }
        let complete = self.seconds_over.iter().copied().min().unwrap_or(0);
        while self.seconds.len() < complete {
            self.close_second();
        }
    }

    fn add(&mut self, Portion { thread, second, mut tally }: Portion) {
        self.total.merge(&tally);
        if let Some(second) = second {
            self.seconds_over[thread] = second + 1;
            let at = second - self.seconds.len();
            if self.open.len() <= at {
                self.open.resize_with(at + 1, Tally::default);
            }
            self.open[at].merge(&tally);
        } else {
            self.before.merge_layers(&tally.histograms);
        }
        tally.clear();
        // A thread that has ended needs none.
        let _ = self.cleared[thread].send(tally);
    }

    fn close_second(&mut self) {
        let mut tally = self.open.pop_front().unwrap_or_default();
        if self.seconds.is_empty() {
            tally.histograms.merge_layers(&self.before);
        }
        self.seconds.push(Second::new(&tally));
    }

    /// The seconds that all threads have left behind.
    pub(crate) fn seconds(&self) -> &[Second] {
        &self.seconds
    }

    /// The total and all seconds, when all threads have ended.
    fn finish(mut self) -> (Tally, Vec<Second>) {
        self.collect();
        while !self.open.is_empty() {
            self.close_second();
        }
        (self.total, self.seconds)
    }
}

/// The measured window of a run, second by second.
#[derive(Clone, Debug)]
pub struct Recording {
    /// When it began.
    pub began: SystemTime,
    /// How long it was. The last second may be a part of one.
    pub measured: Duration,
    /// Its seconds, in order.
    pub seconds: Vec<Second>,
    /// What was counted in the whole run.
    pub(crate) total: Tally,
}

impl Recording {
    /// When all threads have ended.
    pub(crate) fn new(timeline: Timeline, schedule: &Schedule) -> Self {
        let (total, seconds) = timeline.finish();
        let since_began = Duration::from_nanos(schedule.now().saturating_sub(schedule.begin()));
        let began = SystemTime::now() - since_began;
        Self { began, measured: schedule.measured(), seconds, total }
    }

    /// Each second with its beginning and its length; both count from the window's beginning.
    pub(crate) fn timed_seconds(&self) -> impl Iterator<Item = (Duration, Duration, &Second)> {
        self.seconds.iter().zip(0..).map(|(second, number)| {
            let start = Duration::from_secs(number);
            (start, self.measured.saturating_sub(start).min(Duration::from_secs(1)), second)
        })
    }
}

#[cfg(test)]
pub(crate) mod examples {
    use super::*;
    use crate::count::connection_error::ConnectionError;

    /// Two seconds and a half: three echoes, then two errors, then one echo.
    pub(crate) fn recording() -> Recording {
        let mut total = Tally::default();
        let seconds = [&[20, 30, 30][..], &[], &[40]].map(|latencies_us: &[u64]| {
            let mut tally = Tally::default();
            for latency_us in latencies_us {
                tally.exchanges_measured += 1;
                tally.histograms.latency.record(latency_us * 1000, 1);
            }
            if latencies_us.is_empty() {
                tally.count_error(&ConnectionError::EndOfStream);
                tally.count_missing(1);
            }
            total.merge(&tally);
            Second::new(&tally)
        });
        Recording {
            // 2026-01-01T00:00:00.25Z
            began: SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_250),
            measured: Duration::from_millis(2500),
            seconds: seconds.into(),
            total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    /// A schedule whose measured window lasts for `seconds` and begins an hour after now.
    fn schedule(seconds: u64) -> Schedule {
        let schedule = Schedule::new(Duration::ZERO);
        schedule.set_window(Duration::ZERO, Duration::from_hours(1), Duration::from_secs(seconds));
        schedule
    }

    /// What a worker does with an echo.
    fn count(
        sender: &PortionSender,
        schedule: &Schedule,
        tally: &mut Tally,
        now: u64,
        latency: u64,
    ) {
        if sender.is_due(now) {
            sender.hand_over(now, schedule, tally);
        }
        tally.exchanges += 1;
        tally.exchanges_measured += u64::from(schedule.measures(now));
        tally.histograms.latency.record(latency, 1);
    }

    #[test]
    fn every_echo_is_in_its_second_and_all_are_in_the_total() {
        let schedule = schedule(3);
        let (mut timeline, senders) = Timeline::new(2);
        // Milliseconds after the beginning of the window at which the threads count echoes.
        let echoes: [&[i64]; 2] = [&[-500, 0, 1, 999, 1000, 2999, 3000, 4500], &[-1, 2000, 2500]];
        for (sender, echoes) in senders.iter().zip(echoes) {
            let mut tally = Tally::default();
            for at in echoes {
                let now = schedule.begin().saturating_add_signed(at * MILLISECOND.cast_signed());
                count(sender, &schedule, &mut tally, now, 1000);
                timeline.collect();
            }
            sender.send(tally);
        }
        let (total, seconds) = timeline.finish();
        assert_eq!((total.exchanges, total.exchanges_measured), (11, 7));
        assert_eq!(total.histograms.latency.samples(), 11);
        let counts: Vec<(u64, u64)> = seconds
            .iter()
            .map(|second| {
                (second.exchanges, second.latency_us.map_or(0, |latency| latency.samples))
            })
            .collect();
        assert_eq!(counts, [(3, 3), (1, 1), (3, 5)]);
    }

    #[test]
    fn a_second_is_closed_when_all_threads_have_left_it_behind() {
        let schedule = schedule(10);
        let (mut timeline, senders) = Timeline::new(2);
        let mut tallies = [Tally::default(), Tally::default()];
        let mut at = |thread: usize, milliseconds: u64| {
            let now = schedule.begin() + milliseconds * MILLISECOND;
            count(&senders[thread], &schedule, &mut tallies[thread], now, milliseconds);
            timeline.collect();
            timeline.seconds.len()
        };
        assert_eq!(at(0, 1), 0);
        assert_eq!(at(1, 1), 0);
        assert_eq!(at(0, 1001), 0);
        assert_eq!(at(1, 1002), 1);
        assert_eq!(at(1, 5002), 1);
        assert_eq!(at(0, 5001), 2);
        // The first thread has counted nothing in the three seconds before this one.
        assert_eq!(at(0, 6001), 2);
        assert_eq!(at(1, 6002), 6);
        assert_eq!(timeline.seconds[5].exchanges, 2);
        assert!(timeline.open.is_empty());
    }

    #[test]
    fn a_run_that_ended_in_its_warmup_has_no_seconds() {
        let schedule = schedule(10);
        schedule.stop();
        let (timeline, senders) = Timeline::new(1);
        let mut tally = Tally::default();
        let now = schedule.begin() + 1;
        count(&senders[0], &schedule, &mut tally, now, 1);
        senders[0].send(tally);
        let (total, seconds) = timeline.finish();
        assert_eq!((total.exchanges, total.exchanges_measured, seconds.len()), (1, 0, 0));
    }

    #[test]
    fn the_last_second_may_be_a_part_of_one() {
        let recording = examples::recording();
        let times: Vec<(Duration, Duration)> =
            recording.timed_seconds().map(|(start, length, _)| (start, length)).collect();
        let second = Duration::from_secs;
        assert_eq!(
            times,
            [
                (second(0), second(1)),
                (second(1), second(1)),
                (second(2), Duration::from_millis(500))
            ]
        );
    }
}
