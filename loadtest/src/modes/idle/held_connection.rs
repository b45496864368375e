//! One held connection: it waits for orders, answers Pings, and notices when it is lost.
//!
//! Both directions are futures of one task, as in a load's client. While it is idle, all that it
//! holds is a read of a few bytes.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::{Future, pending, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
    time::Instant,
};

use ringecho::protocol::{OpCode, close_code::CloseCode};

use super::thread_state::ThreadState;
use crate::{
    count::connection_error::ConnectionError,
    drive::sender::{FrameSender, append_control_frame},
    payload::EchoKind,
    verify::{
        received::{Received, StreamEnd},
        verifier::Verifier,
    },
    wire::{
        connector::OpenConnection,
        halves::{ReadHalf, WriteHalf},
        stream::Stream,
    },
};

/// Bytes that are read at once: a control frame fits.
const READ_LEN: usize = 128;

/// What every connection is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Send a message, and verify its echo.
    Echo,
    /// Send a Ping, and wait for its Pong.
    Ping,
    /// Send a Close frame.
    Close,
}

/// What a connection's task shares with who gives it orders.
#[derive(Debug, Default)]
pub(super) struct HeldConnection {
    /// The sequence number of the message that is echoed, which is also the payload of the Ping.
    sequence: u64,
    waker: RefCell<Option<Waker>>,
    /// What it was told to do, and has not begun.
    task: Cell<Option<Task>>,
    /// What it was told to do, and has not done.
    due: Cell<Option<Task>>,
    echo_awaited: Cell<bool>,
    /// The instant from which on a Pong is awaited.
    pong_awaited: Cell<Option<Instant>>,
    /// The payload of a Ping that has to be answered.
    ping: RefCell<Option<Vec<u8>>>,
    /// Whether a Close frame was sent.
    closing: Cell<bool>,
    ended: Cell<bool>,
}

impl HeldConnection {
    pub(super) fn new(sequence: u64) -> Self {
        Self { sequence, ..Self::default() }
    }

