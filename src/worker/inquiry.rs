//! How another thread looks at a worker's connections: it asks, and a task of the worker answers. The
//! worker never waits for whoever asks, and whoever asks waits only as long as it likes.
//!
//! Bounded: at most so many questions wait (`QUESTIONS_MAX`), and an answer has as many connections
//! as were asked for, in the order of their numbers.

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    rc::Rc,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    time::Duration,
};

use super::{Worker, signal::Signal};
use crate::{connection::record::RecordView, plane::Plane};

/// The most questions that wait for a worker.
const QUESTIONS_MAX: usize = 16;

/// How long a worker waits before it listens again when it cannot hear questions.
const HEARING_PAUSE: Duration = Duration::from_secs(1);

/// Asks a worker.
#[derive(Debug)]
pub struct Inquirer {
    questions: SyncSender<Question>,
    waker: UnixStream,
}

/// The worker's end.
#[derive(Debug)]
pub struct Inquiries {
    questions: Receiver<Question>,
    woken: UnixStream,
}

#[derive(Debug)]
struct Question {
    after: Option<u64>,
    count_max: usize,
    answer: SyncSender<Answer>,
}

/// Some of a worker's connections.
#[derive(Debug)]
pub struct Answer {
    /// Those with the lowest numbers behind the one that was named.
    pub connections: Vec<RecordView>,
    /// Whether there are connections behind these.
    pub has_more: bool,
}

/// The two ends of a way to ask a worker.
pub fn inquiry() -> io::Result<(Inquirer, Inquiries)> {
    let (waker, woken) = UnixStream::pair()?;
    waker.set_nonblocking(true)?;
    let (asking, asked) = sync_channel(QUESTIONS_MAX);
    Ok((Inquirer { questions: asking, waker }, Inquiries { questions: asked, woken }))
}

impl Inquirer {
    /// Asks for the first `count_max` connections whose numbers are behind `after`. `None` if the
    /// worker is gone, or has not answered so many questions that no more may wait.
    pub fn ask(&self, after: Option<u64>, count_max: usize) -> Option<Receiver<Answer>> {
        let (answer, answered) = sync_channel(1);
        match self.questions.try_send(Question { after, count_max, answer }) {
            // Bytes that are not taken have company, so the worker is woken.
            Ok(()) => _ = (&self.waker).write(&[1]),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return None,
        }
        Some(answered)
    }
}

impl<P: Plane> Worker<P> {
    /// Answers questions until nobody can ask any more.
    pub(super) async fn answer_inquiries(self: Rc<Self>, inquiries: Inquiries) {
        let Inquiries { questions, woken } = inquiries;
        let Ok(mut woken) = Signal::new(woken, &self.plane) else { return };
        loop {
            match woken.heard(&self.plane).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => self.plane.sleep(HEARING_PAUSE).await,
            }
            for Question { after, count_max, answer } in questions.try_iter().take(QUESTIONS_MAX) {
                // Whoever asked may wait no longer.
                let _ = answer.try_send(self.records.list(after, count_max));
            }
        }
    }
}
