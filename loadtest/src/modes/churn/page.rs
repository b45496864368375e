//! What the page of a churn shows.

use std::fmt;

use super::report::ChurnReport;
use crate::{
    plan::Exchange,
    result::{
        export::{Exported, Page},
        report::SharedFacts,
    },
    text::numbers::grouped,
};

impl Exported for ChurnReport {
    fn page(&self) -> Page<'_> {
        Page {
            exchange: Exchange::Cycle,
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
    let cycles = format!(
        "{} in the measured window, {} in all",
        grouped(report.cycles),
        grouped(report.cycles_total)
    );
    let shared = SharedFacts {
        provenance: &report.provenance,
        layers: &report.layers,
        host: &report.host,
        began: &report.began,
        duration_seconds: report.duration_seconds,
        warmup_seconds: report.warmup_seconds,
        floor: report.floor_us.as_ref().map(ToString::to_string),
        server: report.server.as_ref().map(ToString::to_string),
        generator: report.generator.as_ref().map(ToString::to_string),
        polled_in_vain: report.open_loop.as_ref().and_then(|it| it.polled_in_vain),
    };
    shared.around(vec![("cycles", cycles)])
}
