//! Log lines about what workers lack, and about what would help: larger rings, an engine, a CPU of
//! their own.

use std::io;

use tracing::warn;

use crate::worker::{Ready, Shortage, ShortageKind};

/// Logs, once for a server that starts, how many of its workers lack what, and why.
pub(super) fn log_shortages(all_ready: &[Ready]) {
    if let Some(summary) = summarize(all_ready) {
        warn!("{summary}");
    }
    if let Some(error) = all_ready.iter().find_map(|ready| ready.unpinned.as_ref()) {
        warn!("workers are not pinned to CPUs (sched_setaffinity: {error})");
    }
}

/// Logs what a replacement worker lacks, and why.
pub(super) fn log_shortage_of_replacement(worker: usize, ready: &Ready) {
    if let Some(shortage) = &ready.shortage {
        warn!("{}", describe(worker, shortage));
    }
    if let Some(error) = &ready.unpinned {
        warn!("worker {worker} is not pinned to its CPU (sched_setaffinity: {error})");
    }
}

fn summarize(all_ready: &[Ready]) -> Option<String> {
    let shortages: Vec<_> = all_ready.iter().filter_map(|ready| ready.shortage.as_ref()).collect();
    let error = &shortages.first()?.error;
    let kinds = [ShortageKind::SmallRing, ShortageKind::NoEngine, ShortageKind::NoRing];
    let counted =
        kinds.map(|kind| (kind, shortages.iter().filter(|shortage| shortage.kind == kind).count()));
    let parts: Vec<_> = counted
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("{count} {}", phrase(kind, Number::Plural)))
        .collect();
    let (total, parts) = (all_ready.len(), parts.join("; "));
    Some(format!("of {total} workers {parts}: {error}{}", remedy(error)))
}

fn describe(worker: usize, Shortage { kind, error }: &Shortage) -> String {
    let how = phrase(*kind, Number::Singular);
    format!("worker {worker} was replaced by one {how}: {error}{}", remedy(error))
}

/// How many workers a phrase is about.
enum Number {
    Singular,
    Plural,
}

/// How workers run that lack this.
fn phrase(kind: ShortageKind, number: Number) -> &'static str {
    match (kind, number) {
        (ShortageKind::SmallRing, Number::Singular) => "with a smaller ring than it should have",
        (ShortageKind::SmallRing, Number::Plural) => "with smaller rings than they should have",
        (ShortageKind::NoEngine, _) => "without an engine, on the portable path",
        (ShortageKind::NoRing, _) => "without a ring, on epoll",
    }
}

fn remedy(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::OutOfMemory { MORE_MEMORY } else { "" }
}

/// The advice for a ring that needs more memory than the user may lock.
pub(super) const MORE_MEMORY: &str = "; let this user lock more memory (ulimit -l, LimitMEMLOCK= or \
                           --ulimit memlock), or have fewer --workers";

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::worker::{Driver, Platform};

    fn ready(shortage: Option<(ShortageKind, Errno)>) -> Ready {
        let platform = Platform { driver: Driver::Epoll, engine: None };
        let shortage = shortage.map(|(kind, errno)| Shortage { kind, error: errno.into() });
        Ready { platform, shortage, unpinned: None }
    }

    #[test]
    fn workers_of_a_server_are_counted_and_a_replacement_is_named() {
        let short = || ready(Some((ShortageKind::NoEngine, Errno::EPERM)));
        let small = ready(Some((ShortageKind::SmallRing, Errno::EPERM)));
        assert_eq!(summarize(&[ready(None)]), None);
        assert_eq!(
            summarize(&[ready(None), short(), small, short()]).unwrap(),
            "of 4 workers 1 with smaller rings than they should have; 2 without an engine, on the \
             portable path: Operation not permitted (os error 1)"
        );
        assert_eq!(
            describe(3, &short().shortage.unwrap()),
            "worker 3 was replaced by one without an engine, on the portable path: Operation not \
             permitted (os error 1)"
        );
    }

    #[test]
    fn want_of_memory_is_told_with_what_helps() {
        let small = ready(Some((ShortageKind::SmallRing, Errno::ENOMEM)));
        assert!(summarize(&[small]).unwrap().ends_with(MORE_MEMORY));
    }
}
