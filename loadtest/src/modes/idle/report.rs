//! The result: for people ([`Display`](fmt::Display)) and for programs (JSON, whose shape
//! `loadtest/idle.schema.json` describes).

#![expect(clippy::cast_precision_loss, reason = "counts and bytes stay below 2^52")]

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{
    observations::{Footprint, Observations},
    plan::IdlePlan,
    thread_state::ThreadTally,
};
use crate::{
    count::{
        errors::{Cause, ErrorCounts},
        latency_report::LatencyReport,
    },
    result::{
        layers::Layers,
        report::{Connections, Provenance, WayIn, write_way_in},
    },
    text::{
        numbers::{bytes, grouped, rounded},
        warning::Warning,
    },
};

/// The result of holding connections.
#[derive(Clone, Debug, Serialize)]
pub struct IdleReport {
    /// What it was measured with, and on whom.
    #[serde(flatten)]
    pub provenance: Provenance,
    /// TLS and HTTP/2, if there were any.
    #[serde(flatten)]
    pub layers: Layers,
    /// How many.
    pub connections: Connections,
    /// Whether somebody ended it early.
    pub interrupted: bool,
    /// Seconds until all connections were open, or could not be.
    pub opening_seconds: f64,
    /// Times from before a socket was connected to the end of the opening handshake.
    pub opening_us: Option<LatencyReport>,
    /// Connections that have echoed a message; `None` if none had to.
    pub echoed: Option<u64>,
    /// How long the connections were held.
    pub held_seconds: f64,
    /// Connections that were open after that, and were sent a Ping.
    pub pinged: u64,
    /// Connections that answered the Ping.
    pub answered: u64,
    /// Times from a Ping to its Pong.
    pub ping_us: Option<LatencyReport>,
    /// Why connections failed, and answers that never came.
    pub errors: ErrorCounts,
    /// Why errors happened: the most frequent causes.
    pub causes: Vec<Cause>,
    /// Memory of the server, if its process was named.
    pub server: Option<MemoryReport>,
    /// Memory of the generator.
    pub generator: Option<MemoryReport>,
    /// Memory of the slabs of this machine's kernel, where it has sockets, files and their like: those
    /// of both ends if the server is on this machine too.
    pub kernel: Option<MemoryReport>,
    /// What somebody should know who is about to believe the numbers.
    pub warnings: Vec<Warning>,
}

/// Resident memory of a process, or what the kernel itself uses.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MemoryReport {
    /// The process; `None` for the kernel.
    pub pid: Option<u32>,
    /// Bytes, before there was a connection.
    pub before_bytes: u64,
    /// Memory with all connections opened.
    pub opened: Option<MemoryUse>,
    /// Memory after each has echoed a message, if it had to.
    pub echoed: Option<MemoryUse>,
    /// Memory after they were held.
    pub held: Option<MemoryUse>,
    /// Memory after each has answered a Ping.
    pub pinged: Option<MemoryUse>,
}

/// Memory at one time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MemoryUse {
    /// Bytes in all.
    pub bytes: u64,
    /// More than before there was a connection, divided by the connections that are open.
    pub bytes_per_connection: f64,
}

impl IdleReport {
    pub(super) fn new(plan: &IdlePlan, tally: &ThreadTally, observations: &Observations) -> Self {
        let Observations { interrupted, .. } = *observations;
        let provenance = Provenance::new(&plan.connector, &plan.threads);
        let connections = Connections {
            requested: plan.connections,
            opened: tally.connections.opened,
            lost: tally.connections.lost,
            reopened: None,
        };
        let causes = tally.connections.causes();
        let not_opened = connections.not_opened(&provenance.url, &causes, interrupted);
        Self {
            warnings: [
                Warning::of_debug_build(),
                WayIn::doubt(provenance.way_in.as_ref()),
                not_opened,
            ]
            .into_iter()
            .flatten()
            .collect(),
            provenance,
            layers: Layers::new(&plan.connector, &tally.connections),
            connections,
            interrupted,
            opening_seconds: seconds(observations.opening),
            opening_us: LatencyReport::new(&tally.opening),
            echoed: plan.echo_len.map(|_| tally.echoed),
            held_seconds: seconds(observations.held),
            pinged: tally.pinged,
            answered: tally.pings.samples(),
            ping_us: LatencyReport::new(&tally.pings),
            errors: tally.connections.errors,
            causes,
            server: plan.server_pid.and_then(|pid| {
                MemoryReport::new(Some(pid), observations, |footprint| footprint.server)
            }),
            generator: MemoryReport::new(Some(std::process::id()), observations, |footprint| {
                footprint.generator
            }),
            kernel: MemoryReport::new(None, observations, |footprint| footprint.kernel),
        }
    }

