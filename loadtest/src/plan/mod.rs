//! What is to be done: the [`Plan`] of a run. Other files hold its parts, and the conditions that a
//! result has to meet.

pub mod condition;
pub mod rate;
pub mod schedule;
pub mod threads;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::ValueEnum;
use serde::Serialize;

use self::{rate::Rate, threads::ThreadPlan};
use crate::{
    payload::{EchoKind, PayloadPlan},
    wire::connector::Connector,
};

/// The first message of an open loop is planned this long after the schedule is known, so that each
/// thread gets to know it before.
const OPEN_LOOP_LEAD: Duration = Duration::from_millis(20);

/// Everything that a run needs to know; validated by the command line.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Opens the connections. Source addresses go on in turn from one run to the next.
    pub connector: Arc<Connector>,
    /// Connections over all threads, at least 1.
    pub connections: usize,
    /// When messages are sent.
    pub load: Load,
    /// What the threads of an open loop do until something happens.
    pub wait: Wait,
    /// Messages in flight on each connection, at least 1: in a closed loop as many all the time, in
    /// an open loop at most.
    pub depth: usize,
    /// What is in the messages.
    pub payload: PayloadPlan,
    /// Frames that each message is sent in, at least 1.
    pub fragments: usize,
    /// What the server echoes.
    pub echo_kind: EchoKind,
    /// Whether a lost connection is opened again.
    pub reconnect: bool,
    /// When the load starts, if not as soon as the connections are open.
    pub start_at: Option<SystemTime>,
    /// Whether permessage-deflate is offered to the server.
    pub compression: bool,
    /// How long the load runs before the measured window.
    pub warmup: Duration,
    /// The measured window.
    pub duration: Duration,
    /// How long after it what could not be sent in its time is still sent.
    pub backlog_grace: Duration,
    /// The threads that the connections are spread over.
    pub threads: ThreadPlan,
    /// The server's process, if its CPU time and memory are to be measured.
    pub server_pid: Option<u32>,
}

/// What a load consists of, and what its rate and its latency are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// A message and its echo.
    Message,
    /// A connection that is opened, used and closed.
    Cycle,
}

impl Exchange {
    /// More than one, in words.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Message => "messages",
            Self::Cycle => "cycles",
        }
    }
}

/// How a cycle ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Closing {
    /// A Close frame with 1000, the server's Close frame, and the server's end of TCP: whoever
    /// ends TCP first keeps the port, so it is the server.
    Handshake,
    /// A reset of TCP after the last echo.
    Abort,
}

impl fmt::Display for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshake => "closing handshake",
            Self::Abort => "reset",
        })
    }
}

/// When messages are sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Load {
    /// A new message for each echo that arrives.
    Closed,
    /// At planned instants, whether the server keeps up or not.
    Open(Rate),
}

impl Load {
    /// Whether there are planned instants.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// Whether threads that wait so look for what has happened all the time.
    pub(crate) fn polls(&self, wait: Wait) -> bool {
        wait == Wait::Poll && self.is_open()
    }

    /// Exchanges a second, as they were asked for; `None` if there are no planned instants.
    pub(crate) fn rate(&self) -> Option<String> {
        match self {
            Self::Closed => None,
            Self::Open(rate) => Some(rate.to_string()),
        }
    }

    /// How long after its window is known it begins.
    pub(crate) fn lead(&self) -> Duration {
        match self {
            Self::Closed => Duration::ZERO,
            Self::Open(_) => OPEN_LOOP_LEAD,
        }
    }
}

/// What the threads of an open loop do until something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Look for it all the time, which takes a CPU for each thread.
    Poll,
    /// Sleep, and be woken: that takes the time of a wake-up, for each message and each echo.
    Sleep,
}

impl Plan {
    /// The connections of thread number `thread`, spread evenly.
    pub fn connections_of(&self, thread: usize) -> usize {
        self.threads.share_of(thread, self.connections)
    }

    /// Whether threads look for what has happened all the time.
    pub fn polls(&self) -> bool {
        self.load.polls(self.wait)
    }

    /// How long after its window is known the load begins.
    pub fn lead(&self) -> Duration {
        self.load.lead()
    }

    /// The number of connection `index` of thread number `thread`, unique in the run. Planned
    /// messages go to the connections in the order of their numbers, again and again.
    pub fn connection_number(&self, thread: usize, index: usize) -> u64 {
        (index * self.threads.count + thread) as u64
    }
}
