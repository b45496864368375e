//! What several runs that belong together have in common.

use std::fmt;

use serde::Serialize;

use crate::{
    plan::{Closing, Plan},
    text::{numbers::counted, warning::Warning},
};

/// What each of several runs was.
#[derive(Clone, Debug, Serialize)]
pub struct EachRun {
    /// How many.
    pub connections: usize,
    /// Messages or cycles a second, as they were asked for; `None` in closed loops, and where each
    /// run has another rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// What a cycle is; `None` if the runs are none of cycles.
    #[serde(flatten)]
    pub cycle: Option<EachCycle>,
    /// What is in the messages, in words.
    pub payload: String,
    /// Load before the measured window.
    pub warmup_seconds: f64,
    /// Length of the measured window.
    pub duration_seconds: f64,
    /// What casts doubt on all of them.
    pub warnings: Vec<Warning>,
}

/// What each cycle of such runs was.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EachCycle {
    /// Messages of each cycle.
    pub messages_per_cycle: usize,
    /// How a cycle ends.
    pub close: Closing,
    /// Whether cycles begin at planned instants, so that there may be fewer at once.
    #[serde(skip)]
    pub is_open_loop: bool,
}

impl From<&Plan> for EachRun {
    fn from(plan: &Plan) -> Self {
        Self {
            connections: plan.connections,
            rate: plan.load.rate(),
            cycle: None,
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
        let Self { connections, rate, cycle, payload, .. } = self;
        let connections = *connections as u64;
        let exchanges = if let Some(EachCycle { messages_per_cycle, close, is_open_loop }) = cycle {
            let at_most = if *is_open_loop { "at most " } else { "" };
            let (cycles, messages) =
                (counted(connections, "cycle"), counted(*messages_per_cycle as u64, "message"));
            write!(f, "{at_most}{cycles} at once x {messages} x {payload}, {close}")?;
            "cycles"
        } else {
            write!(f, "{} x {payload}", counted(connections, "connection"))?;
            "messages"
        };
        rate.as_ref().map_or(Ok(()), |rate| write!(f, ", {rate} {exchanges}/s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_run_was_is_told_with_its_rate_and_the_end_of_its_cycles() {
        let messages = EachRun {
            connections: 64,
            rate: None,
            cycle: None,
            payload: "64 B".to_owned(),
            warmup_seconds: 1.0,
            duration_seconds: 10.0,
            warnings: Vec::new(),
        };
        let cycle =
            EachCycle { messages_per_cycle: 2, close: Closing::Handshake, is_open_loop: false };
        let cycles = EachRun { cycle: Some(cycle), ..messages.clone() };
        let planned = EachCycle { close: Closing::Abort, is_open_loop: true, ..cycle };
        let planned = EachRun { cycle: Some(planned), ..cycles.clone() };
        let at_rate =
            |each_run: &EachRun| EachRun { rate: Some("5k".to_owned()), ..each_run.clone() };
        for (each_run, text) in [
            (&messages, "64 connections x 64 B"),
            (&at_rate(&messages), "64 connections x 64 B, 5k messages/s"),
            (&cycles, "64 cycles at once x 2 messages x 64 B, closing handshake"),
            (&planned, "at most 64 cycles at once x 2 messages x 64 B, reset"),
            (
                &at_rate(&planned),
                "at most 64 cycles at once x 2 messages x 64 B, reset, 5k cycles/s",
            ),
        ] {
            assert_eq!(each_run.to_string(), text);
        }
    }
}