    /// Has the connection do `task`, if it is still open. What it has not done until now, it has
    /// failed to.
    pub(super) fn order(&self, task: Task, state: &ThreadState) {
        if self.ended.get() {
            return;
        }
        match self.due.replace(Some(task)) {
            Some(_) => state.count_failure(),
            None => state.count_due(),
        }
        self.task.set(Some(task));
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Notes that `task` is done, and says whether it still was to be done: what is late has
    /// failed.
    fn done(&self, task: Task, state: &ThreadState) -> bool {
        let is_due = self.due.get() == Some(task);
        if is_due {
            self.due.set(None);
            state.count_done();
        }
        is_due
    }

    /// Receives until the connection ends.
    async fn receive(
        &self,
        mut half: impl ReadHalf,
        early: Vec<u8>,
        state: &ThreadState,
    ) -> Result<(), ConnectionError> {
        let mut verifier = Verifier::new(self.sequence, EchoKind::Messages, false, &state.payloads);
        self.verify(&mut verifier, &early, state)?;
        drop(early);
        let mut buffer = Vec::with_capacity(READ_LEN);
        loop {
            let read;
            (read, buffer) = half.read(buffer).await;
            match read {
                // After our Close frame the server may as well just hang up.
                Ok(0) | Err(_) if self.closing.get() => return Ok(()),
                Ok(0) => return Err(ConnectionError::EndOfStream),
                Ok(_) if self.verify(&mut verifier, &buffer, state)? => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(ConnectionError::Broken(error)),
            }
        }
    }

    /// Takes note of what a chunk contains, and says whether the closing handshake is over.
    fn verify(
        &self,
        verifier: &mut Verifier,
        chunk: &[u8],
        state: &ThreadState,
    ) -> Result<bool, ConnectionError> {
        let mut rest = chunk;
        while !rest.is_empty() {
            let in_flight = usize::from(self.echo_awaited.get());
            let received = verifier.consume(rest, in_flight, &state.payloads);
            rest = &rest[received.consumed..];
            if let Some(end) = self.note(received, state) {
                return match end {
                    StreamEnd::Close(_) if self.closing.get() => Ok(true),
                    StreamEnd::Close(code) => Err(ConnectionError::ClosedWith(code)),
                    StreamEnd::Violation(violation) => Err(ConnectionError::Violation(violation)),
                };
            }
        }
        Ok(false)
    }

    fn note(&self, received: Received, state: &ThreadState) -> Option<StreamEnd> {
        let Received { echoes, irregularity, ping, pong, end, .. } = received;
        if let Some(wrong) = irregularity.as_ref().and_then(|irregularity| irregularity.wrong) {
            state.count_wrong(wrong);
        }
        if echoes > 0 || irregularity.is_some_and(|irregularity| irregularity.answers) {
            self.echo_awaited.set(false);
            if self.done(Task::Echo, state) && echoes > 0 {
                state.count_echo();
            }
        }
        if ping.is_some() {
            *self.ping.borrow_mut() = ping;
        }
        if pong.is_some_and(|payload| payload == self.sequence.to_be_bytes())
            && let Some(since) = self.pong_awaited.take()
            && self.done(Task::Ping, state)
        {
            state.count_pong(since.elapsed());
        }
        end
    }

    /// Sends what there is to send, for as long as the connection lives.
    async fn send(&self, mut half: impl WriteHalf, state: &ThreadState) -> Infallible {
        loop {
            let has_something = || self.task.get().is_some() || self.ping.borrow().is_some();
            poll_fn(|_| if has_something() { Poll::Ready(()) } else { Poll::Pending }).await;
            let mut buffer = Vec::new();
            self.fill(&mut buffer, state);
            if half.write_all(buffer).await.0.is_err() {
                // A broken write is no news: the read tells why.
                return pending().await;
            }
        }
    }

    fn fill(&self, buffer: &mut Vec<u8>, state: &ThreadState) {
        let mut rng = state.rng.borrow_mut();
        if let Some(payload) = self.ping.take() {
            append_control_frame(OpCode::Pong, &payload, &mut rng, buffer);
        }
        match self.task.take() {
            None => {}
            Some(Task::Echo) => {
                let mut sender = FrameSender::new(self.sequence, EchoKind::Messages, 1, false);
                sender.begin(buffer, &state.payloads, &mut None, &mut rng);
                debug_assert!(sender.between_messages(), "the message fits into one write");
                self.echo_awaited.set(true);
            }
            Some(Task::Ping) => {
                let payload = self.sequence.to_be_bytes();
                append_control_frame(OpCode::Ping, &payload, &mut rng, buffer);
                self.pong_awaited.set(Some(Instant::now()));
                state.count_ping();
            }
            Some(Task::Close) => {
                let code = (CloseCode::NormalClosure as u16).to_be_bytes();
                append_control_frame(OpCode::Close, &code, &mut rng, buffer);
                self.closing.set(true);
            }
        }
    }
}

/// Holds a connection until it ends, and counts why if that was before its time.
pub(super) async fn hold(
    connection: OpenConnection,
    held: Rc<HeldConnection>,
    state: Rc<ThreadState>,
) {
    let OpenConnection { stream, early, .. } = connection;
    let end = match stream {
        Stream::Plain(read_half, write_half) => {
            until_end(read_half, write_half, early, &held, &state).await
        }
        Stream::Tls(halves) => {
            let (read_half, write_half) = *halves;
            // Boxed, so that it takes no room in the tasks of other connections.
            Box::pin(until_end(read_half, write_half, early, &held, &state)).await
        }
        Stream::Http2(halves) => {
            let (read_half, write_half) = *halves;
            Box::pin(until_end(read_half, write_half, early, &held, &state)).await
        }
    };
    held.ended.set(true);
    held.waker.take();
    if held.due.take().is_some() {
        state.count_done();
    }
    state.count_end(end);
}

async fn until_end(
    read_half: impl ReadHalf,
    write_half: impl WriteHalf,
    early: Vec<u8>,
    held: &HeldConnection,
    state: &ThreadState,
) -> Result<(), ConnectionError> {
    let mut receive = pin!(held.receive(read_half, early, state));
    let mut send = pin!(held.send(write_half, state));
    poll_fn(|cx| {
        if held.waker.borrow().is_none() {
            *held.waker.borrow_mut() = Some(cx.waker().clone());
        }
        let received = receive.as_mut().poll(cx);
        match (received, send.as_mut().poll(cx)) {
            (Poll::Ready(end), _) => Poll::Ready(end),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    })
    .await
}
