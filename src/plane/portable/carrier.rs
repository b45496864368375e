//! The portable path: one client's session as a task, over the two halves of any stream that monoio
//! can read and write.
//!
//! Bytes are answered in the buffer that they were received into. Its invariant: a pending read is
//! dropped only when the connection is over.

use std::{
    future::Future,
    mem,
    ops::Range,
    pin::{Pin, pin},
};

use futures_util::future::{Either, select};
use monoio::{buf::IoBufMut, io::AsyncWriteRent};

use crate::{
    config::RECEIVE_BUFFER_START,
    connection::{ConnectionEnd, Control, Demand, Quota, linger, noting_waits, write_all},
    metrics::Counters,
    plane::Bounds,
    protocol::{
        echo::Compression,
        reply::{Closing, Reply},
        session::{Goodbye, Session},
    },
    stream::WaitReadable,
};

/// Echoes over the two halves of a stream until the connection is over. `early` are the bytes that
/// came together with the request head, and `compression` is what the handshake has agreed on.
pub async fn run(
    mut reader: impl WaitReadable,
    mut writer: impl AsyncWriteRent,
    early: Vec<u8>,
    compression: Compression,
    control: &Control,
    bounds: &Bounds,
    counters: &Counters,
) -> ConnectionEnd {
    let mut carrier = Carrier {
        reader: &mut reader,
        writer: &mut writer,
        control,
        bounds,
        counters,
        session: Session::new(compression),
        quota: Quota::default(),
        ahead: Vec::new(),
    };
    control.opened();
    control.hold(early.capacity());
    let outcome = carrier.echo_until_closed(early).await;
    control.note_close_code(carrier.session.close_code());
    let Carrier { mut session, .. } = carrier;
    match outcome {
        Ok(end) => {
            linger(&mut reader, &mut writer, control).await;
            end.for_its_cause(&session)
        }
        Err(end) => {
            if let Some(goodbye) = control.unheard_goodbye() {
                session.say_goodbye(goodbye);
            }
            if end.is_orderly() {
                // The peer has yet to read why TLS failed.
                linger(&mut reader, &mut writer, control).await;
            }
            end.for_its_cause(&session)
        }
    }
}

struct Carrier<'a, R, W> {
    reader: &'a mut R,
    writer: &'a mut W,
    control: &'a Control,
    bounds: &'a Bounds,
    counters: &'a Counters,
    session: Session,
    quota: Quota,
    /// Bytes that were received while a send stalled.
    ahead: Vec<u8>,
}

