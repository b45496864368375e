//! What a flag's value may be: whole numbers, sizes and times in their ranges, and switches.
//!
//! A range is part of its value's type, so a value that exists is in range, whether it came from a
//! command line or from a program that embeds the server.

use std::{fmt, str::FromStr, time::Duration};

use bytesize::ByteSize;
use clap::{Args, Command};
use thiserror::Error;

/// A value from `MIN` to `MAX`, both included: bytes of a [`Size`], seconds of a [`Duration`],
/// microseconds of a [`ShortTime`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Within<T, const MIN: u64, const MAX: u64>(T);

/// A number of bytes, written as people write it: `65536`, `64KiB`, `1MiB`, `unlimited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A whole number that is a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PowerOfTwo(u32);

/// A time that is so short that its range is in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShortTime(pub Duration);

/// Why a value is refused. The command line puts flag and value before this text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ValueError {
    /// The text cannot be read as a value of its kind. The string says what can.
    #[error("{0}")]
    Unreadable(String),
    /// The value is outside of its range.
    #[error("must be from {min} to {max}, not {value}")]
    OutOfRange {
        /// The value.
        value: String,
        /// The smallest allowed value.
        min: String,
        /// The largest allowed value.
        max: String,
    },
}

/// A kind of value that may have a range.
pub trait Quantity: Copy + PartialOrd {
    /// The quantity of so many bytes, seconds, microseconds, or whole numbers.
    fn from_units(units: u64) -> Self;

    /// Reads a value as people write it.
    fn read(text: &str) -> Option<Self>;

    /// The value as people write it.
    fn to_text(self) -> String;

    /// Says what a text that cannot be read should have been.
    fn expected(min: Self, max: Self) -> String;
}

/// The bytes in a kibibyte and in a mebibyte, for ranges.
pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;

impl<T: Quantity, const MIN: u64, const MAX: u64> Within<T, MIN, MAX> {
    /// The value, if it is in the range.
    pub fn new(value: T) -> Result<Self, ValueError> {
        let (min, max) = (T::from_units(MIN), T::from_units(MAX));
        if min <= value && value <= max {
            return Ok(Self(value));
        }
        let (value, min, max) = (value.to_text(), min.to_text(), max.to_text());
        Err(ValueError::OutOfRange { value, min, max })
    }

    /// The value.
    pub fn get(self) -> T {
        self.0
    }
}

impl<T: Quantity, const MIN: u64, const MAX: u64> FromStr for Within<T, MIN, MAX> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let unreadable =
            || ValueError::Unreadable(T::expected(T::from_units(MIN), T::from_units(MAX)));
        Self::new(T::read(text).ok_or_else(unreadable)?)
    }
}

impl Quantity for u32 {
    fn from_units(units: u64) -> Self {
        units as u32
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn to_text(self) -> String {
        self.to_string()
    }

    fn expected(min: Self, max: Self) -> String {
        format!("expected a whole number from {min} to {max}")
    }
}

impl Quantity for PowerOfTwo {
    fn from_units(units: u64) -> Self {
        Self(units as u32)
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok().and_then(Self::new)
    }

    fn to_text(self) -> String {
        self.0.to_string()
    }

    fn expected(Self(min): Self, Self(max): Self) -> String {
        format!("expected a power of two from {min} to {max}")
    }
}

impl Quantity for Size {
    fn from_units(units: u64) -> Self {
        Self(units)
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn to_text(self) -> String {
        self.to_string()
    }

    fn expected(_: Self, _: Self) -> String {
        Self::EXPECTED.to_owned()
    }
}

impl Quantity for Duration {
    fn from_units(units: u64) -> Self {
        Self::from_secs(units)
    }

    fn read(text: &str) -> Option<Self> {
        humantime::parse_duration(text).ok()
    }

    fn to_text(self) -> String {
        format_duration(&self)
    }

    fn expected(_: Self, _: Self) -> String {
        "a time is a number with a unit: 500ms, 10s, 2min, 1h".to_owned()
    }
}

impl Quantity for ShortTime {
    fn from_units(units: u64) -> Self {
        Self(Duration::from_micros(units))
    }

