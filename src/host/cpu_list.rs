//! Lists of CPUs as people and the kernel write them: `1,3-5`. The load generator uses this too.

use std::{ops::RangeInclusive, str::FromStr};

use nix::{
    errno::Errno,
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};
use thiserror::Error;

/// CPUs in the order in which they were listed, each once, all of them usable by this process as far
/// as the kernel tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(Vec<usize>);

/// Why a text is no list of usable CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CpuListError {
    /// A part of the text is no number and no range.
    #[error("{0:?} is no CPU; expected numbers and ranges such as 1,3-5")]
    Syntax(String),
    /// This process may not run on a listed CPU.
    #[error("CPU {cpu} is not among the CPUs that this process may use: {}", format(.usable))]
    NotUsable {
        /// The first such CPU.
        cpu: usize,
        /// The CPUs that the process may use.
        usable: Vec<usize>,
    },
    /// A CPU is listed twice.
    #[error("CPU {0} is listed twice")]
    Repeated(usize),
    /// The kernel does not say which CPUs there are: they are more than its answer has room for, or
    /// the call is forbidden.
    #[error("the kernel does not tell which CPUs this process may use (sched_getaffinity: {0})")]
    Unknown(Errno),
}

impl CpuList {
    /// All CPUs that this process may run on.
    pub fn usable() -> Result<Self, CpuListError> {
        usable_cpus().map(Self).map_err(CpuListError::Unknown)
    }

    /// The CPUs, in their order.
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }
}

impl FromStr for CpuList {
    type Err = CpuListError;

    fn from_str(text: &str) -> Result<Self, CpuListError> {
        // If the usable CPUs are unknown, any CPU is accepted, and pinning a thread to it may fail.
        let usable = usable_cpus().unwrap_or_else(|_| (0..CpuSet::count()).collect());
        parse(text, &usable)
    }
}

fn usable_cpus() -> nix::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}

fn parse(text: &str, usable: &[usize]) -> Result<CpuList, CpuListError> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let range =
            parse_range(part.trim()).ok_or_else(|| CpuListError::Syntax(part.to_owned()))?;
        for cpu in range {
            if !usable.contains(&cpu) {
                return Err(CpuListError::NotUsable { cpu, usable: usable.to_vec() });
            }
            if cpus.contains(&cpu) {
                return Err(CpuListError::Repeated(cpu));
            }
            cpus.push(cpu);
        }
    }
    Ok(CpuList(cpus))
}

fn parse_range(part: &str) -> Option<RangeInclusive<usize>> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(first..=last)
}

/// Writes CPUs as a list, with neighbours as a range.
pub fn format(cpus: &[usize]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut at = 0;
    while at < cpus.len() {
        let mut last = at;
        while last + 1 < cpus.len() && cpus[last + 1] == cpus[last] + 1 {
            last += 1;
        }
        parts.push(if last == at {
            cpus[at].to_string()
        } else {
            format!("{}-{}", cpus[at], cpus[last])
        });
        at = last + 1;
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const USABLE: &[usize] = &[0, 1, 2, 3, 5];

    #[test]
    fn numbers_and_ranges_are_listed() {
        for (text, cpus) in
            [("0", &[0][..]), ("1-3", &[1, 2, 3]), ("5, 0-1", &[5, 0, 1]), ("2-2", &[2])]
        {
            assert_eq!(parse(text, USABLE), Ok(CpuList(cpus.to_vec())), "{text}");
        }
    }

    #[test]
    fn other_lists_are_refused_with_the_reason() {
        for (text, message) in [
            ("", "\"\" is no CPU; expected numbers and ranges such as 1,3-5"),
            ("1,x", "\"x\" is no CPU; expected numbers and ranges such as 1,3-5"),
            ("3-1", "\"3-1\" is no CPU; expected numbers and ranges such as 1,3-5"),
            ("-1", "\"-1\" is no CPU; expected numbers and ranges such as 1,3-5"),
            ("3-6", "CPU 4 is not among the CPUs that this process may use: 0-3,5"),
            ("0-99999999999", "CPU 4 is not among the CPUs that this process may use: 0-3,5"),
            ("1,0-2", "CPU 1 is listed twice"),
        ] {
            assert_eq!(parse(text, USABLE).unwrap_err().to_string(), message);
        }
    }
}
