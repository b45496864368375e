//! How many threads there are, and where they run.

/// How many threads there are, and where they run.
#[derive(Clone, Debug)]
pub struct ThreadPlan {
    /// At least 1 and at most as many as connections.
    pub count: usize,
    /// The CPUs that they are to be pinned to, in turn; empty if they are not.
    pub cpus: Vec<usize>,
}

impl ThreadPlan {
    /// How many of `connections` thread number `thread` has, where they are spread evenly.
    pub(crate) fn share_of(&self, thread: usize, connections: usize) -> usize {
        let extra = usize::from(thread < connections % self.count);
        connections / self.count + extra
    }

    /// The CPU of thread number `thread`, if threads are pinned.
    pub(crate) fn cpu_of(&self, thread: usize) -> Option<usize> {
        self.cpus.get(thread % self.cpus.len().max(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_pinned_in_turn() {
        let cpu_of =
            |cpus: &[usize], thread| ThreadPlan { count: 9, cpus: cpus.to_vec() }.cpu_of(thread);
        assert_eq!([0, 1, 2].map(|thread| cpu_of(&[4, 7], thread)), [Some(4), Some(7), Some(4)]);
        assert_eq!(cpu_of(&[], 1), None);
    }
}
