//! A line in the log for the connections that were refused or that failed: at most one a minute, with
//! the number of each reason. It comes from the counters, so that no flood of bad clients can flood the
//! log; a line for each of them is logged at the level `debug`.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use tracing::info;

use crate::metrics::Counters;

/// The time between two lines.
const INTERVAL: Duration = Duration::from_mins(1);

/// The thread that writes the lines. It ends when this is dropped.
pub(super) struct Summary(#[expect(dead_code, reason = "its end is the message")] Sender<()>);

/// Counts by reason.
type Counts = Vec<(&'static str, u64)>;

impl Summary {
    pub(super) fn start(workers: Vec<Arc<Counters>>) -> io::Result<Self> {
        let (end, ended) = channel();
        let run = move || {
            let mut before = counts(&workers);
            while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let now = counts(&workers);
                if let Some(reasons) = increase(&before, &now) {
                    let count: u64 = reasons.iter().map(|(_, count)| count).sum();
                    info!(count, ?reasons, "connections were refused or failed in the last minute");
                }
                before = now;
            }
        };
        thread::Builder::new().name("summary".to_owned()).spawn(run)?;
        Ok(Self(end))
    }
}

/// What all workers have counted.
fn counts(workers: &[Arc<Counters>]) -> Counts {
    let mut sums = Counts::new();
    for counters in workers {
        for (name, count) in counters.faults() {
            match sums.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None => sums.push((name, count)),
            }
        }
    }
    sums
}

/// The reasons that have become more, and by how much; `None` if none has.
fn increase(before: &Counts, now: &Counts) -> Option<Counts> {
    let earlier = |name| before.iter().find(|(known, _)| *known == name).map_or(0, |it| it.1);
    let increased = now.iter().map(|&(name, count)| (name, count - earlier(name).min(count)));
    let increased: Counts = increased.filter(|(_, count)| *count > 0).collect();
    (!increased.is_empty()).then_some(increased)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{connection::ConnectionEnd, metrics::RefusalReason, protocol::ProtocolError};

    #[test]
    fn summary_names_what_has_become_more() {
        let workers = [(); 2].map(|()| Arc::new(Counters::new(&ConnectionEnd::KINDS)));
        workers[0].refused(RefusalReason::OriginForbidden).add(1);
        let before = counts(&workers);
        assert_eq!(increase(&before, &counts(&workers)), None);
        for worker in &workers {
            worker.refused(RefusalReason::HeadTimedOut).add(1);
            worker.count_protocol_error(ProtocolError::MaskMissing);
        }
        let expected = vec![("head_timed_out", 2), ("mask_missing", 2)];
        assert_eq!(increase(&before, &counts(&workers)), Some(expected));
    }
}
