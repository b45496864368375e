//! A run held against an earlier one, and against conditions that must not hold.

use std::{fmt, fs, io, path::Path};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    condition::{Check, Condition, Measurement, Ratios},
    report::Report,
};

/// An earlier result, as it was written with `--json`.
#[derive(Clone, Debug)]
pub struct Baseline {
    file: String,
    result: EarlierResult,
}

#[derive(Clone, Debug, Deserialize)]
struct EarlierResult {
    /// Those of merged runs have several.
    began: Option<String>,
    #[serde(flatten)]
    measurement: Measurement,
}

/// Why a file is no baseline.
#[derive(Debug, Error)]
pub enum BaselineError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It has something else in it.
    #[error("expected the result of a run, as --json writes it: {0}")]
    Result(#[from] serde_json::Error),
}

impl Baseline {
    /// Reads a result.
    pub fn read(path: &Path) -> Result<Self, BaselineError> {
        let result = serde_json::from_str(&fs::read_to_string(path)?)?;
        Ok(Self { file: path.display().to_string(), result })
    }
}

/// A run in comparison with an earlier one.
#[derive(Clone, Debug, Serialize)]
pub struct BaselineReport {
    /// Where the earlier result is.
    pub file: String,
    /// When its measured window began, in RFC 3339.
    pub began: Option<String>,
    /// This run divided by the earlier one.
    pub ratios: Ratios<f64>,
}

/// Adds to a result how it compares with an earlier one, and whether the conditions hold.
pub fn conclude(report: &mut Report, baseline: Option<Baseline>, conditions: &[Condition]) {
    let measurement = Measurement::from(&*report);
    report.baseline = baseline.map(|Baseline { file, result }| BaselineReport {
        file,
        began: result.began,
        ratios: Ratios::new(|metric| measurement.ratio(&result.measurement, metric)),
    });
    let ratio = |metric| report.baseline.as_ref()?.ratios.get(metric).copied();
    let check = |condition| Check::new(condition, |metric| measurement.value(metric), ratio);
    report.checks = conditions.iter().map(check).collect();
}

impl fmt::Display for BaselineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratios =
            self.ratios.iter().map(|(metric, ratio)| format!("{} x{ratio:.3}", metric.name()));
        let ratios: Vec<String> = ratios.collect();
        write!(f, "{}: {}", self.file, ratios.join("  "))
    }
}
