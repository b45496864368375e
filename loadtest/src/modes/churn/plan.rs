//! What is to be done with connections that come and go.

use std::{sync::Arc, time::Duration};

use crate::{
    payload::PayloadPlan,
    plan::{Closing, Load, Wait, threads::ThreadPlan},
    result::report::{EachCycle, EachRun},
    wire::connector::Connector,
};

/// Everything that has to be known about a churn; validated by the command line.
#[derive(Clone, Debug)]
pub struct ChurnPlan {
    /// Opens the connections; it resets what is closed, if cycles [end so](Closing::Abort).
    pub connector: Arc<Connector>,
    /// Cycles under way at a time over all threads, at least 1; in an open loop at most.
    pub connections: usize,
    /// When cycles begin.
    pub load: Load,
    /// What the threads of an open loop do until something happens.
    pub wait: Wait,
    /// Messages of each cycle, one after the other.
    pub messages: usize,
    /// What is in the messages.
    pub payload: PayloadPlan,
    /// How a cycle ends.
    pub closing: Closing,
    /// How long an echo, the server's Close frame and its end of TCP are waited for, each.
    pub answer_timeout: Duration,
    /// How long the load runs before the measured window.
    pub warmup: Duration,
    /// The measured window.
    pub duration: Duration,
    /// How long after it what could not begin in its time still begins.
    pub backlog_grace: Duration,
    /// The threads that the cycles are spread over.
    pub threads: ThreadPlan,
    /// The server's process, if its CPU time and memory are to be measured.
    pub server_pid: Option<u32>,
}

impl From<&ChurnPlan> for EachRun {
    fn from(plan: &ChurnPlan) -> Self {
        Self {
            connections: plan.connections,
            rate: plan.load.rate(),
            cycle: Some(EachCycle {
                messages_per_cycle: plan.messages,
                close: plan.closing,
                is_open_loop: plan.load.is_open(),
            }),
            payload: plan.payload.source.to_string(),
            warmup_seconds: plan.warmup.as_secs_f64(),
            duration_seconds: plan.duration.as_secs_f64(),
            warnings: Vec::new(),
        }
    }
}
