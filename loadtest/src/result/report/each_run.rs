//! What several runs that belong together have in common.

use std::fmt;

use serde::Serialize;

use crate::{
    plan::Plan,
    text::{numbers::counted, warning::Warning},
};

/// What each of several runs was.
#[derive(Clone, Debug, Serialize)]
pub struct EachRun {
    /// How many.
    pub connections: usize,
    /// Messages of each cycle; `None` if the runs are none of cycles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_cycle: Option<usize>,
    /// What is in the messages, in words.
    pub payload: String,
    /// Load before the measured window.
    pub warmup_seconds: f64,
    /// Length of the measured window.
    pub duration_seconds: f64,
    /// What casts doubt on all of them.
    pub warnings: Vec<Warning>,
}

impl From<&Plan> for EachRun {
    fn from(plan: &Plan) -> Self {
        Self {
            connections: plan.connections,
            messages_per_cycle: None,
            payload: plan.payload.source.to_string(),
            warmup_seconds: plan.warmup.as_secs_f64(),
            duration_seconds: plan.duration.as_secs_f64(),
            warnings: Vec::new(),
        }
    }
}

/// Without times.
impl fmt::Display for EachRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = self.connections as u64;
        match self.messages_per_cycle {
            None => write!(f, "{} x {}", counted(connections, "connection"), self.payload),
            Some(messages) => write!(
                f,
                "{} at once x {} x {}",
                counted(connections, "cycle"),
                counted(messages as u64, "message"),
                self.payload
            ),
        }
    }
}
