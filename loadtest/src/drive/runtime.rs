//! The runtime of a thread: on `io_uring`, or on epoll where that does not work.
//!
//! A thread sleeps in one place, and nothing of another thread has to wake it. On `io_uring` that is
//! `io_uring_enter` on its own ring, until something has completed or a time is over: sockets, timer
//! descriptors and event descriptors are waited for by entries of that ring. No other ring and no
//! epoll waits for the ring, and no event descriptor is registered with it: some kernels from 6.1
//! to 6.18 do not wake such waits (docs/decisions.md). On epoll a thread sleeps in `epoll_wait` on
//! sockets and timer descriptors. Both ways to sleep are tried once, before a thread trusts them.
//! Runtimes are built as the server builds its own ([`ringecho::host::runtime`]).

use std::{
    env,
    io::{self, ErrorKind},
    sync::OnceLock,
};

use monoio::{FusionRuntime, IoUringDriver, LegacyDriver, time::TimeDriver, utils::detect_uring};
use ringecho::host::runtime::{self, OnRing, RING_ENTRIES, try_monoio_ring};

use crate::text::{
    shortfall::{is_noted, note},
    warning::WarningCode,
};

/// A variable that has monoio use epoll.
const FORCE_EPOLL: &str = "MONOIO_FORCE_LEGACY_DRIVER";

/// The remedies for a ring that needs more locked memory than it gets, and for refused rings.
const LOCK_MORE_MEMORY: &str = "allow more locked memory (ulimit -l unlimited)";
const ALLOW_RINGS: &str = "allow io_uring_setup, io_uring_enter and io_uring_register in the \
                           container's seccomp profile, or set kernel.io_uring_disabled=0";

/// The runtime of one thread.
pub(crate) type Runtime = FusionRuntime<TimeDriver<IoUringDriver>, TimeDriver<LegacyDriver>>;

/// A runtime for this thread.
pub(crate) fn build_runtime() -> io::Result<Runtime> {
    if can_use_io_uring() {
        match build_on_ring() {
            Ok(runtime) => return Ok(runtime),
            Err(error) => note(WarningCode::IoUringUnavailable, || {
                format!(
                    "a thread cannot have a ring of its own ({error}) and uses epoll: \
                     {LOCK_MORE_MEMORY}, or start fewer --threads"
                )
            }),
        }
    }
    runtime::build_on_epoll().map(Into::into).map_err(|error| {
        let text = format!(
            "neither io_uring nor epoll can be used here ({error}); allow epoll_create1, epoll_ctl \
             and epoll_wait in the container's seccomp profile"
        );
        io::Error::new(error.kind(), text)
    })
}

/// What the threads wait with: `io_uring` or, also if only one of them does, `epoll`.
pub(crate) fn driver() -> &'static str {
    if can_use_io_uring() && !is_noted(WarningCode::IoUringUnavailable) {
        "io_uring"
    } else {
        "epoll"
    }
}

/// Whether rings work in this process. If not, notes why, unless [`FORCE_EPOLL`] asks for epoll.
fn can_use_io_uring() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let (obstacle, remedy) = match try_monoio_ring() {
            Ok(()) if detect_uring() => return true,
            _ if env::var_os(FORCE_EPOLL).is_some() => return false,
            Ok(()) => ("it lacks an operation".to_owned(), "use Linux 5.7 or newer"),
            Err(error) if error.kind() == ErrorKind::OutOfMemory => {
                (error.to_string(), LOCK_MORE_MEMORY)
            }
            Err(error) => (error.to_string(), ALLOW_RINGS),
        };
        note(WarningCode::IoUringUnavailable, || {
            format!("io_uring cannot be used here ({obstacle}), epoll is used: {remedy}")
        });
        false
    })
}

/// A runtime on a ring. That the ring is small is noted.
fn build_on_ring() -> io::Result<Runtime> {
    let OnRing { runtime, reduced } = runtime::build_on_ring()?;
    if let Some(error) = reduced {
        let [entries, entries_min] = RING_ENTRIES;
        note(WarningCode::SmallRings, || {
            format!(
                "a thread's ring has {entries_min} entries instead of {entries} ({error}): \
                 {LOCK_MORE_MEMORY}, or start fewer --threads"
            )
        });
    }
    Ok(runtime.into())
}
