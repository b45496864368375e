//! One cycle: a connection is opened, its messages are echoed, and it is closed.
//!
//! Both directions are futures of one task, as in a load's client: the receiver says through cells
//! what is to be sent next, and Pings are answered whenever one comes. A cycle ends with the first
//! thing that is not as it should be, so it counts as one success or one error.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::{Future, pending, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use monoio::time::timeout;
use rand::{Rng, RngExt};
use ringecho::protocol::{OpCode, close_code::CloseCode};

use super::{
    cycle_error::CycleError,
    thread_state::{Begin, ThreadState},
};
use crate::{
    count::connection_error::ConnectionError,
    drive::sender::{FrameSender, append_control_frame, frame_len},
    payload::EchoKind,
    plan::Closing,
    verify::{
        received::{Received, StreamEnd, Violation},
        verifier::Verifier,
    },
    wire::{
        connector::OpenConnection,
        halves::{ReadHalf, WriteHalf},
        stream::Stream,
    },
};

/// Sizes of a connection's read buffer: as much as an echo needs, between these bounds.
const READ_LEN_MIN: usize = 512;
const READ_LEN_MAX: usize = 64 * 1024;

/// Carries out a cycle that begins so.
pub(super) async fn carry_out(begin: Begin, state: &ThreadState) -> Result<(), CycleError> {
    let nonce = state.rng.borrow_mut().random();
    let opened = state.connector.open(nonce).await;
    state.count_transports();
    let OpenConnection { stream, early, openings, .. } = opened.map_err(ConnectionError::from)?;
    state.count_handshake(begin, &openings);
    match stream {
        Stream::Plain(read_half, write_half) => exchange(read_half, write_half, early, state).await,
        Stream::Tls(halves) => {
            let (read_half, write_half) = *halves;
            // Boxed, so that it takes no room in the tasks of other connections.
            Box::pin(exchange(read_half, write_half, early, state)).await
        }
        Stream::Http2(halves) => {
            let (read_half, write_half) = *halves;
            Box::pin(exchange(read_half, write_half, early, state)).await
        }
    }
}

/// Everything behind the opening handshake.
async fn exchange(
    read_half: impl ReadHalf,
    write_half: impl WriteHalf,
    early: Vec<u8>,
    state: &ThreadState,
) -> Result<(), CycleError> {
    let sequence = state.rng.borrow_mut().next_u64();
    let outgoing = Outgoing::default();
    let incoming = Incoming {
        half: read_half,
        verifier: Verifier::new(sequence, EchoKind::Messages, false, &state.payloads),
        chunk: early,
        looked_at: 0,
        ping: &outgoing.ping,
        state,
    };
    let mut receive = pin!(converse(incoming, &outgoing, state));
    let mut send = pin!(outgoing.send(write_half, sequence, state));
    poll_fn(|cx| {
        let received = receive.as_mut().poll(cx);
        match (received, send.as_mut().poll(cx)) {
            (Poll::Ready(outcome), _) => Poll::Ready(outcome),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    })
    .await
}

/// Has messages sent and awaits their echoes, and ends the connection.
async fn converse(
    mut incoming: Incoming<'_, impl ReadHalf>,
    outgoing: &Outgoing,
    state: &ThreadState,
) -> Result<(), CycleError> {
    let limit = state.plan.answer_timeout;
    for _ in 0..state.plan.messages {
        outgoing.next.set(Some(Next::Message));
        within(limit, incoming.echo(), ConnectionError::EchoMissing).await?;
    }
    match state.plan.closing {
        // Closing the socket resets it.
        Closing::Abort => Ok(()),
        Closing::Handshake => {
            outgoing.next.set(Some(Next::Close));
            within(limit, incoming.close_frame(), ConnectionError::CloseMissing).await?;
            within(limit, incoming.end(), ConnectionError::EndMissing).await
        }
    }
}

/// The outcome of `future`, or the error `late` if it takes longer than `limit`.
async fn within(
    limit: Duration,
    future: impl Future<Output = Result<(), CycleError>>,
    late: fn(Duration) -> ConnectionError,
) -> Result<(), CycleError> {
    timeout(limit, future).await.unwrap_or_else(|_| Err(late(limit).into()))
}

/// The side that is received, as the events that a cycle waits for.
struct Incoming<'c, R> {
    half: R,
    verifier: Verifier,
    /// What was read last, and how much of it has been looked at.
    chunk: Vec<u8>,
    looked_at: usize,
    ping: &'c RefCell<Option<Vec<u8>>>,
    state: &'c ThreadState,
}