    fn read(text: &str) -> Option<Self> {
        Duration::read(text).map(Self)
    }

    fn to_text(self) -> String {
        self.0.to_text()
    }

    fn expected(_: Self, _: Self) -> String {
        "a short time is a number with a unit: 50us, 1ms".to_owned()
    }
}

impl PowerOfTwo {
    /// The number, if it is a power of two.
    pub fn new(number: u32) -> Option<Self> {
        number.is_power_of_two().then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Size {
    /// More bytes than any message has.
    pub const UNLIMITED: Self = Self(u64::MAX);

    const EXPECTED: &str =
        "a size is a number of bytes, or a number with a unit: 65536, 64KiB, 1MiB";

    /// The size, in bytes, of something in memory.
    pub fn in_memory(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            u64::MAX => f.write_str("unlimited"),
            0 => f.write_str("0"),
            bytes if bytes % (1 << 30) == 0 => write!(f, "{}GiB", bytes >> 30),
            bytes if bytes % (1 << 20) == 0 => write!(f, "{}MiB", bytes >> 20),
            bytes if bytes % (1 << 10) == 0 => write!(f, "{}KiB", bytes >> 10),
            bytes => write!(f, "{bytes}"),
        }
    }
}

impl FromStr for Size {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "unlimited" {
            return Ok(Self::UNLIMITED);
        }
        let size: ByteSize =
            text.parse().map_err(|_| ValueError::Unreadable(Self::EXPECTED.to_owned()))?;
        Ok(Self(size.as_u64()))
    }
}

/// A duration, written as people write it: `10s`, `2m`.
pub fn format_duration(duration: &Duration) -> String {
    humantime::format_duration(*duration).to_string()
}

/// Reads the value of a switch: on, off, or a synonym.
pub(super) fn parse_switch(text: &str) -> Result<bool, ValueError> {
    match &*text.to_ascii_lowercase() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => {
            let expected = "expected on or off; also true, yes or 1, and false, no or 0";
            Err(ValueError::Unreadable(expected.to_owned()))
        }
    }
}

/// A group of flags with all of its defaults. They are read from the flags' own declarations, so
/// that they stand nowhere else.
pub(super) fn group_defaults<G: Args>() -> G {
    let command = G::augment_args(Command::new("defaults").no_binary_name(true));
    command
        .try_get_matches_from([""; 0])
        .and_then(|matches| G::from_arg_matches(&matches))
        .expect("no flag is required, and a test reads every default")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_as_people_write_them() {
        for (text, bytes) in [("4096", 4096), ("4KiB", 4096), ("1 MiB", 1 << 20), ("2GiB", 2 << 30)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["0", "1000", "4KiB", "16MiB", "3GiB", "unlimited"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert!("many".parse::<Size>().is_err());
        assert!("-1".parse::<Size>().is_err());
    }

    #[test]
    fn value_out_of_range_is_refused_with_the_range() {
        let refusal = Within::<Size, { 4 * KIB }, { 16 * MIB }>::new(Size(1000)).unwrap_err();
        assert_eq!(refusal.to_string(), "must be from 4KiB to 16MiB, not 1000");
        let refusal = Within::<Duration, 1, 60>::new(Duration::from_millis(999)).unwrap_err();
        assert_eq!(refusal.to_string(), "must be from 1s to 1m, not 999ms");
        let refusal = "2ms".parse::<Within<ShortTime, 0, 1000>>().unwrap_err();
        assert_eq!(refusal.to_string(), "must be from 0s to 1ms, not 2ms");
    }

    #[test]
    fn other_numbers_than_powers_of_two_are_refused() {
        for number in [0, 3, 6, u32::MAX] {
            assert_eq!(PowerOfTwo::new(number), None);
        }
        let refusal = "3".parse::<Within<PowerOfTwo, 2, 8>>().unwrap_err();
        assert_eq!(refusal.to_string(), "expected a power of two from 2 to 8");
    }
}
