//! Which threads of a process were busy, and on which CPUs they may run (`/proc/PID/task`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    time::Duration,
};

use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};

use super::process_usage::cpu_time;

/// A thread that uses less of a second than this is in nobody's way.
const BUSY_MIN: f64 = 0.05;

/// CPU time of each thread since it started.
#[derive(Clone, Debug)]
pub(crate) struct ThreadTimes(BTreeMap<i32, Duration>);

impl ThreadTimes {
    /// Reads the times of all threads of the process `pid`.
    pub(crate) fn read(pid: u32) -> io::Result<Self> {
        let mut times = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = entry?.path();
            let id = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            // A thread may end while it is looked at.
            if let (Some(id), Ok(stat)) = (id, fs::read_to_string(path.join("stat"))) {
                times.insert(id, cpu_time(&stat)?);
            }
        }
        Ok(Self(times))
    }

    /// The threads that have existed since `before` and were busy since, for `time`.
    pub(crate) fn busy_since(&self, before: &Self, time: Duration) -> Vec<BusyThread> {
        let thread = |(id, after): (&i32, &Duration)| {
            let used = after.saturating_sub(*before.0.get(id)?);
            let busy = used.as_secs_f64() / time.as_secs_f64().max(f64::MIN_POSITIVE);
            (busy >= BUSY_MIN).then(|| BusyThread { busy, cpus: cpus_of(*id) })
        };
        self.0.iter().filter_map(thread).collect()
    }
}

/// The CPUs that a thread may run on; none if it has ended.
fn cpus_of(thread: i32) -> BTreeSet<usize> {
    let set = sched_getaffinity(Pid::from_raw(thread)).unwrap_or_default();
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

/// A thread that used CPU time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BusyThread {
    /// CPU time for each second.
    pub(crate) busy: f64,
    /// Where it may run.
    pub(crate) cpus: BTreeSet<usize>,
}

/// The CPUs that threads of both groups may run on and that are too few for them: with a CPU for
/// each, the kernel keeps them apart by itself.
///
/// All CPUs together may be enough, and those that some of the threads are pinned to not; so the CPUs
/// of each thread are looked at too, with the threads that may run nowhere else.
pub(crate) fn contended_cpus(some: &[BusyThread], others: &[BusyThread]) -> Vec<usize> {
    let threads = || some.iter().chain(others).map(|thread| &thread.cpus);
    let all: BTreeSet<usize> = threads().flatten().copied().collect();
    let sets: BTreeSet<&BTreeSet<usize>> = threads().chain([&all]).collect();
    let contended = sets.into_iter().flat_map(|cpus| contended_among(cpus, some, others));
    contended.collect::<BTreeSet<usize>>().into_iter().collect()
}

/// The CPUs that threads of both groups may run on, if those that may run on `cpus` alone are more
/// than these.
fn contended_among(
    cpus: &BTreeSet<usize>,
    some: &[BusyThread],
    others: &[BusyThread],
) -> BTreeSet<usize> {
    let confined = |threads: &[BusyThread]| -> Vec<BTreeSet<usize>> {
        let sets = threads.iter().map(|thread| thread.cpus.clone());
        sets.filter(|set| !set.is_empty() && set.is_subset(cpus)).collect()
    };
    let (ours, theirs) = (confined(some), confined(others));
    if ours.len() + theirs.len() <= cpus.len() {
        return BTreeSet::new();
    }
    let theirs: BTreeSet<usize> = theirs.into_iter().flatten().collect();
    ours.into_iter().flatten().filter(|cpu| theirs.contains(cpu)).collect()
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    fn threads<const N: usize>(cpus: [&[usize]; N]) -> Vec<BusyThread> {
        let thread =
            |cpus: &[usize]| BusyThread { busy: 0.5, cpus: cpus.iter().copied().collect() };
        cpus.map(thread).into()
    }

    #[test]
    fn threads_contend_for_cpus_that_they_share_and_that_are_too_few() {
        for (some, others, contended) in [
            (threads([&[0]]), threads([&[1]]), vec![]),
            (threads([&[0]]), threads([&[0]]), vec![0]),
            (threads([&[0, 1]]), threads([&[0, 1]]), vec![]),
            (threads([&[0, 1], &[0, 1]]), threads([&[0, 1]]), vec![0, 1]),
            (threads([&[1]]), threads([&[0], &[1]]), vec![1]),
            (threads([&[0], &[0]]), threads([&[1]]), vec![]),
            // There is a CPU for each, but two of the threads cannot leave theirs.
            (threads([&[0]]), threads([&[0], &[1, 2]]), vec![0]),
            (threads([&[0, 1], &[5, 6, 7]]), threads([&[0], &[0, 1]]), vec![0, 1]),
            (threads([&[0], &[0]]), threads([&[1, 2, 3]]), vec![]),
            // Those of no thread alone are too few.
            (threads([&[0, 1], &[1, 2]]), threads([&[0, 2], &[0, 1]]), vec![0, 1, 2]),
            // One that has ended is in nobody's way.
            (threads([&[0, 1]]), threads([&[], &[0, 1]]), vec![]),
            (threads([&[0]]), vec![], vec![]),
        ] {
            assert_eq!(contended_cpus(&some, &others), contended, "{some:?} {others:?}");
        }
    }

    #[test]
    fn a_thread_that_works_is_busy() {
        let (pid, id) = (std::process::id(), nix::unistd::gettid().as_raw());
        // The kernel may leave a thread out of a directory that others leave at the time.
        let read = || {
            let with_this = |times: &ThreadTimes| times.0.contains_key(&id);
            iter::repeat_with(|| ThreadTimes::read(pid).unwrap()).find(with_this).unwrap()
        };
        let before = read();
        let enough = before.0[&id] + Duration::from_millis(30);
        let after = iter::repeat_with(read).find(|times| times.0[&id] >= enough).unwrap();
        let busy = after.busy_since(&before, Duration::from_millis(100));
        assert!(
            busy.iter().any(|thread| thread.busy >= 0.3 && !thread.cpus.is_empty()),
            "{busy:?}"
        );
        assert!(after.busy_since(&after, Duration::from_millis(100)).is_empty());
    }
}
