//! What is said of things that workers do without, and of what helps.

use std::io;

use tracing::warn;

use crate::{
    host::descriptors,
    worker::{Ready, Shortage, ShortageKind},
};

/// Says in one line how many workers do without what others have, and why.
pub(super) fn tell_of_shortages(all_ready: &[Ready]) {
    let shortages: Vec<_> = all_ready.iter().filter_map(|ready| ready.shortage.as_ref()).collect();
    if let Some(Shortage { error, .. }) = shortages.first() {
        let kinds = [
            (ShortageKind::SmallRing, "with smaller rings than they should have"),
            (ShortageKind::NoEngine, "without an engine, on the portable path"),
            (ShortageKind::NoRing, "without a ring, on epoll"),
        ];
        let counted = kinds.map(|(kind, how)| {
            (shortages.iter().filter(|shortage| shortage.kind == kind).count(), how)
        });
        let told: Vec<_> = counted
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, how)| format!("{count} {how}"))
            .collect();
        let (total, told) = (all_ready.len(), told.join("; "));
        let remedy = if error.kind() == io::ErrorKind::OutOfMemory { MORE_MEMORY } else { "" };
        warn!("of {total} workers {told}: {error}{remedy}");
    }
    if let Some(error) = all_ready.iter().find_map(|ready| ready.unpinned.as_ref()) {
        warn!("workers are not pinned to CPUs (sched_setaffinity: {error})");
    }
}

/// What helps where a ring needs more memory than may be locked.
pub(super) const MORE_MEMORY: &str = "; let this user lock more memory (ulimit -l, LimitMEMLOCK= or \
                           --ulimit memlock), or have fewer --workers";

/// Free descriptors that are worth a warning.
const DESCRIPTORS_FEW: u64 = 1024;

pub(super) fn warn_of_few_descriptors() {
    let free = descriptors::count_free();
    if free < DESCRIPTORS_FEW {
        warn!(
            "the limit of open files leaves room for {free} connections; raise it with ulimit -n, \
             or LimitNOFILE= of the service"
        );
    }
}
