//! The rate of an open loop: how many messages a second are planned, and when each of them is.
//!
//! A [`Rate`] is what the command line says; `Arrivals` is that over a run's warm-up and measured
//! window: a function from a message's number to its instant, and nothing else. So a schedule that
//! has fallen behind is a number, not a queue, and takes no memory.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "message numbers and nanoseconds stay below 2^53, none is negative"
)]

use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use thiserror::Error;

use super::schedule::Schedule;

/// Messages a second over all connections.
const MESSAGES_PER_SECOND: RangeInclusive<f64> = 1.0..=1e8;

/// How long a ramp or a row of steps may take.
const OVER: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(24);

/// The most steps of a rate.
const STEPS_MAX: usize = 1000;

const SECOND: f64 = 1e9;

/// Messages a second over time: `50k`, `10k..100k over 60s` (a ramp), `10k,20k,50k over 30s`
/// (steps of equal length), or steps that are ramps.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate {
    text: String,
    steps: Vec<Step>,
    over: Option<Duration>,
}

/// A rate that goes evenly from one value to another.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    from: f64,
    to: f64,
}

/// Why a text is no rate.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RateError {
    /// One of the numbers.
    #[error("{0:?} is no rate: expected 1 to 100M a second, such as 500, 50k or 1.5M")]
    Number(String),
    /// The time behind "over".
    #[error("{0:?} is no time for a rate: expected a duration from 10ms to 1day")]
    Over(String),
    /// Too many steps.
    #[error("{0} steps are too many: expected 1 to {STEPS_MAX}")]
    Steps(usize),
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (steps, over) = match text.split_once(" over ") {
            Some((steps, over)) => (steps, Some(parse_over(over)?)),
            None => (text, None),
        };
        let steps: Vec<Step> = steps.split(',').map(parse_step).collect::<Result<_, _>>()?;
        if steps.len() > STEPS_MAX {
            return Err(RateError::Steps(steps.len()));
        }
        Ok(Self { text: text.to_owned(), steps, over })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Rate {
    /// The same rate all the time.
    pub fn constant(messages_per_second: f64) -> Self {
        let step = Step { from: messages_per_second, to: messages_per_second };
        Self { text: messages_per_second.to_string(), steps: vec![step], over: None }
    }
}

fn parse_step(text: &str) -> Result<Step, RateError> {
    match text.split_once("..") {
        Some((from, to)) => Ok(Step { from: parse_number(from)?, to: parse_number(to)? }),
        None => parse_number(text).map(|rate| Step { from: rate, to: rate }),
    }
}

/// Parses messages a second, such as `50k`.
pub(crate) fn parse_number(text: &str) -> Result<f64, RateError> {
    let text = text.trim();
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1e3),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1e6),
        _ => (text, 1.0),
    };
    let number = digits.parse().map(|number: f64| number * unit);
    let number = number.ok().filter(|number| MESSAGES_PER_SECOND.contains(number));
    number.ok_or_else(|| RateError::Number(text.to_owned()))
}

fn parse_over(text: &str) -> Result<Duration, RateError> {
    let over = humantime::parse_duration(text.trim()).ok().filter(|over| OVER.contains(over));
    over.ok_or_else(|| RateError::Over(text.to_owned()))
}

/// When each message of a run is planned, in nanoseconds since the load began.
///
/// The warm-up has the first rate. The steps begin with the measured window and share the time that
/// the rate names, or else the window; the last rate goes on for ever.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    /// By time, never empty, the first one from zero on.
    pieces: Vec<Piece>,
}

/// A stretch of time in which the rate changes evenly.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// When it begins.
    start: f64,
    /// Messages planned before it.
    before: f64,
    /// Messages a nanosecond at its beginning, and how much that grows in a nanosecond.
    rate: f64,
    slope: f64,
}

impl Piece {
    /// Messages planned in its first `time` nanoseconds.
    fn messages(&self, time: f64) -> f64 {
        (self.rate + self.slope * time / 2.0) * time
    }

    /// The inverse of [`messages`](Self::messages), in the form that loses no digits where the
    /// slope is small.
    #[inline]
    fn time(&self, messages: f64) -> f64 {
        let square = self.rate * self.rate + 2.0 * self.slope * messages;
        2.0 * messages / (self.rate + square.max(0.0).sqrt())
    }
}

impl Arrivals {
    pub(crate) fn new(rate: &Rate, warmup: Duration, window: Duration) -> Self {
        let step_len = rate.over.unwrap_or(window).as_nanos() as f64 / rate.steps.len() as f64;
        let (first, last) = (rate.steps[0].from, rate.steps[rate.steps.len() - 1].to);
        let stretches = [(first, first, warmup.as_nanos() as f64)]
            .into_iter()
            .chain(rate.steps.iter().map(|step| (step.from, step.to, step_len)))
            .chain([(last, last, f64::INFINITY)]);
        let (mut start, mut before) = (0.0, 0.0);
        let mut pieces = Vec::with_capacity(rate.steps.len() + 2);
        for (from, to, len) in stretches.filter(|(_, _, len)| *len > 0.0) {
            let slope = (to - from) / SECOND / len;
            let piece = Piece { start, before, rate: from / SECOND, slope };
            before += piece.messages(len);
            start += len;
            pieces.push(piece);
        }
        Self { pieces }
    }

