//! Which rate is tried next, and when the answer is known: the decisions of a search, which know
//! neither sockets nor time.
//!
//! The rate is doubled until it is too high (*bracket*), then the gap between the highest rate that
//! met the goals and the lowest that missed them is halved until it is within the precision
//! (*bisect*), then the rate that was found is tried again (*confirm*). A miss is believed once it
//! has been repeated, so that a hiccup of the machine costs a trial and not half of the range; but
//! a rate counts as found only if not one trial that confirms it misses. If one does, the rate is
//! taken as missed, and the search goes on below it.
//!
//! Invariant: the rates that met the goals ascend, and are below the one that missed them.

use serde::Serialize;

use super::verdict::Verdict;

/// No rate below this is tried.
const RATE_MIN: f64 = 1.0;

/// More trials than this are those of a server that does not behave alike twice.
const TRIALS_MAX: usize = 100;

/// How a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The first rate, at least 1.
    pub start: f64,
    /// The highest rate, not below the first.
    pub max: f64,
    /// What the answer may be below the truth, as a part of it; at least a hundredth.
    pub precision: f64,
    /// How often the answer is tried again, at least once.
    pub confirmations: usize,
}

/// What a rate is tried for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// To find one that is too high, or if the first was, one that is not.
    Bracket,
    /// To know the highest more precisely.
    Bisect,
    /// To see whether it was luck.
    Confirm,
}

/// A rate that is to be tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Trial {
    pub(crate) rate: f64,
    pub(crate) stage: Stage,
    /// How often it has been tried at this stage.
    before: usize,
}

/// Why no higher rate is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The server did not meet the goals there.
    Server,
    /// The generator could not tell, for it was at its own limit.
    Generator,
    /// None was to be tried.
    MaxRate,
    /// The same rate met the goals and missed them again and again.
    Unstable,
    /// Somebody ended the search.
    Interrupted,
}

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answer {
    /// The highest rate that met the goals, if any did.
    pub(crate) rate: Option<f64>,
    /// Whether all trials that had to confirm that have.
    pub(crate) confirmed: bool,
    pub(crate) limit: Limit,
}

/// A search in progress.
#[derive(Debug)]
pub(crate) struct Bisection {
    settings: Settings,
    met: Vec<f64>,
    missed: Option<Miss>,
    trials: usize,
    state: State,
}

#[derive(Clone, Copy, Debug)]
struct Miss {
    rate: f64,
    limit: Limit,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Trying(Trial),
    Answered(Answer),
}

impl Bisection {
    pub(crate) fn new(settings: Settings) -> Self {
        let state = State::Trying(Trial { rate: settings.start, stage: Stage::Bracket, before: 0 });
        Self { settings, met: Vec::new(), missed: None, trials: 0, state }
    }

    /// What to try next, or the answer.
    pub(crate) fn next(&self) -> Result<Trial, Answer> {
        match self.state {
            State::Trying(trial) => Ok(trial),
            State::Answered(answer) => Err(answer),
        }
    }

    /// Takes note of how the trial that was to be next went.
    pub(crate) fn record(&mut self, verdict: Verdict) {
        let State::Trying(trial) = self.state else { return };
        self.trials += 1;
        self.state = match (trial.stage, verdict) {
            (Stage::Confirm, Verdict::Met) => self.confirmed(trial),
            (Stage::Confirm, _) => {
                self.met.pop();
                self.miss(trial, verdict)
            }
            (_, Verdict::Met) => {
                self.met.push(trial.rate);
                self.choose()
            }
            _ if trial.before == 0 => State::Trying(Trial { before: 1, ..trial }),
            _ => self.miss(trial, verdict),
        };
        if self.trials == TRIALS_MAX && matches!(self.state, State::Trying(_)) {
            self.state = State::Answered(self.answer(Limit::Unstable));
        }
    }

    /// What is known when the search has to end now.
    pub(crate) fn answer(&self, limit: Limit) -> Answer {
        Answer { rate: self.met.last().copied(), confirmed: false, limit }
    }

    fn confirmed(&self, trial: Trial) -> State {
        let before = trial.before + 1;
        if before < self.settings.confirmations {
            return State::Trying(Trial { before, ..trial });
        }
        let limit = self.missed.map_or(Limit::MaxRate, |miss| miss.limit);
        State::Answered(Answer { confirmed: true, ..self.answer(limit) })
    }

