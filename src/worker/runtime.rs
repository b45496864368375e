//! monoio's runtime for a worker, on what the kernel grants.

use std::io;

use io_uring_monoio::{Builder, IoUring};
use monoio::{IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder, time::TimeDriver};

use crate::host::trial::{try_epoll, try_ring};

/// Entries of monoio's submission queue, the best first. The smaller one, monoio's smallest, is for
/// users who may not lock much memory (`RLIMIT_MEMLOCK`).
const ENTRIES: [u32; 2] = [1024, 256];

/// Entries of a ring that is made only to see whether it can be.
const TRIAL_ENTRIES: u32 = 8;

/// Tries a ring as monoio uses it.
pub(crate) fn try_uring() -> io::Result<()> {
    try_ring(&flags()?)
}

/// A runtime that waits in a ring, and whether the ring is smaller than it should be.
pub(super) fn uring() -> io::Result<(Runtime<TimeDriver<IoUringDriver>>, bool)> {
    let flags = flags()?;
    let mut result = Err(io::ErrorKind::OutOfMemory.into());
    for entries in ENTRIES {
        let builder = RuntimeBuilder::<IoUringDriver>::new().uring_builder(flags.clone());
        result = builder.with_entries(entries).enable_timer().build();
        match &result {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {}
            _ => return result.map(|runtime| (runtime, entries < ENTRIES[0])),
        }
    }
    result.map(|runtime| (runtime, true))
}

/// A runtime that waits in an epoll instance. Waiting is tried first, since monoio would go on
/// without.
pub(super) fn epoll() -> io::Result<Runtime<TimeDriver<LegacyDriver>>> {
    try_epoll()?;
    RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()
}

/// A runtime that only runs tasks, since they wait elsewhere.
pub(super) fn without_waiting() -> io::Result<Runtime<LegacyDriver>> {
    RuntimeBuilder::<LegacyDriver>::new().build()
}

/// A ring with the flags that this kernel knows.
///
/// With deferred task running (6.1) the kernel does the work of completions only when the worker
/// enters it, instead of interrupting it; cooperative task running (5.19) is the next best.
fn flags() -> io::Result<Builder> {
    let mut deferred = IoUring::builder();
    deferred.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
    let mut cooperative = IoUring::builder();
    cooperative.setup_coop_taskrun().setup_submit_all();
    let mut refusal = None;
    for flags in [deferred, cooperative, IoUring::builder()] {
        match flags.build(TRIAL_ENTRIES) {
            Ok(_) => return Ok(flags),
            Err(error) => refusal = Some(error),
        }
    }
    Err(refusal.unwrap_or_else(|| unreachable!("there are flags to try")))
}