    /// Whether every connection was opened and was still there at the end.
    pub fn is_success(&self) -> bool {
        self.errors.total == 0 && self.answered == self.connections.requested as u64
    }
}

impl MemoryReport {
    fn new(
        pid: Option<u32>,
        observations: &Observations,
        bytes_in: impl Fn(&Footprint) -> Option<u64>,
    ) -> Option<Self> {
        let before_bytes = bytes_in(&observations.before)?;
        let in_use = |footprint: &Footprint| {
            let bytes = bytes_in(footprint).filter(|_| footprint.connections > 0)?;
            let grown = bytes as f64 - before_bytes as f64;
            let bytes_per_connection = rounded(grown / footprint.connections as f64);
            Some(MemoryUse { bytes, bytes_per_connection })
        };
        Some(Self {
            pid,
            before_bytes,
            opened: in_use(&observations.after_opening),
            echoed: observations.after_echoes.as_ref().and_then(in_use),
            held: in_use(&observations.after_holding),
            pinged: in_use(&observations.after_pings),
        })
    }
}

fn seconds(time: Duration) -> f64 {
    rounded(time.as_secs_f64())
}

impl fmt::Display for IdleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.provenance.url)?;
        write_way_in(f, self.provenance.way_in.as_ref())?;
        writeln!(
            f,
            "  {}, held {:.1} s, {}",
            self.connections,
            self.held_seconds,
            self.provenance.generator()
        )?;
        if self.interrupted {
            writeln!(f, "  interrupted: not all were opened, or not held as long")?;
        }
        writeln!(f)?;
        let Connections { opened, lost, .. } = self.connections;
        write!(f, "  opening     {} in {:.2} s", grouped(opened), self.opening_seconds)?;
        write_latency(f, self.opening_us.as_ref())?;
        write!(f, "{}", self.layers)?;
        if let Some(echoed) = self.echoed {
            writeln!(f, "  echo        {} of {}", grouped(echoed), grouped(opened))?;
        }
        writeln!(f, "  lost        {}", grouped(lost))?;
        write!(f, "  still there {} of {}", grouped(self.answered), grouped(self.pinged))?;
        write_latency(f, self.ping_us.as_ref())?;
        for (name, memory) in
            [("server", &self.server), ("generator", &self.generator), ("kernel", &self.kernel)]
        {
            if let Some(memory) = memory {
                writeln!(f, "  {name:<12}{memory}")?;
            }
        }
        writeln!(f, "  errors      {}", self.errors)?;
        for cause in &self.causes {
            writeln!(f, "              {cause}")?;
        }
        Ok(())
    }
}

fn write_latency(f: &mut fmt::Formatter<'_>, latency: Option<&LatencyReport>) -> fmt::Result {
    match latency {
        Some(latency) => writeln!(f, ": {latency}"),
        None => writeln!(f),
    }
}

impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} before", bytes(self.before_bytes))?;
        for (what, memory) in [
            ("opened", self.opened),
            ("echoed", self.echoed),
            ("held", self.held),
            ("pinged", self.pinged),
        ] {
            if let Some(MemoryUse { bytes_per_connection, .. }) = memory {
                write!(f, ", {what} {bytes_per_connection:.0} B per connection")?;
            }
        }
        Ok(())
    }
}