    fn miss(&mut self, trial: Trial, verdict: Verdict) -> State {
        let limit = match verdict {
            Verdict::GeneratorLimited => Limit::Generator,
            Verdict::Met | Verdict::Missed => Limit::Server,
        };
        self.missed = Some(Miss { rate: trial.rate, limit });
        self.choose()
    }

    /// The next rate, from what is known.
    fn choose(&self) -> State {
        let Settings { start, max, precision, .. } = self.settings;
        let (stage, rate) = match (self.met.last().copied(), self.missed) {
            (None, None) => (Stage::Bracket, start),
            (None, Some(miss)) if miss.rate <= RATE_MIN => {
                return State::Answered(self.answer(miss.limit));
            }
            (None, Some(miss)) => (Stage::Bracket, (miss.rate / 2.0).max(RATE_MIN)),
            (Some(met), None) if met >= max => (Stage::Confirm, met),
            (Some(met), None) => (Stage::Bracket, (met * 2.0).min(max)),
            (Some(met), Some(miss)) if met >= miss.rate * (1.0 - precision) => {
                (Stage::Confirm, met)
            }
            (Some(met), Some(miss)) => {
                (Stage::Bisect, to_four_digits(f64::midpoint(met, miss.rate)))
            }
        };
        State::Trying(Trial { rate, stage, before: 0 })
    }
}

