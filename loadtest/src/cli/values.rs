//! Parsers of flags' values. Each refusal says what would be allowed; clap adds flag and value.

use std::{
    fmt::Display,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytesize::ByteSize;
use clap::builder::{PathBufValueParser, TypedValueParser};
use nix::unistd::{AccessFlags, access};

use crate::{count::process_usage::ProcessUsage, text::numbers::grouped};

/// A file that is none, but standard output.
pub const STDOUT: &str = "-";

/// How far ahead an instant may be.
const AHEAD_MAX: Duration = Duration::from_hours(24);

/// Parses any number of 64 bits.
pub(super) fn any_number(text: &str) -> Result<u64, String> {
    let expected = || not_in(&(0..=u64::MAX), "a number", grouped);
    text.parse().map_err(|_| expected())
}

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

/// A parser of sizes, or ranges of sizes, within `range`: bytes from the least to the most.
pub(super) fn sizes(
    range: RangeInclusive<ByteSize>,
) -> impl Fn(&str) -> Result<RangeInclusive<usize>, String> + Clone {
    let size = size(range);
    move |text| {
        let (low, high) = text.split_once("..").unwrap_or((text, text));
        let (low, high) = (size(low)?.as_u64() as usize, size(high)?.as_u64() as usize);
        if low > high {
            return Err("expected a range from a size to one that is not smaller".to_owned());
        }
        Ok(low..=high)
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

/// A parser of percentages in `range`.
pub(super) fn percentage(
    range: RangeInclusive<f64>,
) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |text| {
        let show = |percent: f64| format!("{percent}%");
        let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
        let percent = percent.ok_or_else(|| not_in(&range, "a percentage", show))?;
        within(percent, &range, "a percentage", show)
    }
}

/// The most addresses that a list may have.
const ADDRESSES_MAX: usize = 65_536;

/// Addresses and ranges of them, such as `127.0.0.1,127.0.0.4-127.0.0.9`; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressList(Vec<IpAddr>);

impl AddressList {
    /// The addresses in the order in which they were given.
    pub(super) fn as_slice(&self) -> &[IpAddr] {
        &self.0
    }
}

impl FromStr for AddressList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut addresses = Vec::new();
        for part in text.split(',') {
            let range = address_range(part.trim()).ok_or_else(|| {
                format!(
                    "{part:?} is no address; \
                     expected addresses and ranges such as 127.0.0.2-127.0.0.9"
                )
            })?;
            addresses.extend(range.take(ADDRESSES_MAX + 1));
            if addresses.len() > ADDRESSES_MAX {
                return Err(format!("more than {} addresses", grouped(ADDRESSES_MAX as u64)));
            }
        }
        Ok(Self(addresses))
    }
}

fn address_range(text: &str) -> Option<impl Iterator<Item = IpAddr>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
    let bits = |address| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    (first.is_ipv4() == last.is_ipv4() && first <= last).then(|| {
        (bits(first)..=bits(last)).map(move |bits| match first {
            IpAddr::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
        })
    })
}

/// Parses an instant in the near future.
pub(super) fn instant(text: &str) -> Result<SystemTime, String> {
    let expected = || {
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        format!("expected a time in the next 24 hours, such as {now} or in seconds since 1970")
    };
    let unix_time = || Duration::try_from_secs_f64(text.parse().ok()?).ok();
    let instant = match humantime::parse_rfc3339_weak(text) {
        Ok(instant) => Some(instant),
        Err(_) => unix_time().and_then(|since| UNIX_EPOCH.checked_add(since)),
    };
    let instant = instant.ok_or_else(expected)?;
    match instant.duration_since(SystemTime::now()) {
        Ok(ahead) if ahead <= AHEAD_MAX => Ok(instant),
        Ok(_) => Err(expected()),
        Err(past) => {
            let past = humantime::format_duration(Duration::from_secs(past.duration().as_secs()));
            Err(format!("that was {past} ago; {}", expected()))
        }
    }
}

/// A parser of files that are going to be written, so that nobody finds out after a long run that
/// they cannot be. Nothing is created yet.
pub(super) fn output_file() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| writable(&path).map(|()| path))
}

/// The same, with "-" for standard output.
pub(super) fn output_file_or_stdout() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| {
        if path == Path::new(STDOUT) {
            return Ok(path);
        }
        writable(&path).map(|()| path)
    })
}

/// Whether a file can be written, or made where it does not exist, as far as the kernel says now.
fn writable(path: &Path) -> io::Result<()> {
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => Ok(access(path, AccessFlags::W_OK)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().filter(|directory| *directory != Path::new(""));
            let directory = directory.unwrap_or(Path::new("."));
            Ok(access(directory, AccessFlags::W_OK | AccessFlags::X_OK)?)
        }
        Err(error) => Err(error),
    }
}

/// Parses the number of a process whose usage can be read.
pub(super) fn process(text: &str) -> Result<u32, String> {
    let pid = text.parse().map_err(|_| "expected the number of a process".to_owned())?;
    match ProcessUsage::read(pid) {
        Ok(_) => Ok(pid),
        Err(cause) => Err(format!("cannot read what process {pid} uses: {cause}")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_lists_have_ranges() {
        for (text, addresses) in [
            ("127.0.0.2", &["127.0.0.2"][..]),
            ("::1", &["::1"]),
            (
                "127.0.0.9,127.0.0.255-127.0.1.1",
                &["127.0.0.9", "127.0.0.255", "127.0.1.0", "127.0.1.1"],
            ),
            ("fd00::fffe-fd00::ffff", &["fd00::fffe", "fd00::ffff"]),
        ] {
            let expected: Vec<IpAddr> =
                addresses.iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(text.parse(), Ok(AddressList(expected)), "{text}");
        }
        for text in [
            "",
            "localhost",
            "127.0.0.2-",
            "127.0.0.9-127.0.0.2",
            "127.0.0.1-::1",
            "::-::ffff:ffff",
        ] {
            assert!(text.parse::<AddressList>().is_err(), "{text}");
        }
    }

    #[test]
    fn files_can_be_written_where_there_is_a_directory() {
        for path in ["/dev/null", "there is no such file", "./nor such a one", "/tmp/nor such"] {
            assert!(writable(Path::new(path)).is_ok(), "{path}");
        }
        for (path, kind) in [
            ("/", io::ErrorKind::IsADirectory),
            ("/nonexistent/x", io::ErrorKind::NotFound),
            ("/dev/null/x", io::ErrorKind::NotADirectory),
        ] {
            assert_eq!(writable(Path::new(path)).map_err(|error| error.kind()), Err(kind));
        }
    }

    #[test]
    fn instants_are_understood_in_both_forms() {
        let soon = SystemTime::now() + Duration::from_hours(1);
        let rfc3339 = humantime::format_rfc3339_nanos(soon).to_string();
        assert_eq!(instant(&rfc3339), Ok(soon));
        let whole = soon.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let understood = instant(&format!("{whole}.5")).unwrap();
        assert_eq!(understood, UNIX_EPOCH + Duration::from_millis(whole * 1000 + 500));
    }

    #[test]
    fn instants_that_are_over_or_far_are_refused() {
        for text in ["1767225600", "2026-01-01T00:00:00Z"] {
            assert!(instant(text).unwrap_err().starts_with("that was "), "{text}");
        }
        for text in ["9999-01-01T00:00:00Z", "noon", "-1", "1e300", "NaN"] {
            assert!(instant(text).unwrap_err().starts_with("expected a time in the "), "{text}");
        }
    }
}
