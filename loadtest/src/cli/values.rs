//! Parsers of flags' values. Each refusal says what would be allowed; clap adds flag and value.

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use bytesize::ByteSize;

use crate::{process_usage::ProcessUsage, report::grouped};

/// A parser of numbers in `range`.
pub(super) fn number(
    range: RangeInclusive<usize>,
) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| {
        let show = |number: usize| grouped(number as u64);
        let number = text.parse().map_err(|_| not_in(&range, "a number", show))?;
        within(number, &range, "a number", show)
    }
}

/// A parser of sizes in `range`.
pub(super) fn size(
    range: RangeInclusive<ByteSize>,
) -> impl Fn(&str) -> Result<ByteSize, String> + Clone {
    move |text| {
        let show = |size: ByteSize| size.display().iec().to_string();
        let size = text.parse().map_err(|_| not_in(&range, "a size", show))?;
        within(size, &range, "a size", show)
    }
}

/// A parser of durations in `range`.
pub(super) fn time(
    range: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let show = |time: Duration| humantime::format_duration(time).to_string();
        let time =
            humantime::parse_duration(text).map_err(|_| not_in(&range, "a duration", show))?;
        within(time, &range, "a duration", show)
    }
}

/// Parses the number of a process whose usage can be read.
pub(super) fn process(text: &str) -> Result<u32, String> {
    let pid = text.parse().map_err(|_| "expected the number of a process".to_owned())?;
    match ProcessUsage::read(pid) {
        Ok(_) => Ok(pid),
        Err(cause) => Err(format!("cannot read /proc/{pid}/stat: {cause}")),
    }
}

fn within<T: PartialOrd + Copy, S: Display>(
    value: T,
    range: &RangeInclusive<T>,
    what: &str,
    show: impl Fn(T) -> S,
) -> Result<T, String> {
    if range.contains(&value) { Ok(value) } else { Err(not_in(range, what, show)) }
}

fn not_in<T: Copy, S: Display>(
    range: &RangeInclusive<T>,
    what: &str,
    show: impl Fn(T) -> S,
) -> String {
    format!("expected {what} from {} to {}", show(*range.start()), show(*range.end()))
}
