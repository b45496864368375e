//! The threads of the generator, as the main thread sees them: it starts them, reads what they show
//! of themselves, and waits for them.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Acquire},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use ringecho::host::runtime::pin_thread;
use thiserror::Error;

use crate::{
    plan::threads::ThreadPlan,
    text::{shortfall::note, warning::WarningCode},
};

/// Why threads came to nothing.
#[derive(Debug, Error)]
pub enum ThreadError {
    /// One could not be started.
    #[error("cannot start a thread: {0}; try fewer --threads")]
    Spawn(io::Error),
    /// The runtime of one failed.
    #[error("a thread could not run: {0}")]
    Run(io::Error),
    /// One panicked, and has said why.
    #[error("a thread panicked")]
    Panic,
}

/// Threads that show gauges `G` while they run, and return a `T`.
#[derive(Debug)]
pub(crate) struct Threads<G, T> {
    started: Vec<Thread<G, T>>,
    /// Makes the thread with this number.
    build: fn(usize) -> thread::Builder,
}

#[derive(Debug)]
struct Thread<G, T> {
    handle: JoinHandle<io::Result<T>>,
    gauges: Arc<G>,
}

impl<G, T> Default for Threads<G, T> {
    fn default() -> Self {
        Self::built_by(build)
    }
}

impl<G, T> Threads<G, T> {
    /// A group without threads so far; `build` will make each of them.
    pub(crate) fn built_by(build: fn(usize) -> thread::Builder) -> Self {
        Self { started: Vec::new(), build }
    }
}

/// A thread that tells its number by its name.
pub(crate) fn build(number: usize) -> thread::Builder {
    thread::Builder::new().name(format!("loadtest-{number}"))
}

impl<G: Default + Send + Sync + 'static, T: Send + 'static> Threads<G, T> {
    /// Starts another thread, where `plan` says, which is told its number and where its gauges are.
    pub(crate) fn start(
        &mut self,
        plan: &ThreadPlan,
        run: impl FnOnce(usize, Arc<G>) -> io::Result<T> + Send + 'static,
    ) -> Result<(), ThreadError> {
        let number = self.started.len();
        let cpu = plan.cpu_of(number);
        let gauges = Arc::new(G::default());
        let shared = Arc::clone(&gauges);
        let handle = (self.build)(number)
            .spawn(move || {
                if let Some(cpu) = cpu {
                    pin(cpu);
                }
                run(number, shared)
            })
            .map_err(ThreadError::Spawn)?;
        self.started.push(Thread { handle, gauges });
        Ok(())
    }

    /// What a gauge of all threads adds up to.
    pub(crate) fn sum(&self, gauge: impl Fn(&G) -> &AtomicU64) -> u64 {
        self.each(gauge).iter().sum()
    }

    /// A gauge of each thread.
    pub(crate) fn each(&self, gauge: impl Fn(&G) -> &AtomicU64) -> Vec<u64> {
        self.started.iter().map(|thread| gauge(&thread.gauges).load(Acquire)).collect()
    }

    /// Whether the gauges of all threads are so.
    pub(crate) fn all(&self, are_so: impl Fn(&G) -> bool) -> bool {
        self.started.iter().all(|thread| are_so(&thread.gauges))
    }

    /// Whether a thread has ended, for want of work or by a fault; [`join`](Self::join) tells.
    pub(crate) fn any_has_ended(&self) -> bool {
        self.started.iter().any(|thread| thread.handle.is_finished())
    }

    /// Whether all have ended.
    pub(crate) fn all_have_ended(&self) -> bool {
        self.started.iter().all(|thread| thread.handle.is_finished())
    }

    /// Waits until all have ended, also where one has failed, and returns what they have.
    pub(crate) fn join(self) -> Result<Vec<T>, ThreadError> {
        let join = |thread: Thread<G, T>| {
            thread.handle.join().map_err(|_| ThreadError::Panic)?.map_err(ThreadError::Run)
        };
        let ended: Vec<_> = self.started.into_iter().map(join).collect();
        ended.into_iter().collect()
    }
}

/// Waits for `limit`, or a little less. Unlike a sleep it does not panic where `clock_nanosleep` is
/// refused.
pub(crate) fn pause(limit: Duration) {
    thread::park_timeout(limit);
}

/// Has this thread run on a CPU and no other, if that is allowed.
fn pin(cpu: usize) {
    if let Err(error) = pin_thread(cpu) {
        note(WarningCode::NotPinned, || {
            format!(
                "a thread cannot be pinned to CPU {cpu} ({error}), so it runs anywhere: allow \
                 sched_setaffinity in the container's seccomp profile, or leave --cpus out"
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn what_threads_return_and_why_they_failed_is_known() {
        let plan = ThreadPlan { count: 3, cpus: Vec::new() };
        let mut threads = Threads::<AtomicU64, usize>::default();
        for _ in 0..3 {
            threads
                .start(&plan, |number, gauge| {
                    gauge.store(number as u64, Relaxed);
                    Ok(10 * number)
                })
                .unwrap();
        }
        while !threads.all_have_ended() {
            thread::yield_now();
        }
        assert!(threads.any_has_ended());
        assert_eq!(threads.sum(|gauge| gauge), 3);
        assert!(threads.all(|gauge| gauge.load(Relaxed) < 3));
        assert_eq!(threads.join().unwrap(), [0, 10, 20]);

        let mut threads = Threads::<(), ()>::default();
        threads.start(&plan, |_, _| Err(io::ErrorKind::OutOfMemory.into())).unwrap();
        assert_eq!(
            threads.join().unwrap_err().to_string(),
            "a thread could not run: out of memory"
        );
    }
}
