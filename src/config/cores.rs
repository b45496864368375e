//! Cores: how many workers run and where, and what carries their connections.
#![expect(clippy::doc_markdown, reason = "these comments are the help text on a terminal")]

use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};

use crate::{
    config::values::{ShortTime, Within, group_defaults, parse_switch},
    host::cpu_list::CpuList,
};

/// How many workers run and where, and what carries their connections.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Cores")]
pub struct Cores {
    /// Number of workers [default: one on each CPU, or fewer where a quota of CPU time needs fewer]
    ///
    /// The bound is above the number of CPUs of any machine.
    #[arg(long, value_name = "COUNT")]
    pub workers: Option<Within<u32, 1, 4096>>,

    /// CPUs that the workers are pinned to, such as 0,2-3 [default: all that may be used]
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<CpuList>,

    /// Whether a connection goes to the worker with the fewest, whoever accepts it: on or off
    #[arg(
        long, value_name = "CHOICE", action = ArgAction::Set, default_value = "on",
        value_parser = parse_switch
    )]
    pub balance: bool,

    /// Leave connections on the CPU that their packets arrive on; needs --balance off
    #[arg(long, value_parser = parse_switch)]
    pub incoming_cpu: bool,

    /// Kernel interface to wait on; auto is io_uring where it can be used, and epoll elsewhere
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub driver: Driver,

    /// What carries connections after their handshake; auto is the engine
    ///
    /// The portable path has a task for each connection.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub data_plane: DataPlane,

    /// Pages of the engine's receive buffers; explicit ones are set aside by vm.nr_hugepages
    ///
    /// Huge pages of 2 MiB save the CPU translations of addresses. A worker's buffers, 2 MiB by
    /// default, are 512 small pages or 1 huge one.
    #[arg(long, value_name = "KIND", default_value = "off")]
    pub huge_pages: HugePages,

    /// How long a worker's engine polls for events before it sleeps; the portable path never polls
    ///
    /// Sleeping and being woken takes a few microseconds of each round trip, and more where the CPU
    /// itself sleeps meanwhile. Polling takes all of the CPU. The bound leaves a worker without
    /// traffic at about a thousandth of its CPU, since it wakes once a second for its sweep.
    #[arg(long, value_name = "TIME", default_value = "0s")]
    pub spin: Within<ShortTime, 0, 1000>,

    /// How late a worker may be with its sweep, which comes once a second, before that is logged; 0s for
    /// never
    ///
    /// A worker that stands still answers nobody and meets no deadline, and nothing else would say so.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub watchdog: Within<Duration, 0, 3600>,
}

/// The kernel interface that workers wait on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// io_uring where the kernel allows it, epoll elsewhere.
    Auto,
    /// io_uring, or a refusal to start.
    #[value(name = "io_uring")]
    IoUring,
    /// epoll.
    Epoll,
}

/// What carries connections after their opening handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DataPlane {
    /// The engine; the portable path where --driver insists on an io_uring that cannot carry it.
    Auto,
    /// The engine, or a refusal to start.
    Engine,
    /// The portable path.
    Portable,
}

/// What pages the engine's receive buffers are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HugePages {
    /// Small pages.
    Off,
    /// Huge pages where the kernel finds some, small ones elsewhere.
    Transparent,
    /// Huge pages out of those that vm.nr_hugepages has set aside, or a refusal to start.
    Explicit,
}

impl Default for Cores {
    fn default() -> Self {
        group_defaults()
    }
}
