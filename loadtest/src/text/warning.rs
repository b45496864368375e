//! What somebody should know who is about to believe a result: faults of the measurement, not of
//! the server. Codes are for programs, and stay as they are.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A doubt about a result.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Warning {
    /// Which kind of doubt.
    pub code: WarningCode,
    /// What is the case, with its numbers, and what mends it.
    pub text: String,
}

/// Kinds of doubts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningCode {
    /// The earlier run of `--baseline` had another load, or another machine.
    BaselineDiffers,
    /// Cycles began late, compared with how long they took.
    BeginLag,
    /// The measured windows of merged runs did not begin together.
    BeginsApart,
    /// Connections that were asked for never opened.
    ConnectionsNotOpened,
    /// In an open loop, planned cycles were not begun at all.
    CyclesUnbegun,
    /// The generator was built without optimization.
    DebugBuild,
    /// The generator's own part of latency is not known.
    FloorUnmeasured,
    /// A thread of the generator had no time left.
    GeneratorSaturated,
    /// Threads wait with epoll, and should not have.
    IoUringUnavailable,
    /// In an open loop, planned messages were not sent at all.
    MessagesUnsent,
    /// Threads are not pinned to the CPUs of `--cpus`.
    NotPinned,
    /// There was no correct echo in the measured window.
    NothingMeasured,
    /// Messages were sent late, compared with how long their echoes took.
    SendLag,
    /// A target is one that no server can meet from here.
    SloBelowFloor,
    /// A thread's ring is smaller than it should be.
    SmallRings,
    /// A socket option could not be set.
    SocketOptionRefused,
    /// The server did not agree to `--compression` everywhere.
    CompressionDeclined,
    /// The server's process ended before the measured window did.
    ServerEnded,
    /// Generator and server took CPUs away from each other.
    SharedCpus,
    /// The load started after the time that it was planned for.
    StartedLate,
    /// Connections went through a proxy.
    ThroughProxy,
    /// The limit on open files is below what the connections need.
    TooFewDescriptors,
    /// There are fewer local ports than connections.
    TooFewPorts,
    /// Merged runs came to the server by different ways.
    WaysInDiffer,
}

impl Warning {
    pub(crate) fn new(code: WarningCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// The doubt about a result that lacks what the process `pid` used.
    pub(crate) fn of_server_that_ended(pid: u32) -> Self {
        let text =
            format!("--server-pid {pid}: the process had ended before the measured window did");
        Self::new(WarningCode::ServerEnded, text)
    }

    /// The doubt about every result of a program that was built without optimization.
    pub(crate) fn of_debug_build() -> Option<Self> {
        cfg!(debug_assertions).then(|| {
            let text = "this is a debug build, which is slow; build it with --release";
            Self::new(WarningCode::DebugBuild, text)
        })
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
