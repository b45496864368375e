//! What a process used, in a result: CPU time for each message, and memory.

#![expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    count::window_usage::UsedInWindow,
    text::numbers::{bytes, per_second, rounded},
};

/// What a process used in the measured window.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct UsageReport {
    /// The process.
    pub pid: u32,
    /// CPU time for each message, in microseconds; `None` if there was no message.
    pub cpu_us_per_message: Option<CpuReport>,
    /// CPU time for each second: 1.0 is one CPU that never rests.
    pub cpus_busy: f64,
    /// Memory at the end of the window.
    pub resident_bytes: u64,
    /// The most memory since the process started.
    pub resident_peak_bytes: u64,
}

/// CPU time.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct CpuReport {
    /// CPU time in the program.
    pub user: f64,
    /// CPU time in the kernel.
    pub system: f64,
    /// Both.
    pub total: f64,
}

impl UsageReport {
    pub(crate) fn new(process: &UsedInWindow, measured: Duration, messages: u64) -> Self {
        let UsedInWindow { pid, before, after, .. } = process;
        let user = after.user.saturating_sub(before.user);
        let system = after.system.saturating_sub(before.system);
        let per_message = |time: Duration| rounded(time.as_secs_f64() * 1e6 / messages as f64);
        Self {
            pid: *pid,
            cpu_us_per_message: (messages > 0).then(|| CpuReport {
                user: per_message(user),
                system: per_message(system),
                total: per_message(user + system),
            }),
            cpus_busy: rounded(per_second((user + system).as_secs_f64(), measured)),
            resident_bytes: after.resident,
            resident_peak_bytes: after.resident_peak,
        }
    }
}

impl fmt::Display for UsageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(CpuReport { user, system, total }) = self.cpu_us_per_message {
            write!(f, "{total:.2} us of CPU per message ({user:.2} user, {system:.2} system), ")?;
        }
        write!(
            f,
            "{:.2} CPUs busy, {} of memory (peak {})",
            self.cpus_busy,
            bytes(self.resident_bytes),
            bytes(self.resident_peak_bytes),
        )
    }
}