impl<R: ReadHalf> Incoming<'_, R> {
    /// Receives the echo of the message that was sent.
    async fn echo(&mut self) -> Result<(), CycleError> {
        loop {
            while self.has_more() {
                let Received { echoes, end, .. } = self.look(1)?;
                if let Some(end) = end {
                    return Err(end.into());
                }
                if echoes > 0 {
                    return Ok(());
                }
            }
            self.read().await?;
        }
    }

    /// Receives the Close frame that answers ours.
    async fn close_frame(&mut self) -> Result<(), CycleError> {
        loop {
            while self.has_more() {
                match self.look(0)?.end {
                    None => {}
                    //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
                    //# When sending a Close frame in response, the endpoint
                    //# typically echos the status code it received.
                    Some(StreamEnd::Close(code))
                        if code.is_none_or(|code| code == CloseCode::NormalClosure as u16) =>
                    {
                        return Ok(());
                    }
                    // Another code says that the server saw another end than this one.
                    Some(end) => return Err(end.into()),
                }
            }
            self.read().await?;
        }
    }

    /// Receives the end of TCP, and nothing before it.
    async fn end(&mut self) -> Result<(), CycleError> {
        if !self.has_more() {
            match self.read().await {
                Err(CycleError::Connection(ConnectionError::EndOfStream)) => return Ok(()),
                read => read?,
            }
        }
        Err(ConnectionError::Violation(Violation::AfterClose).into())
    }

    fn has_more(&self) -> bool {
        self.looked_at < self.chunk.len()
    }

    /// Looks at what was read, up to the first irregularity, while `in_flight` messages are not
    /// answered.
    fn look(&mut self, in_flight: usize) -> Result<Received, CycleError> {
        let rest = &self.chunk[self.looked_at..];
        let mut received = self.verifier.consume(rest, in_flight, &self.state.payloads);
        self.looked_at += received.consumed;
        if let Some(wrong) = received.irregularity.as_ref().and_then(|found| found.wrong) {
            return Err(wrong.into());
        }
        if received.ping.is_some() {
            *self.ping.borrow_mut() = received.ping.take();
        }
        Ok(received)
    }

    async fn read(&mut self) -> Result<(), CycleError> {
        let mut buffer = std::mem::take(&mut self.chunk);
        self.looked_at = 0;
        if buffer.capacity() < READ_LEN_MIN {
            let echo_len = frame_len(self.state.plan.payload.source.len_mean());
            buffer = Vec::with_capacity(echo_len.clamp(READ_LEN_MIN, READ_LEN_MAX));
        }
        let read;
        (read, self.chunk) = self.half.read(buffer).await;
        match read {
            Ok(0) => Err(ConnectionError::EndOfStream.into()),
            Ok(_) => Ok(()),
            Err(error) => Err(ConnectionError::Broken(error).into()),
        }
    }
}

/// What is to be sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Message,
    Close,
}

/// The side that is sent.
#[derive(Debug, Default)]
struct Outgoing {
    next: Cell<Option<Next>>,
    /// The payload of a Ping that has to be answered.
    ping: RefCell<Option<Vec<u8>>>,
}

impl Outgoing {
    /// Sends what there is to send, for as long as the connection lives.
    async fn send(
        &self,
        mut half: impl WriteHalf,
        sequence: u64,
        state: &ThreadState,
    ) -> Infallible {
        let mut sender = FrameSender::new(sequence, EchoKind::Messages, 1, false);
        let mut buffer = Vec::new();
        loop {
            let has_something = |sender: &FrameSender| {
                !sender.between_messages()
                    || self.next.get().is_some()
                    || self.ping.borrow().is_some()
            };
            poll_fn(|_| if has_something(&sender) { Poll::Ready(()) } else { Poll::Pending }).await;
            buffer.clear();
            self.fill(&mut buffer, &mut sender, state);
            let written;
            (written, buffer) = half.write_all(buffer).await;
            if written.is_err() {
                // A broken write is no news: the read tells why.
                return pending().await;
            }
        }
    }

    fn fill(&self, buffer: &mut Vec<u8>, sender: &mut FrameSender, state: &ThreadState) {
        let mut rng = state.rng.borrow_mut();
        sender.finish(buffer, &state.payloads, &mut rng);
        if !sender.between_messages() {
            return;
        }
        if let Some(payload) = self.ping.take() {
            append_control_frame(OpCode::Pong, &payload, &mut rng, buffer);
        }
        match self.next.get() {
            Some(Next::Message) if sender.may_begin(buffer) => {
                self.next.set(None);
                sender.begin(buffer, &state.payloads, &mut None, &mut rng);
            }
            Some(Next::Close) => {
                self.next.set(None);
                let code = (CloseCode::NormalClosure as u16).to_be_bytes();
                append_control_frame(OpCode::Close, &code, &mut rng, buffer);
            }
            _ => {}
        }
    }
}
