//! monoio's runtime for a worker, on what the kernel grants.

use std::{io, time::Duration};

use io_uring_monoio::{
    Builder, IoUring, opcode,
    types::{SubmitArgs, Timespec},
};
use monoio::{IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder, time::TimeDriver};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};

/// Entries of monoio's submission queue, the best first. The smaller ones are for users who may not
/// lock much memory (`RLIMIT_MEMLOCK`).
const ENTRIES: [u32; 3] = [1024, 256, 64];

/// Entries of a ring that is made only to see whether it can be.
const TRIAL_ENTRIES: u32 = 8;

/// Tries a ring as monoio uses it: submits to it, and waits in it.
#[expect(unsafe_code, reason = "the io-uring crate marks every push so")]
pub(crate) fn try_uring() -> io::Result<()> {
    let mut ring = flags()?.build(TRIAL_ENTRIES)?;
    // SAFETY: the operation points to nothing.
    unsafe { ring.submission().push(&opcode::Nop::new().build()) }
        .expect("an empty queue has room");
    ring.submit_and_wait(1)?;
    let short = Timespec::from(Duration::from_millis(1));
    ring.completion().for_each(drop);
    match ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&short)) {
        Err(error) if error.raw_os_error() != Some(libc::ETIME) => Err(error),
        _ => Ok(()),
    }
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
    let instance = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    instance.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO)?;
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
