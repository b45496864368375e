//! One open connection: it sends its messages and verifies their echoes, and is closed.
//!
//! Writing and reading go on concurrently, because a server that echoes while it reads would
//! otherwise fill the buffers of both directions and wait for ever. Both are futures of the same
//! task: [`Connection::receive`] and [`Connection::send`] tell each other what there is to do
//! through cells, and need no wake-ups for it, since whatever wakes the task polls both, receiver
//! first. So one turn is: a read completes, its echoes are verified, the next read is queued, and
//! as many new messages are queued in one write.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    pin::pin,
    task::Poll,
};

use rand::Rng;
use ringecho::protocol::{OpCode, close_code::CloseCode};

use super::{
    sender::{FrameSender, append_control_frame, frame_len},
    worker::{Stage, Worker},
};
use crate::{
    count::{
        connection_error::ConnectionError,
        errors::ErrorKind,
        latency::{InFlight, Instants},
    },
    verify::{
        received::{Irregularity, Received, StreamEnd},
        verifier::Verifier,
    },
    wire::{
        connector::OpenConnection,
        halves::{ReadHalf, WriteHalf},
        stream::Stream,
    },
};

/// Sizes of a connection's read buffer: as much as its echoes need, between these bounds.
const READ_LEN_MIN: usize = 4 * 1024;
const READ_LEN_MAX: usize = 64 * 1024;

/// Drives an open connection, which is the thread's connection `index`, to its end, and counts what
/// happens. `next_planned` is the number in the run of its next message in an open loop; it is
/// returned if the connection was lost.
pub(crate) async fn drive(
    opened: OpenConnection,
    index: usize,
    next_planned: u64,
    worker: &Worker,
) -> Option<u64> {
    let OpenConnection { stream, early, compression, .. } = opened;
    worker.tally.borrow_mut().compressed += u64::from(compression);
    let connection = Connection::new(worker, compression, next_planned);
    let end = match stream {
        Stream::Plain(read_half, write_half) => {
            connection.drive(read_half, write_half, early, index).await
        }
        Stream::Tls(halves) => {
            let (read_half, write_half) = *halves;
            // Boxed, so that it takes no room in the tasks of other connections.
            Box::pin(connection.drive(read_half, write_half, early, index)).await
        }
        Stream::Http2(halves) => {
            let (read_half, write_half) = *halves;
            Box::pin(connection.drive(read_half, write_half, early, index)).await
        }
    };
    connection.settle(end)
}

/// How a connection ended.
#[derive(Debug)]
enum ConnectionEnd {
    /// A closing handshake ended it, or the run did.
    Closed,
    Failed(ConnectionError),
}

impl ConnectionEnd {
    /// Whether it makes sense to still send a Close frame.
    fn leaves_peer_listening(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Failed(error) => {
                !matches!(error, ConnectionError::EndOfStream | ConnectionError::Broken(_))
            }
        }
    }
}

/// What the two directions of one connection tell each other.
struct Connection<'w> {
    worker: &'w Worker,
    /// Whether messages are compressed.
    compression: bool,
    in_flight: RefCell<InFlight>,
    /// The number in the run of the next message, in an open loop.
    next_planned: Cell<u64>,
    /// Messages that were passed over by echoes of later ones.
    passed_over: Cell<usize>,
    /// The payload of a Ping that has to be answered.
    ping: RefCell<Option<Vec<u8>>>,
    /// The Close frame that has to be sent, or was.
    close: Cell<Option<CloseCode>>,
    /// The instant of the present turn, once the clock has been read.
    turn_instant: Cell<Option<u64>>,
}

impl<'w> Connection<'w> {
    fn new(worker: &'w Worker, compression: bool, next_planned: u64) -> Self {
        Self {
            worker,
            compression,
            in_flight: RefCell::default(),
            next_planned: Cell::new(next_planned),
            passed_over: Cell::new(0),
            ping: RefCell::default(),
            close: Cell::new(None),
            turn_instant: Cell::new(None),
        }
    }

    fn instant(&self) -> u64 {
        let instant = self.turn_instant.get().unwrap_or_else(|| self.worker.schedule.now());
        self.turn_instant.set(Some(instant));
        instant
    }

