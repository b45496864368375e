//! Flags about time: how long a load runs, how long it is measured, and how its threads wait.

use std::{ops::RangeInclusive, time::Duration};

use super::values::time;
use crate::plan::Wait;

const DURATION: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(24);
const WARMUP: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);

/// Flags about time.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = super::LOAD)]
pub struct WindowArgs {
    /// How long to measure, such as 10s or 2m
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = time(DURATION))]
    pub duration: Duration,

    /// How long to run the load before measuring
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time(WARMUP))]
    pub warmup: Duration,

    /// What the generator's threads do at a rate until something happens: poll, which takes a CPU
    /// each, or sleep, which adds the time of a wake-up to each latency
    #[arg(long, value_name = "HOW", default_value = "poll")]
    pub wait: Wait,
}
