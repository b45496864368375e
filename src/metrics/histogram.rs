//! Times by their length: a counter for each range of lengths. As of every counter, one thread counts
//! and any thread reads.

use std::time::Duration;

use super::Counter;

/// Ranges of handshake times, which end at the bound of request heads by default.
pub(super) const HANDSHAKE_TIMES: &[Duration] = &[
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// Ranges of the times of an engine's turns: from one message to shared buffers full of them.
pub(super) const TURN_TIMES: &[Duration] = &[
    Duration::from_micros(5),
    Duration::from_micros(10),
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(100),
];

/// Ranges of the latenesses of sweeps.
pub(super) const LATENESSES: &[Duration] = &[
    Duration::from_micros(100),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// Times by their length, and their sum.
#[derive(Debug)]
pub struct Histogram {
    /// The upper bounds of the ranges, ascending; a bound belongs to its range.
    bounds: &'static [Duration],
    /// The counts of the ranges, and last of what is beyond all bounds.
    counts: Box<[Counter]>,
    sum_ns: Counter,
}

/// What one or more histograms of the same ranges have counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Distribution {
    /// The upper bounds in seconds, the last one infinite, with the count of each range.
    pub(super) buckets: Vec<(f64, u64)>,
    /// The sum of all times in seconds.
    pub(super) sum: f64,
    /// The number of all times.
    pub(super) count: u64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [Duration]) -> Self {
        let counts = (0..=bounds.len()).map(|_| Counter::default()).collect();
        Self { bounds, counts, sum_ns: Counter::default() }
    }

    /// Counts a time.
    pub fn count(&self, time: Duration) {
        let range = self.bounds.partition_point(|bound| *bound < time);
        self.counts[range].add(1);
        self.sum_ns.add(time.as_nanos() as u64);
    }
}

impl Distribution {
    /// Adds what a histogram has counted. All histograms must have the same ranges.
    pub(super) fn add(&mut self, histogram: &Histogram) {
        let bounds = histogram.bounds.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
        if self.buckets.is_empty() {
            self.buckets = bounds.map(|bound| (bound, 0)).collect();
        }
        for ((_, sum), counter) in self.buckets.iter_mut().zip(&histogram.counts) {
            let count = counter.get();
            *sum += count;
            self.count += count;
        }
        self.sum += Duration::from_nanos(histogram.sum_ns.get()).as_secs_f64();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_belongs_to_its_range_and_what_is_beyond_all_is_counted_too() {
        const BOUNDS: &[Duration] = &[Duration::from_secs(1), Duration::from_secs(2)];
        let histograms = [(); 2].map(|()| Histogram::new(BOUNDS));
        for seconds in [1.0, 1.5, 2.0, 9.0] {
            histograms[0].count(Duration::from_secs_f64(seconds));
        }
        histograms[1].count(Duration::ZERO);
        let mut distribution = Distribution::default();
        for histogram in &histograms {
            distribution.add(histogram);
        }
        assert_eq!(distribution.buckets, [(1.0, 2), (2.0, 2), (f64::INFINITY, 1)]);
        assert_eq!((distribution.count, distribution.sum), (5, 13.5));
    }

    #[test]
    fn ranges_ascend() {
        for bounds in [HANDSHAKE_TIMES, TURN_TIMES, LATENESSES] {
            assert!(bounds.is_sorted_by(|bound, next| bound < next));
        }
    }
}