    /// Sends and receives until the connection ends; `None` when the time was over before.
    async fn drive(
        &self,
        read_half: impl ReadHalf,
        write_half: impl WriteHalf,
        early: Vec<u8>,
        index: usize,
    ) -> Option<ConnectionEnd> {
        let worker = self.worker;
        let sequence = worker.rng.borrow_mut().next_u64();
        let (plan, compression) = (&worker.plan, self.compression);
        let verifier = Verifier::new(sequence, plan.echo_kind, compression, &worker.payloads);
        let sender = FrameSender::new(sequence, plan.echo_kind, plan.fragments, compression);
        let mut receive = pin!(self.receive(read_half, verifier, early));
        let mut send = pin!(self.send(write_half, sender));
        let mut received = None;
        let mut all_sent = false;
        let turns = poll_fn(|cx| {
            self.turn_instant.set(None);
            if received.is_none()
                && let Poll::Ready(end) = receive.as_mut().poll(cx)
            {
                received = Some(end);
            }
            // A failed write is ignored, since the read reports why the connection broke.
            all_sent = all_sent || send.as_mut().poll(cx).is_ready();
            match received.take() {
                Some(end) if all_sent || !end.leaves_peer_listening() => Poll::Ready(end),
                waiting => {
                    received = waiting;
                    Poll::Pending
                }
            }
        });
        worker.until_over(index, turns).await
    }

    /// Verifies echoes until the stream of frames ends.
    async fn receive(
        &self,
        mut half: impl ReadHalf,
        mut verifier: Verifier,
        early: Vec<u8>,
    ) -> ConnectionEnd {
        let plan = &self.worker.plan;
        let echoes_at_once = if self.worker.is_open_loop() { 1 } else { plan.depth };
        let echoes_len = frame_len(plan.payload.source.len_mean()).saturating_mul(echoes_at_once);
        let mut buffer = Vec::with_capacity(echoes_len.clamp(READ_LEN_MIN, READ_LEN_MAX));
        let mut end = self.verify(&mut verifier, &early);
        drop(early);
        loop {
            if let Some(end) = end {
                return end;
            }
            let read;
            (read, buffer) = half.read(buffer).await;
            // A read that did not have to wait belongs to the same turn, but not to the same instant.
            self.turn_instant.set(None);
            end = match read {
                Ok(0) => Some(self.end_without_close_frame(ConnectionError::EndOfStream)),
                Ok(_) => self.verify(&mut verifier, &buffer),
                Err(error) => Some(self.end_without_close_frame(ConnectionError::Broken(error))),
            };
        }
    }

    /// Verifies one chunk, and says how the connection ends if it does.
    #[inline]
    fn verify(&self, verifier: &mut Verifier, chunk: &[u8]) -> Option<ConnectionEnd> {
        self.worker.count_busy_turn();
        let mut in_flight = self.in_flight.borrow_mut();
        let mut rest = chunk;
        while !rest.is_empty() {
            let now = self.instant();
            let received = verifier.consume(rest, in_flight.len(), &self.worker.payloads);
            let Received { consumed, echoes, payload_len, irregularity, ping, end, .. } = received;
            self.worker.count_echoes(&mut in_flight, echoes, payload_len, now);
            if ping.is_some() {
                *self.ping.borrow_mut() = ping;
            }
            if let Some(end) = end {
                return Some(self.end_of_stream(&end, in_flight.len()));
            }
            if let Some(irregularity) = irregularity {
                self.account_for(&irregularity, &mut in_flight, now);
                self.passed_over.set(verifier.passed_over());
            }
            rest = &rest[consumed..];
        }
        None
    }

    /// Counts a message that is not the next echo, or not as it should be.
    #[cold]
    fn account_for(&self, irregularity: &Irregularity, in_flight: &mut InFlight, now: u64) {
        let Irregularity { passed_over, answers, wrong } = *irregularity;
        in_flight.answered(passed_over, |_, _| {});
        match wrong {
            None => self.worker.count_echoes(in_flight, 1, 0, now),
            Some(wrong) => {
                in_flight.answered(usize::from(answers), |_, _| {});
                self.worker.tally.borrow_mut().count_wrong(wrong);
            }
        }
    }

    /// What the end of the stream of frames means, and which Close frame answers it.
    #[cold]
    fn end_of_stream(&self, end: &StreamEnd, in_flight: usize) -> ConnectionEnd {
        let closing = self.close.get().is_some();
        let (answer, end) = match *end {
            StreamEnd::Close(_) if closing || self.has_nothing_left(in_flight) => {
                (CloseCode::NormalClosure, ConnectionEnd::Closed)
            }
            StreamEnd::Close(code) => {
                (CloseCode::NormalClosure, ConnectionEnd::Failed(ConnectionError::ClosedWith(code)))
            }
            StreamEnd::Violation(violation) => (
                CloseCode::ProtocolError,
                ConnectionEnd::Failed(ConnectionError::Violation(violation)),
            ),
        };
        if !closing {
            self.close.set(Some(answer));
        }
        end
    }

