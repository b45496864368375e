//! What the page of a run shows.

use std::fmt;

use super::{OpenLoopReport, Report, floor_in_words};
use crate::{
    plan::Exchange,
    result::{
        export::{Exported, Page},
        measurement::Measurement,
        usage::UsageReport,
    },
    text::numbers::grouped,
};

#[expect(private_interfaces, reason = "results are exported by the library and nobody else")]
impl Exported for Report {
    fn page(&self) -> Page<'_> {
        Page {
            of: Exchange::Message,
            url: &self.provenance.url,
            setting: fmt::from_fn(|f| self.write_setting(f)).to_string(),
            per_second: self.messages_per_second,
            latency: self.latency_us,
            errors: &self.errors,
            causes: &self.causes,
            warnings: &self.warnings,
            checks: &self.checks,
            baseline: self.baseline.as_ref().map(|it| (it, Measurement::from(self))),
            recording: &self.recording,
            facts: facts(self),
        }
    }
}

fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let usage = |usage: &Option<UsageReport>| {
        usage.map_or_else(|| "not measured".to_owned(), |usage| usage.to_string())
    };
    let mut generator = usage(&report.generator);
    if let Some(polling) = report.open_loop.as_ref().and_then(OpenLoopReport::polling) {
        generator += "; ";
        generator += &polling;
    }
    let connections = report.connections;
    vec![
        ("began", report.began.clone()),
        (
            "measured",
            format!("{} s, after {} s of load", report.duration_seconds, report.warmup_seconds),
        ),
        (
            "connections",
            format!(
                "{} of {} opened, {} lost",
                grouped(connections.opened),
                grouped(connections.requested as u64),
                grouped(connections.lost)
            ),
        ),
        (
            "messages",
            format!(
                "{} in the measured window, {} in all",
                grouped(report.messages),
                grouped(report.messages_total)
            ),
        ),
        ("payload", format!("{:.1} MB/s each way", report.payload_megabytes_per_second)),
        (
            "generator's floor",
            report.floor_us.as_ref().map_or_else(|| "not measured".to_owned(), floor_in_words),
        ),
        ("server", usage(&report.server)),
        ("generator", generator),
        ("generator's machine", report.host.to_string()),
        ("ringecho-loadtest", report.provenance.version.to_owned()),
    ]
}