impl<R: WaitReadable, W: AsyncWriteRent> Carrier<'_, R, W> {
    /// Echoes until the session is over (`Ok`) or the connection is (`Err`).
    async fn echo_until_closed(&mut self, early: Vec<u8>) -> Result<ConnectionEnd, ConnectionEnd> {
        let mut chunk = early;
        loop {
            let reply = self.session.receive(&mut chunk, &self.bounds.rules);
            self.counters.count_reply(chunk.len(), &reply);
            if reply.messages > 0 {
                self.control.message();
            }
            if let Some(record) = self.control.record() {
                record.count(chunk.len(), reply.sent_len(), reply.messages);
            }
            let Reply { prefix, range, closing, .. } = reply;
            if !prefix.is_empty() {
                let prefix_len = prefix.len();
                self.send(prefix, 0..prefix_len, closing.is_some()).await?;
            }
            if !range.is_empty() {
                chunk = self.send(chunk, range, closing.is_some()).await?;
            }
            if let Some(Closing { frame, end }) = closing.map(|closing| *closing) {
                if let Some(frame) = frame {
                    self.count_sent(frame.len());
                    write_close(self.writer, self.control, frame).await?;
                }
                if let Some(end) = end {
                    return Ok(end.into());
                }
            }
            let buffer = self.next_buffer(chunk);
            self.control.hold(buffer.capacity() + self.ahead.len() + self.session.held_len());
            let (received, has_waited) = noting_waits(self.receive(buffer)).await;
            chunk = received?;
            self.quota.spend(chunk.len(), has_waited).await;
        }
    }

    /// Counts the bytes of a frame of the server's own.
    fn count_sent(&self, len: usize) {
        count_sent(self.counters, self.control, len);
    }

    /// An empty buffer for the next read, twice as large if the last read filled `used`.
    fn next_buffer(&self, mut used: Vec<u8>) -> Vec<u8> {
        let capacity_max = self.bounds.receive_buffer_max;
        let wanted = if used.len() == used.capacity() && used.capacity() < capacity_max {
            (2 * used.capacity()).min(capacity_max)
        } else {
            used.capacity()
        };
        let wanted = wanted.clamp(RECEIVE_BUFFER_START.in_memory(), capacity_max);
        if wanted != used.capacity() {
            return Vec::with_capacity(wanted);
        }
        used.clear();
        used
    }

    /// Waits for bytes from the peer, and meanwhile does what the worker demands.
    async fn receive(&mut self, buffer: Vec<u8>) -> Result<Vec<u8>, ConnectionEnd> {
        if !self.ahead.is_empty() {
            return Ok(mem::take(&mut self.ahead));
        }
        // The writer and the session are needed while the reader is busy.
        let Self { reader, writer, control, session, counters, .. } = self;
        let mut read = pin!(reader.read(buffer));
        loop {
            // Demands come first, since a peer that streams always has something to read.
            let demand = match select(pin!(control.demanded()), read.as_mut()).await {
                Either::Left((Demand::DrainIdle, _)) if session.is_idle() => {
                    Demand::Goodbye(Goodbye::Stopping)
                }
                Either::Left((demand, _)) => demand,
                Either::Right(((Ok(0), _), _)) => return Err(ConnectionEnd::PeerVanished),
                Either::Right(((Ok(_), chunk), _)) => {
                    control.traffic();
                    return Ok(chunk);
                }
                Either::Right(((Err(error), _), _)) => {
                    return Err(ConnectionEnd::of_failure(&error));
                }
            };
            match demand {
                Demand::Ping => {
                    if let Some(frame) = session.ping() {
                        counters.pings_sent.add(1);
                        count_sent(counters, control, frame.len());
                        write_all(writer, frame, 0..frame.len(), control).await?;
                    }
                }
                // A handshake's time is over once its connection is open, and who is not idle stays.
                Demand::TimeOut | Demand::DrainIdle => {}
                // A message that is under way, or has come meanwhile, is traffic.
                Demand::Goodbye(Goodbye::Idle)
                    if !session.is_between_messages() || control.has_message() =>
                {
                    control.message();
                }
                Demand::Goodbye(goodbye) => {
                    if let Some(frame) = session.say_goodbye(goodbye) {
                        count_sent(counters, control, frame.len());
                        write_close(writer, control, frame).await?;
                    }
                }
                Demand::End(end) => return Err(end),
            }
        }
    }

    /// Sends a part of a reply, and returns the bytes that it stands in. If the peer takes it slowly,
    /// receives meanwhile.
    async fn send(
        &mut self,
        bytes: Vec<u8>,
        range: Range<usize>,
        is_closing: bool,
    ) -> Result<Vec<u8>, ConnectionEnd> {
        let Self { reader, writer, control, bounds, ahead, session, .. } = self;
        let ahead_max = bounds.unsent_max.saturating_sub(range.len());
        let mut write = pin!(write_all(writer, bytes, range, control));
        match select(write.as_mut(), pin!(control.send_stalled())).await {
            Either::Left((written, _)) => written,
            Either::Right(_) => {
                if is_closing || session.is_closing() {
                    control.closing();
                }
                // Reserved at once: growing would leave memory behind that the allocator keeps.
                ahead.reserve_exact(ahead_max.saturating_sub(ahead.len()));
                receive_ahead(reader, ahead, ahead_max, control, write).await
            }
        }
    }
}

/// Counts the bytes of a frame of the server's own.
fn count_sent(counters: &Counters, control: &Control, len: usize) {
    counters.sent_bytes.add(len as u64);
    if let Some(record) = control.record() {
        record.count(0, len, 0);
    }
}

/// Waits for a write that stalls, and meanwhile receives up to `len_max` bytes to `ahead`, which has
/// the memory: a peer may send everything that it has before it begins to read.
#[cold]
async fn receive_ahead<T>(
    reader: &mut impl WaitReadable,
    ahead: &mut Vec<u8>,
    len_max: usize,
    control: &Control,
    mut write: Pin<&mut impl Future<Output = T>>,
) -> T {
    let held_beside = control.held() - ahead.len().min(control.held());
    while ahead.len() < len_max {
        let readable = match select(write.as_mut(), pin!(reader.readable())).await {
            Either::Left((written, _)) => return written,
            Either::Right((readable, _)) => readable,
        };
        if readable.is_err() {
            break;
        }
        let filled_len = ahead.len();
        let free = mem::take(ahead).slice_mut(filled_len..len_max);
        let (received, filled) = reader.read(free).await;
        *ahead = filled.into_inner();
        control.hold(held_beside + ahead.len());
        // The end of the stream, or an error, is found by the next read again.
        if !matches!(received, Ok(1..)) {
            break;
        }
        control.traffic();
    }
    write.await
}

/// Sends a Close frame, the last frame that is sent.
async fn write_close(
    writer: &mut impl AsyncWriteRent,
    control: &Control,
    frame: Vec<u8>,
) -> Result<(), ConnectionEnd> {
    control.closing();
    let frame_len = frame.len();
    write_all(writer, frame, 0..frame_len, control).await.map(drop)
}
