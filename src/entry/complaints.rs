//! What fails again and again, such as accepting while descriptors are used up, said once a minute for
//! each cause.

use std::{
    fmt, io,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The time between two lines about the same cause.
const INTERVAL: Duration = Duration::from_mins(1);

/// What has been complained of, by all workers.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<Vec<Complaint>>);

/// The last line about a cause. Causes are few: each is what failed, and an error number.
#[derive(Debug)]
struct Complaint {
    what: &'static str,
    errno: Option<i32>,
    said: Instant,
    /// Failures since then.
    unsaid: u64,
}

/// How many failures no line was about, as the end of the next line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsaid(u64);

impl Complaints {
    /// Notes a failure `now`. Returns how many were not said before it, if this one is to be said.
    pub fn note(&self, what: &'static str, error: &io::Error, now: Instant) -> Option<Unsaid> {
        let errno = error.raw_os_error();
        let mut complaints = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = complaints.iter_mut().find(|it| it.what == what && it.errno == errno);
        let Some(known) = known else {
            complaints.push(Complaint { what, errno, said: now, unsaid: 0 });
            return Some(Unsaid(0));
        };
        if now.saturating_duration_since(known.said) < INTERVAL {
            known.unsaid += 1;
            return None;
        }
        known.said = now;
        Some(Unsaid(std::mem::take(&mut known.unsaid)))
    }
}

impl fmt::Display for Unsaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " (and {count} times more since the last such line)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn each_cause_is_said_at_once_and_then_once_a_minute_with_how_often_it_was_not() {
        let complaints = Complaints::default();
        let (files, memory) = (io::Error::from(Errno::EMFILE), io::Error::from(Errno::ENOMEM));
        let start = Instant::now();
        let note = |error, seconds| {
            let said = complaints.note("accept", error, start + Duration::from_secs(seconds));
            said.map(|unsaid| unsaid.to_string())
        };
        assert_eq!(note(&files, 0).as_deref(), Some(""));
        assert_eq!(note(&memory, 1).as_deref(), Some(""));
        assert_eq!((note(&files, 1), note(&files, 59), note(&memory, 2)), (None, None, None));
        let more = " (and 2 times more since the last such line)";
        assert_eq!(note(&files, 60).as_deref(), Some(more));
        assert_eq!(note(&files, 61), None);
        let more = " (and 1 times more since the last such line)";
        assert_eq!(note(&memory, 61).as_deref(), Some(more));
        assert_eq!(note(&files, 600).as_deref(), Some(more));
        let other = complaints.note("replace", &files, start);
        assert_eq!(other, Some(Unsaid(0)));
    }
}
