//! The result of a run for people.

use std::fmt;

use ringecho::host::cpu_list;

use super::{Connections, Report, write_way_in};
use crate::{
    count::{
        errors::{Cause, ErrorCounts, WrongEchoCounts},
        latency_report::LatencyReport,
    },
    payload::Verify,
    text::numbers::{grouped, rate},
};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.provenance.url)?;
        write_way_in(f, self.provenance.way_in.as_ref())?;
        self.write_setting(f)?;
        writeln!(f)?;
        writeln!(
            f,
            "  messages    {} in {:.2} s: {} messages/s, {:.1} MB/s each way",
            grouped(self.messages),
            self.duration_seconds,
            rate(self.messages_per_second),
            self.payload_megabytes_per_second,
        )?;
        if let Some(latency) = &self.latency_us {
            writeln!(f, "  latency     {latency}")?;
        }
        if let Some(open_loop) = &self.open_loop {
            write!(f, "{open_loop}")?;
        }
        write!(f, "{}", self.layers)?;
        if let Some(floor) = &self.floor_us {
            writeln!(f, "  floor       {}", floor_in_words(floor))?;
        }
        if let Some(server) = &self.server {
            writeln!(f, "  server      {server}")?;
        }
        if let Some(generator) = &self.generator {
            writeln!(f, "  generator   {generator}")?;
        }
        write_errors(f, &self.errors, &self.wrong_echoes, &self.causes)?;
        if let Some(baseline) = &self.baseline {
            writeln!(f, "  baseline    {baseline}")?;
        }
        self.checks.iter().try_for_each(|check| writeln!(f, "  {check}"))
    }
}

/// A floor of messages: `p50 8.1  p90 9.0 us of an echo that always polls`.
pub(crate) fn floor_in_words(floor: &LatencyReport) -> String {
    format!("{} us of an echo that always polls", floor.in_words())
}

/// Writes the number of errors by kind, and below it what caused them.
pub(crate) fn write_errors(
    f: &mut fmt::Formatter<'_>,
    errors: &ErrorCounts,
    wrong_echoes: &WrongEchoCounts,
    causes: &[Cause],
) -> fmt::Result {
    write!(f, "  errors      {errors}")?;
    if errors.wrong > 0 {
        write!(f, " ({wrong_echoes})")?;
    }
    writeln!(f)?;
    causes.iter().try_for_each(|cause| writeln!(f, "              {cause}"))
}

impl Report {
    fn load(&self) -> String {
        match &self.open_loop {
            Some(open_loop) => format!("{} messages/s", open_loop.rate),
            None => format!("depth {}", grouped(self.depth as u64)),
        }
    }

    /// What the load was.
    pub(crate) fn write_setting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {}", self.connections)?;
        let Connections { lost, reopened, .. } = self.connections;
        if lost > 0 {
            write!(f, " ({} lost", grouped(lost))?;
            if let Some(reopened) = reopened {
                write!(f, ", {} opened again", grouped(reopened))?;
            }
            write!(f, ")")?;
        }
        write!(
            f,
            " x {} x {} {}, {}",
            self.load(),
            self.payload,
            if self.text { "text" } else { "binary" },
            self.provenance.generator(),
        )?;
        if self.raw_tcp {
            f.write_str(", echoed as TCP")?;
        }
        if self.fragments > 1 {
            write!(f, ", in {} fragments", grouped(self.fragments as u64))?;
        }
        if self.compression.is_some_and(|compression| compression.connections > 0) {
            f.write_str(", compressed")?;
        }
        match self.verify {
            Verify::Full => {}
            Verify::Length => f.write_str(", only lengths verified")?,
            Verify::None => f.write_str(", not verified")?,
        }
        if let Some(cpus) = &self.provenance.cpus {
            write!(f, ", CPUs {}", cpu_list::format(cpus))?;
        }
        writeln!(f)?;
        if self.interrupted {
            writeln!(f, "  interrupted: only what was measured until then")?;
        }
        Ok(())
    }
}