/// Rounded, so that a rate can be typed again. Between rates that are a hundredth apart, what was
/// between them stays between them.
fn to_four_digits(rate: f64) -> f64 {
    let surplus = rate.log10().floor() as i32 - 3;
    // Of the powers of ten only those above 1 are exact.
    let unit = 10_f64.powi(surplus.abs());
    if surplus > 0 { (rate / unit).round() * unit } else { (rate * unit).round() / unit }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(start: f64, precision: f64) -> Settings {
        Settings { start, max: 1e8, precision, confirmations: 3 }
    }

    /// Searches with `try_rate`, and returns what was tried beside the answer.
    fn search(
        settings: Settings,
        mut try_rate: impl FnMut(Trial) -> Verdict,
    ) -> (Vec<Trial>, Answer) {
        let mut bisection = Bisection::new(settings);
        let mut trials = Vec::new();
        loop {
            match bisection.next() {
                Err(answer) => return (trials, answer),
                Ok(trial) => {
                    trials.push(trial);
                    bisection.record(try_rate(trial));
                }
            }
        }
    }

    /// A server that meets the goals up to a rate.
    fn up_to(capacity: f64) -> impl FnMut(Trial) -> Verdict {
        move |trial| if trial.rate <= capacity { Verdict::Met } else { Verdict::Missed }
    }

    #[test]
    fn rates_are_doubled_then_bisected_then_confirmed() {
        let (trials, answer) = search(settings(1000.0, 0.1), up_to(5500.0));
        let tried: Vec<(Stage, f64)> =
            trials.iter().map(|trial| (trial.stage, trial.rate)).collect();
        assert_eq!(
            tried,
            [
                (Stage::Bracket, 1000.0),
                (Stage::Bracket, 2000.0),
                (Stage::Bracket, 4000.0),
                (Stage::Bracket, 8000.0),
                (Stage::Bracket, 8000.0),
                (Stage::Bisect, 6000.0),
                (Stage::Bisect, 6000.0),
                (Stage::Bisect, 5000.0),
                (Stage::Bisect, 5500.0),
                (Stage::Confirm, 5500.0),
                (Stage::Confirm, 5500.0),
                (Stage::Confirm, 5500.0),
            ]
        );
        assert_eq!(answer, Answer { rate: Some(5500.0), confirmed: true, limit: Limit::Server });
    }

    #[test]
    fn a_start_that_is_too_high_is_halved() {
        let (trials, answer) = search(settings(1000.0, 0.05), up_to(3.0));
        assert!(trials.iter().all(|trial| trial.rate <= 1000.0));
        assert_eq!(answer.rate.map(f64::floor), Some(2.0));
        assert!(answer.rate.unwrap() >= 3.0 * 0.95, "{answer:?}");
    }

    #[test]
    fn a_server_that_never_meets_the_goals_has_no_rate() {
        let (trials, answer) = search(settings(5.0, 0.05), up_to(0.0));
        assert_eq!(trials.last().map(|trial| trial.rate), Some(RATE_MIN));
        assert_eq!(answer, Answer { rate: None, confirmed: false, limit: Limit::Server });
    }

    #[test]
    fn the_highest_rate_that_may_be_tried_is_not_exceeded() {
        let settings = Settings { max: 3000.0, ..settings(1000.0, 0.05) };
        let (trials, answer) = search(settings, up_to(1e6));
        assert!(trials.iter().all(|trial| trial.rate <= 3000.0));
        assert_eq!(answer, Answer { rate: Some(3000.0), confirmed: true, limit: Limit::MaxRate });
    }

    #[test]
    fn a_generator_at_its_limit_is_named() {
        let (_, answer) = search(settings(1000.0, 0.05), |trial| match trial.rate {
            ..=40_000.0 => Verdict::Met,
            _ => Verdict::GeneratorLimited,
        });
        assert_eq!(answer.limit, Limit::Generator);
    }

    #[test]
    fn one_hiccup_does_not_lower_the_answer() {
        let (undisturbed, expected) = search(settings(1000.0, 0.02), up_to(77_777.0));
        let searching = undisturbed.iter().filter(|trial| trial.stage != Stage::Confirm).count();
        for hiccup in 0..searching {
            let (mut server, mut number) = (up_to(77_777.0), 0);
            let (_, answer) = search(settings(1000.0, 0.02), |trial| {
                number += 1;
                if number - 1 == hiccup { Verdict::Missed } else { server(trial) }
            });
            assert_eq!(answer, expected, "a hiccup in trial {hiccup}");
        }
    }

    #[test]
    fn a_rate_that_one_confirmation_misses_is_not_the_answer() {
        let mut refuted = false;
        let (_, answer) = search(settings(1000.0, 0.05), |trial| {
            if trial.stage == Stage::Confirm && !refuted {
                refuted = true;
                return Verdict::Missed;
            }
            up_to(5000.0)(trial)
        });
        assert!(refuted && answer.confirmed);
        let rate = answer.rate.unwrap();
        assert!((5000.0 * 0.95 * 0.95..5000.0).contains(&rate), "{rate}");
    }

    #[test]
    fn a_server_that_never_behaves_alike_twice_ends_the_search() {
        let (trials, answer) = search(settings(1000.0, 0.01), |trial| match trial.stage {
            Stage::Confirm => Verdict::Missed,
            _ => Verdict::Met,
        });
        assert!(trials.len() <= TRIALS_MAX);
        assert!(!answer.confirmed);
    }

    #[test]
    fn rates_can_be_typed_again() {
        for (rate, rounded) in [
            (1.0, 1.0),
            (2.345_67, 2.346),
            (99.999, 100.0),
            (12_345.6, 12_350.0),
            (87_654_321.0, 87_650_000.0),
        ] {
            assert!((to_four_digits(rate) - rounded).abs() < 1e-9 * rounded, "{rate}");
        }
        assert_eq!(to_four_digits(2.345_67).to_string(), "2.346");
    }

    proptest! {
        /// p99 of a queue grows as its capacity is approached; noise decides only near the goal.
        #[test]
        fn the_answer_is_within_the_precision_of_the_truth(
            capacity in 10.0..1e7_f64,
            start in 1.0..1e6_f64,
            precision in 0.01..0.3_f64,
            noise in proptest::collection::vec(-0.2..0.2_f64, TRIALS_MAX),
        ) {
            // A latency of 1 at rest, and a goal of 10.
            let latency = |rate: f64| {
                if rate < capacity { capacity / (capacity - rate) } else { f64::INFINITY }
            };
            let rate_of = |latency: f64| capacity * (1.0 - latency.recip());
            let mut noise = noise.into_iter();
            let (_, answer) = search(settings(start, precision), |trial| {
                let noise = 1.0 + noise.next().unwrap();
                if latency(trial.rate) * noise < 10.0 { Verdict::Met } else { Verdict::Missed }
            });
            prop_assume!(answer.limit != Limit::Unstable);
            prop_assert!(answer.confirmed);
            let rate = answer.rate.unwrap();
            // Whatever the noise, above the one rate the goal is missed, below the other it is met.
            let (always_met, always_missed) = (rate_of(10.0 / 1.2), rate_of(10.0 / 0.8));
            prop_assert!(rate <= always_missed, "{rate} > {always_missed}");
            prop_assert!(rate >= always_met * (1.0 - precision), "{rate} < {always_met}");
        }
    }
}
