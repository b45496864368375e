//! The machine that the numbers are of.

use std::{fmt, fs, process::Command, time::SystemTime};

use nix::sys::utsname::uname;
use ringecho::cpu_list::CpuList;
use serde::Serialize;

/// The machine, and what was run on it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Host {
    pub(crate) cpu_model: String,
    /// Those that may be used.
    pub(crate) cpus: usize,
    pub(crate) kernel: String,
    /// Of ringecho's repository, with "+" behind it if files have been changed since; `None`
    /// outside of one.
    pub(crate) revision: Option<String>,
    /// UTC.
    pub(crate) date: String,
}

impl Host {
    pub(crate) fn read() -> Self {
        let kernel = uname().map(|name| {
            [name.sysname(), name.release()].map(|part| part.to_string_lossy()).join(" ")
        });
        Self {
            cpu_model: cpu_model(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            cpus: CpuList::usable().as_slice().len(),
            kernel: kernel.unwrap_or_else(|_| "an unknown kernel".to_owned()),
            revision: revision(),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        }
    }

    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            cpu_model: "Example CPU".into(),
            cpus: 2,
            kernel: "Linux 6.18".into(),
            revision: Some("0123abc".into()),
            date: "2026-01-02T03:04:05Z".into(),
        }
    }
}

fn cpu_model(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let model = line.and_then(|line| line.split_once(':')).map(|(_, model)| model.trim());
    model.unwrap_or("an unknown CPU").to_owned()
}

fn revision() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let revision = git(&["rev-parse", "--short", "HEAD"])?;
    let is_changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if is_changed { revision + "+" } else { revision })
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} CPUs, {}", self.cpu_model, self.cpus, self.kernel)?;
        if let Some(revision) = &self.revision {
            write!(f, ", ringecho {revision}")?;
        }
        // Of the date, the day.
        write!(f, ", {}", self.date.split('T').next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_model_is_found() {
        let cpuinfo = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: A CPU @ 3 GHz\nstepping\t: 1\n";
        assert_eq!(cpu_model(cpuinfo), "A CPU @ 3 GHz");
        assert_eq!(cpu_model("Hardware : x"), "an unknown CPU");
    }
}