    /// After our Close frame the server may as well just hang up.
    #[cold]
    fn end_without_close_frame(&self, error: ConnectionError) -> ConnectionEnd {
        if self.close.get().is_some() {
            ConnectionEnd::Closed
        } else {
            ConnectionEnd::Failed(error)
        }
    }

    /// Sends messages, Pongs and at last a Close frame.
    async fn send(&self, mut half: impl WriteHalf, mut sender: FrameSender) -> io::Result<()> {
        loop {
            poll_fn(|_| if self.may_send(&sender) { Poll::Ready(()) } else { Poll::Pending }).await;
            self.worker.count_busy_turn();
            let mut buffer = self.worker.take_write_buffer();
            let is_last = self.fill(&mut buffer, &mut sender);
            let (written, buffer) = half.write_all(buffer).await;
            self.turn_instant.set(None);
            self.worker.return_write_buffer(buffer);
            written?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Whether there is anything to send.
    #[inline]
    fn may_send(&self, sender: &FrameSender) -> bool {
        if !sender.between_messages() || self.close.get().is_some() {
            return true;
        }
        let in_flight = self.in_flight.borrow().len();
        self.due(in_flight).is_some()
            || self.has_nothing_left(in_flight)
            || self.ping.borrow().is_some()
    }

    /// The instants of the next message, if it is time to send one.
    #[inline]
    fn due(&self, in_flight: usize) -> Option<Instants> {
        if in_flight >= self.worker.plan.depth {
            return None;
        }
        if self.worker.is_open_loop() {
            let planned = self.worker.planned(self.next_planned.get())?;
            let now = self.instant();
            return self
                .worker
                .schedule
                .admits(planned, now)
                .then_some(Instants { planned, sent: now });
        }
        (self.worker.stage() == Stage::Sending).then(|| {
            let now = self.instant();
            Instants { planned: now, sent: now }
        })
    }

    /// Whether the load has ended and the connection has done its part.
    #[inline]
    fn has_nothing_left(&self, in_flight: usize) -> bool {
        in_flight == 0 && self.worker.is_draining() && self.due(in_flight).is_none()
    }

    /// Puts what there is to send into `buffer`, and says whether it ends with a Close frame.
    #[inline]
    fn fill(&self, buffer: &mut Vec<u8>, sender: &mut FrameSender) -> bool {
        let mut rng = self.worker.rng.borrow_mut();
        let mut in_flight = self.in_flight.borrow_mut();
        sender.finish(buffer, &self.worker.payloads, &mut rng);
        if sender.between_messages()
            && let Some(payload) = self.ping.take()
        {
            append_control_frame(OpCode::Pong, &payload, &mut rng, buffer);
        }
        while self.close.get().is_none()
            && sender.may_begin(buffer)
            && let Some(instants) = self.due(in_flight.len())
        {
            let mut deflater = self.worker.deflater.borrow_mut();
            sender.begin(buffer, &self.worker.payloads, &mut deflater, &mut rng);
            in_flight.sent(instants);
            if self.worker.is_open_loop() {
                self.worker.count_planned(instants);
                self.next_planned.update(|number| number + self.worker.plan.connections as u64);
            }
        }
        if !sender.between_messages() {
            return false;
        }
        if self.close.get().is_none() && self.has_nothing_left(in_flight.len()) {
            self.close.set(Some(CloseCode::NormalClosure));
        }
        let Some(code) = self.close.get() else {
            return false;
        };
        append_control_frame(OpCode::Close, &(code as u16).to_be_bytes(), &mut rng, buffer);
        true
    }

    /// Counts how the connection ended; `None` when the time was over. Returns the number of its
    /// next message if it was lost.
    fn settle(&self, end: Option<ConnectionEnd>) -> Option<u64> {
        let mut tally = self.worker.tally.borrow_mut();
        let unanswered = self.in_flight.borrow().len() + self.passed_over.get();
        let Some(ConnectionEnd::Failed(error)) = end else {
            tally.count_missing(unanswered);
            return None;
        };
        tally.lost += 1;
        tally.count_error(&error);
        // After a fault of the server nobody has waited for further echoes, so none is missing.
        if error.kind() == ErrorKind::Closed {
            tally.count_missing(unanswered);
        }
        Some(self.next_planned.get())
    }
}
