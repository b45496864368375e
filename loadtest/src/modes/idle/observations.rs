//! What the main thread has seen while connections were held, and the memory that they took.

use std::time::Duration;

use super::plan::IdlePlan;
use crate::count::process_usage::{kernel_slabs, resident_beside_files};

/// What the main thread has seen.
#[derive(Debug)]
pub(super) struct Observations {
    /// How long it took until all connections were opened, or could not be.
    pub(super) opening: Duration,
    /// How long they were held.
    pub(super) held: Duration,
    pub(super) interrupted: bool,
    /// Memory before there was a connection.
    pub(super) before: Footprint,
    /// Memory with all of them opened.
    pub(super) after_opening: Footprint,
    /// Memory after each has echoed a message, if it had to.
    pub(super) after_echoes: Option<Footprint>,
    /// Memory after they were held.
    pub(super) after_holding: Footprint,
    /// Memory after each has answered a Ping.
    pub(super) after_pings: Footprint,
}

/// How many connections are open, and how many bytes of memory are in use with them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Footprint {
    pub(super) connections: u64,
    pub(super) generator: Option<u64>,
    pub(super) server: Option<u64>,
    pub(super) kernel: Option<u64>,
}

impl Footprint {
    pub(super) fn read(plan: &IdlePlan, connections: u64) -> Self {
        let resident = |pid| resident_beside_files(pid).ok();
        Self {
            connections,
            generator: resident(std::process::id()),
            server: plan.server_pid.and_then(resident),
            kernel: kernel_slabs(),
        }
    }
}