    /// When message number `number` is planned. Later for each further one.
    #[inline]
    pub(crate) fn planned(&self, number: u64) -> u64 {
        let number = number as f64;
        let piece = self.pieces.iter().rfind(|piece| piece.before <= number);
        let piece = piece.expect("no message is before the first piece");
        (piece.start + piece.time(number - piece.before)).round() as u64
    }

    /// How many messages are planned before the instant `until`.
    pub(crate) fn planned_before(&self, until: u64) -> u64 {
        let piece = self.pieces.iter().rfind(|piece| piece.start <= until as f64);
        let piece = piece.expect("no instant is before the first piece");
        let mut number = (piece.before + piece.messages(until as f64 - piece.start)) as u64;
        // What is planned decides, not how it was rounded here.
        while self.planned(number) < until {
            number += 1;
        }
        while number > 0 && self.planned(number - 1) >= until {
            number -= 1;
        }
        number
    }

    /// How many messages are planned in the measured window of `schedule`.
    pub(crate) fn planned_within(&self, schedule: &Schedule) -> u64 {
        let origin = schedule.origin().unwrap_or(u64::MAX);
        let before = |instant: u64| self.planned_before(instant.saturating_sub(origin));
        before(schedule.end()).saturating_sub(before(schedule.begin()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_have_units() {
        for (text, number) in [("1", 1.0), ("50k", 50e3), ("1.5M", 1.5e6), (" 20K", 20e3)] {
            assert_eq!(rate(text).steps, [Step { from: number, to: number }], "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_refused_with_the_reason() {
        for (text, error) in [
            ("", RateError::Number(String::new())),
            ("0", RateError::Number("0".to_owned())),
            ("-5k", RateError::Number("-5k".to_owned())),
            ("101M", RateError::Number("101M".to_owned())),
            ("nan", RateError::Number("nan".to_owned())),
            ("k", RateError::Number("k".to_owned())),
            ("10k..", RateError::Number(String::new())),
            ("10k,fast", RateError::Number("fast".to_owned())),
            ("10k over soon", RateError::Over("soon".to_owned())),
            ("10k over 1ms", RateError::Over("1ms".to_owned())),
            (&vec!["1"; 1001].join(","), RateError::Steps(1001)),
        ] {
            assert_eq!(text.parse::<Rate>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn messages_of_a_constant_rate_are_evenly_apart() {
        let arrivals = Arrivals::new(&Rate::constant(50_000.0), SECOND, SECOND);
        for number in 0..200_000 {
            assert_eq!(arrivals.planned(number), number * 20_000);
        }
        assert_eq!(arrivals.planned_before(SECOND.as_nanos() as u64), 50_000);
    }

    #[test]
    fn a_ramp_plans_its_mean_rate_over_its_time() {
        let seconds = |seconds: u64| seconds * 1_000_000_000;
        let arrivals = Arrivals::new(&rate("10k..100k over 60s"), SECOND, 90 * SECOND);
        assert_eq!(arrivals.planned_before(seconds(1)), 10_000);
        let ramp = arrivals.planned_before(seconds(61)) - arrivals.planned_before(seconds(1));
        assert_eq!(ramp, 60 * 55_000);
        let behind = arrivals.planned_before(seconds(81)) - arrivals.planned_before(seconds(61));
        assert_eq!(behind, 20 * 100_000);
    }

    #[test]
    fn steps_share_the_window_unless_told_otherwise() {
        let arrivals = Arrivals::new(&rate("100,300,200"), Duration::ZERO, 3 * SECOND);
        let at = |second: u64| arrivals.planned_before(second * 1_000_000_000);
        assert_eq!([at(1), at(2), at(3), at(4)], [100, 400, 600, 800]);
    }

    proptest! {
        #[test]
        fn order_is_kept_and_counts_agree_with_instants(
            steps in proptest::collection::vec((1.0..1e6, 1.0..1e6), 1..5),
            over_ms in 10_u64..100_000,
            number in 0_u64..10_000_000,
        ) {
            let steps = steps.into_iter().map(|(from, to)| Step { from, to }).collect();
            let over = Some(Duration::from_millis(over_ms));
            let rate = Rate { text: String::new(), steps, over };
            let arrivals = Arrivals::new(&rate, SECOND, SECOND);
            let (this, next) = (arrivals.planned(number), arrivals.planned(number + 1));
            prop_assert!(this <= next);
            prop_assert!(arrivals.planned_before(this) <= number);
            prop_assert!(arrivals.planned_before(next + 1) > number);
        }
    }
}
