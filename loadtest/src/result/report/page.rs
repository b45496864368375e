//! What the page of a run shows.

use std::fmt;

use super::{Provenance, Report, floor_in_words, polling_in_words};
use crate::{
    plan::Exchange,
    result::{
        export::{Exported, Page},
        host::Host,
        layers::Layers,
        measurement::Measurement,
    },
    text::numbers::grouped,
};

impl Exported for Report {
    fn page(&self) -> Page<'_> {
        Page {
            exchange: Exchange::Message,
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
    let connections = report.connections;
    let own = vec![
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
    ];
    let shared = SharedFacts {
        provenance: &report.provenance,
        layers: &report.layers,
        host: &report.host,
        began: &report.began,
        duration_seconds: report.duration_seconds,
        warmup_seconds: report.warmup_seconds,
        floor: report.floor_us.as_ref().map(floor_in_words),
        server: report.server.as_ref().map(ToString::to_string),
        generator: report.generator.as_ref().map(ToString::to_string),
        polled_in_vain: report.open_loop.as_ref().and_then(|it| it.polled_in_vain),
    };
    shared.around(own)
}

/// What the pages of runs and of churns say alike. Figures are in words; `None` if they were not
/// measured.
pub(crate) struct SharedFacts<'r> {
    pub(crate) provenance: &'r Provenance,
    pub(crate) layers: &'r Layers,
    pub(crate) host: &'r Host,
    pub(crate) began: &'r str,
    pub(crate) duration_seconds: f64,
    pub(crate) warmup_seconds: f64,
    pub(crate) floor: Option<String>,
    pub(crate) server: Option<String>,
    pub(crate) generator: Option<String>,
    /// As in the result.
    pub(crate) polled_in_vain: Option<f64>,
}

impl SharedFacts<'_> {
    /// All facts: of these those about time, then `own`, then the rest.
    pub(crate) fn around(self, own: Vec<(&'static str, String)>) -> Vec<(&'static str, String)> {
        let or_not = |words: Option<String>| words.unwrap_or_else(|| "not measured".to_owned());
        let mut generator = or_not(self.generator);
        if let Some(polling) = polling_in_words(self.polled_in_vain) {
            generator += "; ";
            generator += &polling;
        }
        let measured =
            format!("{} s, after {} s of load", self.duration_seconds, self.warmup_seconds);
        let before = [("began", self.began.to_owned()), ("measured", measured)];
        let way_in = self.provenance.way_in.as_ref().map(|it| ("way in", it.to_string()));
        let behind = [
            ("generator's floor", or_not(self.floor)),
            ("server", or_not(self.server)),
            ("generator", generator),
            ("generator's machine", self.host.to_string()),
            ("ringecho-loadtest", self.provenance.version.to_owned()),
        ];
        let latencies = self.layers.latencies().into_iter();
        let latencies = latencies.map(|(name, latency)| (name, latency.to_string()));
        let layers = self.layers.in_words().into_iter().chain(latencies);
        before.into_iter().chain(way_in).chain(own).chain(layers).chain(behind).collect()
    }
}
