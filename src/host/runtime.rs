//! monoio's runtime for a thread, as the kernel grants it: on a ring with the best flags and size,
//! or on epoll. The choice between them, and the report of a fallback, are left to the program.

use std::io;

use io_uring_monoio::{Builder, IoUring};
use monoio::{IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder, time::TimeDriver};

use super::trial::{try_epoll, try_ring};

/// Entries of monoio's submission queue: the preferred number, and monoio's smallest, for users who
/// may not lock much memory (`RLIMIT_MEMLOCK`).
pub const RING_ENTRIES: [u32; 2] = [1024, 256];

/// Entries of a ring that is only made to see whether its flags are accepted.
const TRIAL_ENTRIES: u32 = 8;

/// Tries a ring with the flags that [`build_on_ring`] chooses.
pub fn try_monoio_ring() -> io::Result<()> {
    try_ring(&choose_flags()?)
}

/// A runtime that waits in a ring.
pub struct OnRing {
    /// The runtime.
    pub runtime: Runtime<TimeDriver<IoUringDriver>>,
    /// The error that made the ring the smaller one of [`RING_ENTRIES`], if it is.
    pub reduced: Option<io::Error>,
}

/// Makes a runtime that waits in a ring, a smaller one if there is no memory for the larger.
pub fn build_on_ring() -> io::Result<OnRing> {
    let flags = choose_flags()?;
    let build = |entries| {
        let builder = RuntimeBuilder::<IoUringDriver>::new().uring_builder(flags.clone());
        builder.with_entries(entries).enable_timer().build()
    };
    let [entries, entries_min] = RING_ENTRIES;
    match build(entries) {
        Ok(runtime) => Ok(OnRing { runtime, reduced: None }),
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
            Ok(OnRing { runtime: build(entries_min)?, reduced: Some(error) })
        }
        Err(error) => Err(error),
    }
}

/// Makes a runtime that waits in an epoll instance. Waiting is tried first, since monoio would not
/// notice that it fails.
pub fn build_on_epoll() -> io::Result<Runtime<TimeDriver<LegacyDriver>>> {
    try_epoll()?;
    RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()
}

/// Makes a runtime that only runs tasks, for a thread that waits elsewhere.
pub fn build_without_waiting() -> io::Result<Runtime<LegacyDriver>> {
    RuntimeBuilder::<LegacyDriver>::new().build()
}

/// Pins this thread to `cpu`.
pub fn pin_thread(cpu: usize) -> io::Result<()> {
    Ok(monoio::utils::bind_to_cpu_set([cpu])?)
}

/// Finds the best flags of a ring that this kernel accepts.
///
/// With deferred task running (6.1) the kernel does the work of completions only when the thread
/// enters it, instead of interrupting it: 22 % less CPU time per message of the load generator at
/// 64 B x 64 connections x depth 1, 26 % at depth 16. Cooperative task running (5.19) is the next best.
fn choose_flags() -> io::Result<Builder> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_run_tasks_on_either_way_of_waiting() {
        assert_eq!(build_on_epoll().unwrap().block_on(async { 1 }), 1);
        assert_eq!(build_without_waiting().unwrap().block_on(async { 2 }), 2);
        if try_monoio_ring().is_ok() {
            assert_eq!(build_on_ring().unwrap().runtime.block_on(async { 3 }), 3);
        }
    }
}
