//! What a process has used so far, as the kernel tells in `/proc/PID/stat` and `/proc/PID/status`,
//! and what the kernel itself uses (see proc(5)).

use std::{fs, io, time::Duration};

use nix::unistd::{SysconfVar, sysconf};

/// CPU time since the process started, and memory now.
///
/// The kernel reports CPU time in clock ticks of 10 ms, so a difference is exact to about 20 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessUsage {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    /// Bytes in memory now.
    pub(crate) resident: u64,
    /// The most bytes that have been in memory at once.
    pub(crate) resident_peak: u64,
}

impl ProcessUsage {
    /// Reads the usage of the process `pid`, all of its threads together.
    pub(crate) fn read(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        parse(&stat, &status, ticks_per_second()?).ok_or_else(unexpected_format)
    }
}

/// Bytes of the kernel's slabs, where it has sockets, files and their like, of all processes
/// together. Bytes in sockets' queues are elsewhere.
pub(crate) fn kernel_slabs() -> Option<u64> {
    kibibytes(&fs::read_to_string("/proc/meminfo").ok()?, "Slab:").map(|kibibytes| kibibytes * 1024)
}

/// User and system time, as the `stat` of a process or a thread tells.
pub(crate) fn cpu_time(stat: &str) -> io::Result<Duration> {
    let [user, system] = times(stat, ticks_per_second()?).ok_or_else(unexpected_format)?;
    Ok(user + system)
}

fn ticks_per_second() -> io::Result<u64> {
    Ok(sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100).cast_unsigned())
}

fn unexpected_format() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "unexpected format")
}

fn times(stat: &str, ticks_per_second: u64) -> Option<[Duration; 2]> {
    // The second field, the program's name in parentheses, may itself contain both.
    let behind_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = behind_name.split_ascii_whitespace().skip(11);
    let mut time = || {
        let ticks: u64 = fields.next()?.parse().ok()?;
        Some(Duration::from_nanos(ticks * (1_000_000_000 / ticks_per_second)))
    };
    Some([time()?, time()?])
}

fn parse(stat: &str, status: &str, ticks_per_second: u64) -> Option<ProcessUsage> {
    let [user, system] = times(stat, ticks_per_second)?;
    Some(ProcessUsage {
        user,
        system,
        resident: kibibytes(status, "VmRSS:")? * 1024,
        resident_peak: kibibytes(status, "VmHWM:")? * 1024,
    })
}

/// Bytes of the process `pid` that are in memory now (`VmRSS` in proc(5)).
pub fn resident(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    kibibytes(&status, "VmRSS:").map(|kibibytes| kibibytes * 1024).ok_or_else(unexpected_format)
}

/// Bytes of the process `pid` that are in memory now and are no pages of files (`RssAnon` and
/// `RssShmem` in proc(5)). A program's own code is such pages, which the kernel maps in blocks as the
/// code is first run.
pub(crate) fn resident_beside_files(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kibibytes = kibibytes(&status, "RssAnon:").zip(kibibytes(&status, "RssShmem:"));
    kibibytes.map(|(own, shared)| (own + shared) * 1024).ok_or_else(unexpected_format)
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let stat = "42 (odd) name (x) S 1 42 42 0 -1 4194560 500 0 0 0 123 45 0 0 20 0 3 0 100 9 8";
        let status = "Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(
            parse(stat, status, 100),
            Some(ProcessUsage {
                user: Duration::from_millis(1230),
                system: Duration::from_millis(450),
                resident: 1 << 20,
                resident_peak: 2 << 20,
            })
        );
    }

    #[test]
    fn this_process_has_memory() {
        let usage = ProcessUsage::read(std::process::id()).unwrap();
        assert!(usage.resident > 0 && usage.resident_peak >= usage.resident);
        assert!(resident(std::process::id()).unwrap() > 0);
        let beside_files = resident_beside_files(std::process::id()).unwrap();
        assert!(beside_files > 0 && beside_files < usage.resident);
    }

    #[test]
    fn kernel_has_memory() {
        assert!(kernel_slabs() > Some(0));
    }
}
