//! The machine that the numbers are of, and what was run on it.

use std::{fmt, process::Command, time::SystemTime};

use serde::Serialize;

/// The machine, and what was run on it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Host {
    #[serde(flatten)]
    machine: ringecho_loadtest::result::host::Host,
    /// Of ringecho's repository, with "+" behind it if files have been changed since; `None`
    /// outside of one.
    pub(crate) revision: Option<String>,
    /// UTC.
    pub(crate) date: String,
}

impl Host {
    pub(crate) fn read() -> Self {
        Self {
            machine: ringecho_loadtest::result::host::Host::read(),
            revision: revision(),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        }
    }

    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            machine: ringecho_loadtest::result::host::Host {
                cpu_model: "Example CPU".into(),
                cpus: 2,
                kernel: "Linux 6.18".into(),
            },
            revision: Some("0123abc".into()),
            date: "2026-01-02T03:04:05Z".into(),
        }
    }
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
        self.machine.fmt(f)?;
        if let Some(revision) = &self.revision {
            write!(f, ", ringecho {revision}")?;
        }
        // Of the date, the day.
        write!(f, ", {}", self.date.split('T').next().unwrap_or_default())
    }
}
