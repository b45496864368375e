//! A run held against an earlier one.
//!
//! Ratios tell of the server only if the load and the machine were the same. What was not is named
//! in the result and in a warning; it is no error, since there may be a reason for it.

use std::{fmt, fs, io, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use super::measurement::{Measured, Measurement, Ratios};
use crate::{
    plan::condition::metric::Metric,
    text::warning::{Warning, WarningCode},
};

/// What two runs have in common if they can be compared: names in the JSON of their results. How
/// long they took is not among it, nor where the server was.
const CIRCUMSTANCES: [&str; 22] = [
    "version",
    URL,
    PROXY,
    "way_in.proxy_header.version",
    "driver",
    "threads",
    "cpus",
    "connections.requested",
    "http2.transports",
    "depth",
    "open_loop.rate",
    "open_loop.wait",
    "payload",
    "payload_bytes",
    "fragments",
    COMPRESSION,
    "verify",
    "text",
    "raw_tcp",
    "host.cpu_model",
    "host.cpus",
    "host.kernel",
];

/// The URL, of which only the scheme matters: TLS costs both sides time.
const URL: &str = "url";

/// The URL of a proxy, of which only the scheme matters as well.
const PROXY: &str = "way_in.proxy.url";

/// Whether it was offered matters; on how many connections it was agreed to is a result.
const COMPRESSION: &str = "compression";

/// An earlier result, as it was written with `--json`.
#[derive(Clone, Debug)]
pub struct Baseline {
    file: String,
    json: Value,
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
        let json: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
        let result = EarlierResult::deserialize(&json)?;
        Ok(Self { file: path.display().to_string(), json, result })
    }

    /// How a run with this measurement, and this result as JSON, compares with it.
    pub(crate) fn compare(self, measurement: &Measurement, now: &Value) -> BaselineReport {
        let Self { file, json, result } = self;
        BaselineReport {
            file,
            began: result.began,
            ratios: Ratios::new(&Metric::OF_MESSAGES, |metric| {
                measurement.ratio(&result.measurement, metric)
            }),
            earlier: result.measurement,
            differences: differences(&json, now),
        }
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
    /// What the earlier run measured.
    #[serde(skip)]
    pub(crate) earlier: Measurement,
    /// What was not the same, and should have been.
    pub differences: Vec<Difference>,
}

/// Something that should be the same in both runs, and is not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The name in the JSON of a result, with a dot between levels.
    name: &'static str,
    /// The value in the earlier run; null also if its result does not say, as that of merged runs.
    earlier: Value,
    /// The value in this run.
    now: Value,
}

fn differences(earlier: &Value, now: &Value) -> Vec<Difference> {
    let differences = CIRCUMSTANCES.into_iter().map(|name| Difference {
        name,
        earlier: circumstance(earlier, name),
        now: circumstance(now, name),
    });
    differences.filter(|it| it.earlier != it.now).collect()
}

/// What is called `name` in a result.
fn circumstance(result: &Value, name: &str) -> Value {
    let value = name.split('.').fold(result, |value, key| &value[key]);
    match (name, value) {
        (URL | PROXY, Value::String(url)) => json!(url.split("://").next()),
        (COMPRESSION, value) => json!(value.is_object()),
        (_, value) => value.clone(),
    }
}

impl BaselineReport {
    /// The doubt about ratios to a run under other circumstances.
    pub(crate) fn doubt(&self) -> Option<Warning> {
        let Self { file, differences, .. } = self;
        let list: Vec<String> = differences.iter().map(ToString::to_string).collect();
        (!list.is_empty()).then(|| {
            let text = format!(
                "--baseline {file} was under other circumstances, and ratios tell of these too: {}",
                list.join(", ")
            );
            Warning::new(WarningCode::BaselineDiffers, text)
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, earlier, now } = self;
        write!(f, "{name} {earlier} there and {now} here")
    }
}

impl fmt::Display for BaselineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratios =
            self.ratios.iter().map(|(metric, ratio)| format!("{} x{ratio:.3}", metric.name()));
        let ratios: Vec<String> = ratios.collect();
        write!(f, "{}: {}", self.file, ratios.join("  "))
    }
}
