//! What the page of a churn shows.

use std::fmt;

use super::report::{ChurnReport, CycleUsage, PlannedCycles};
use crate::{
    plan::Exchange,
    result::export::{Exported, Page},
    text::numbers::grouped,
};

#[expect(private_interfaces, reason = "results are exported by the library and nobody else")]
impl Exported for ChurnReport {
    fn page(&self) -> Page<'_> {
        Page {
            of: Exchange::Cycle,
            url: &self.provenance.url,
            setting: fmt::from_fn(|f| self.write_setting(f)).to_string(),
            per_second: self.cycles_per_second,
            latency: self.cycle_us,
            errors: &self.errors,
            causes: &self.causes,
            warnings: &self.warnings,
            checks: &self.checks,
            baseline: None,
            recording: &self.recording,
            facts: facts(self),
        }
    }
}

fn facts(report: &ChurnReport) -> Vec<(&'static str, String)> {
    let not_measured = || "not measured".to_owned();
    let usage =
        |usage: &Option<CycleUsage>| usage.map_or_else(not_measured, |usage| usage.to_string());
    let mut generator = usage(&report.generator);
    if let Some(polling) = report.open_loop.as_ref().and_then(PlannedCycles::polling) {
        generator += "; ";
        generator += &polling;
    }
    vec![
        ("began", report.began.clone()),
        (
            "measured",
            format!("{} s, after {} s of load", report.duration_seconds, report.warmup_seconds),
        ),
        (
            "cycles",
            format!(
                "{} in the measured window, {} in all",
                grouped(report.cycles),
                grouped(report.cycles_total)
            ),
        ),
        ("generator's floor", report.floor_us.map_or_else(not_measured, |floor| floor.to_string())),
        ("server", usage(&report.server)),
        ("generator", generator),
        ("generator's machine", report.host.to_string()),
        ("ringecho-loadtest", report.provenance.version.to_owned()),
    ]
}
