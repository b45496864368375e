//! The portable path: one client's life after its opening handshake, as RFC 6455 tells it.
//!
//! [`run`] works over the two halves of any stream that monoio can read and write. Bytes go
//! through [`Echo`] in the buffer that they were received into; this module reads, writes, and
//! ends connections such that nothing is lost. Its invariant: a pending read is dropped only when the connection is over.

pub mod clock;
pub mod intake;

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io, mem,
    ops::Range,
    os::fd::RawFd,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
};

use fastwebsockets::CloseCode;
use futures_util::future::{Either, select};
use http::StatusCode;
use monoio::{
    buf::{IoBuf, IoBufMut, Slice},
    io::{AsyncReadRent, AsyncWriteRent, CancelableAsyncReadRent, Canceller},
};

use crate::{
    config::{Limits, RECEIVE_BUFFER_START},
    connection::{
        clock::{Deadlines, Due, Tick, Timing},
        intake::intake,
    },
    metrics::Counters,
    protocol::{
        ProtocolError,
        close_code::encode_close_frame,
        echo::{Compression, Echo, Next, Reply, Rules},
    },
};

/// What all connections of a worker share.
pub struct Shared {
    /// What frames may be.
    pub rules: Rules,
    /// How large a receive buffer may become.
    pub receive_buffer_max: usize,
    /// How much is received from a peer that does not read.
    pub unsent_max: usize,
    /// What the worker counts.
    pub counters: Arc<Counters>,
}

impl Shared {
    /// What `limits` allow.
    pub fn new(limits: &Limits, counters: Arc<Counters>) -> Self {
        Self {
            rules: Rules {
                hold: limits.hold.in_memory(),
                message_size_max: limits.message_size_max.0,
            },
            receive_buffer_max: limits.receive_buffer.in_memory(),
            unsent_max: limits.unsent_max.in_memory(),
            counters,
        }
    }
}

/// How a connection ended. Every accepted connection ends in one of these ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// The page was delivered.
    PageServed,
    /// The request was refused with this status.
    Refused(StatusCode),
    /// The peer left, or its connection broke, before a request head was whole.
    PeerLeft,
    /// The peer closed, and got the echo of its Close frame.
    ClosedByPeer,
    /// The stopping server closed, and the peer answered.
    ClosedByServer,
    /// The peer violated the protocol.
    Failed(ProtocolError),
    /// The peer ended its side without a Close frame.
    PeerVanished,
    /// The connection broke.
    Broken(io::ErrorKind),
    /// The peer did not take the response to its opening handshake in time.
    HandshakeTimeout,
    /// The peer was silent even after a Ping.
    KeepAliveTimeout,
    /// The peer did not answer the server's Close frame.
    CloseTimeout,
    /// The stopping server waited no longer.
    Abandoned,
    /// A defect of this program.
    Panicked,
}

impl ConnectionEnd {
    /// The names under which ends are counted, by [`kind`](Self::kind).
    pub const KINDS: [&'static str; 13] = [
        "page_served",
        "refused",
        "peer_left",
        "closed_by_peer",
        "closed_by_server",
        "failed",
        "peer_vanished",
        "broken",
        "handshake_timeout",
        "keep_alive_timeout",
        "close_timeout",
        "abandoned",
        "panicked",
    ];

    /// Whether there is nothing more to say, rather than nobody to say it to: only then is it
    /// worth waiting until the peer has taken what was sent.
    pub fn is_orderly(self) -> bool {
        matches!(self, Self::ClosedByPeer | Self::ClosedByServer | Self::Failed(_))
    }

    /// The index into [`KINDS`](Self::KINDS).
    pub fn kind(self) -> usize {
        match self {
            Self::PageServed => 0,
            Self::Refused(_) => 1,
            Self::PeerLeft => 2,
            Self::ClosedByPeer => 3,
            Self::ClosedByServer => 4,
            Self::Failed(_) => 5,
            Self::PeerVanished => 6,
            Self::Broken(_) => 7,
            Self::HandshakeTimeout => 8,
            Self::KeepAliveTimeout => 9,
            Self::CloseTimeout => 10,
            Self::Abandoned => 11,
            Self::Panicked => 12,
        }
    }
}

/// The worker's hold on a connection: what its sweep reads, and how it asks for something.
pub struct Control {
    now: Rc<Cell<Tick>>,
    /// The connection, as long as it is in the worker's table; its task owns it.
    descriptor: Option<RawFd>,
    timing: Cell<Timing>,
    demand: Cell<Option<Demand>>,
    /// When the send that is under way began.
    sending: Cell<Option<Tick>>,
    waker: RefCell<Option<Waker>>,
}

/// What a worker asks of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Send a Ping, if the replies so far end with a whole frame.
    Ping,
    /// The server is stopping: close when no message is under way.
    Drain,
    /// The request head has taken too long.
    TimeOut,
    /// End now, for this reason.
    End(ConnectionEnd),
}

impl Control {
    /// For a connection accepted now, on the worker whose time is `now`. What its peer takes is
    /// looked up by its descriptor, if it has one.
    pub fn new(now: Rc<Cell<Tick>>, descriptor: Option<RawFd>) -> Self {
        let timing = Cell::new(Timing::accepted(now.get()));
        Self {
            now,
            descriptor,
            timing,
            demand: Cell::new(None),
            sending: Cell::new(None),
            waker: RefCell::new(None),
        }
    }

    /// Asks for something. An end that was asked for before stands, and a closing yields to nothing
    /// but an end: neither is asked for twice.
    pub fn demand(&self, demand: Demand) {
        let stands = match self.demand.get() {
            Some(Demand::End(_)) => true,
            Some(Demand::Drain) => !matches!(demand, Demand::End(_)),
            Some(Demand::Ping | Demand::TimeOut) | None => false,
        };
        if !stands {
            self.demand.set(Some(demand));
        }
        if demand == Demand::Drain && self.sending.get().is_some() {
            // It is heard when the peer has taken what is being sent, for which it has as long as
            // for what else it is to do before the end.
            self.closing();
        }
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Lets go of the task that waits for demands, when there will be none.
    pub(crate) fn let_go(&self) {
        drop(self.waker.take());
    }

    /// Demands what is due, and lets a send see that it stalls.
    pub fn sweep(&self, deadlines: &Deadlines) {
        if self.send_stalls() {
            self.wake();
        }
        let mut timing = self.timing.get();
        let intake = || intake(&self.descriptor?);
        let due = timing.sweep(self.now.get(), deadlines, intake);
        self.timing.set(timing);
        let Some(due) = due else { return };
        self.demand(match due {
            Due::Ping => Demand::Ping,
            Due::HandshakeTimeout => Demand::TimeOut,
            Due::KeepAliveTimeout => Demand::End(ConnectionEnd::KeepAliveTimeout),
            Due::CloseTimeout => Demand::End(ConnectionEnd::CloseTimeout),
        });
    }

    /// Waits for any demand.
    pub async fn demanded(&self) -> Demand {
        self.wait(|| self.demand.take()).await
    }

    /// Waits for the demand to end; others stay for later.
    async fn ended(&self) -> ConnectionEnd {
        self.wait(|| self.demanded_end()).await
    }

    /// The end, if that has been demanded. The time for a request head is also that for its answer.
    pub(crate) fn demanded_end(&self) -> Option<ConnectionEnd> {
        match self.demand.get()? {
            Demand::End(end) => Some(end),
            Demand::TimeOut => Some(ConnectionEnd::HandshakeTimeout),
            Demand::Ping | Demand::Drain => None,
        }
    }

    /// Waits until the send that is under way takes longer than to the next sweep.
    async fn send_stalled(&self) {
        self.wait(|| self.send_stalls().then_some(())).await;
    }

    fn send_stalls(&self) -> bool {
        self.sending.get().is_some_and(|since| since != self.now.get())
    }

    async fn wait<T>(&self, demand: impl Fn() -> Option<T>) -> T {
        poll_fn(|context| {
            if let Some(demand) = demand() {
                return Poll::Ready(demand);
            }
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                *waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// The opening handshake is over.
    fn opened(&self) {
        let mut timing = self.timing.get();
        timing.opened(self.now.get());
        self.timing.set(timing);
    }

    fn traffic(&self) {
        let mut timing = self.timing.get();
        timing.traffic(self.now.get());
        self.timing.set(timing);
    }

    /// Nothing but the end is left to come, so the time for that begins.
    pub(crate) fn closing(&self) {
        let mut timing = self.timing.get();
        timing.closing(self.now.get());
        self.timing.set(timing);
    }
}

/// Echoes over the two halves of a stream until the connection is over. `early` is what came
/// together with the request head: the first frames; `compression` is what the handshake agreed on.
pub async fn run(
    mut reader: impl CancelableAsyncReadRent,
    mut writer: impl AsyncWriteRent,
    early: Vec<u8>,
    compression: Compression,
    control: &Control,
    shared: &Shared,
) -> ConnectionEnd {
    let mut connection = Connection {
        reader: &mut reader,
        writer: &mut writer,
        control,
        shared,
        echo: Echo::with_compression(compression),
        share: Share::default(),
        ahead: Vec::new(),
        draining: false,
        close_sent: false,
    };
    control.opened();
    match connection.echo_until_closed(early).await {
        Ok(end) => {
            linger(&mut reader, &mut writer, control).await;
            end
        }
        Err(end) => end,
    }
}

struct Connection<'a, R, W> {
    reader: &'a mut R,
    writer: &'a mut W,
    control: &'a Control,
    shared: &'a Shared,
    echo: Echo,
    share: Share,
    /// What was received while a send stalled.
    ahead: Vec<u8>,
    /// The server is stopping, and a Close frame is to be sent between two messages.
    draining: bool,
    /// A Close frame has been sent, so nothing else may be.
    close_sent: bool,
}

impl<R: CancelableAsyncReadRent, W: AsyncWriteRent> Connection<'_, R, W> {
    /// Echoes until there is nothing more to say (`Ok`) or nobody to say it to (`Err`).
    async fn echo_until_closed(&mut self, early: Vec<u8>) -> Result<ConnectionEnd, ConnectionEnd> {
        let mut chunk = early;
        loop {
            let reply = self.echo.transform(&mut chunk, &self.shared.rules);
            self.shared.counters.received_bytes.add(chunk.len() as u64);
            self.shared.counters.messages.add(reply.messages.into());
            let next = reply.next;
            chunk = self.send(reply, chunk).await?;
            match next {
                Next::Continue => {}
                Next::Close if self.close_sent => return Ok(ConnectionEnd::ClosedByServer),
                Next::Close => return Ok(ConnectionEnd::ClosedByPeer),
                //= https://www.rfc-editor.org/rfc/rfc6455#section-7.1.7
                //# Similarly, to do so, the server MUST _Close the WebSocket Connection_, and
                //# SHOULD log the problem.
                Next::Fail(error) => {
                    if !self.close_sent {
                        let reason = error.to_string();
                        write_close(self.writer, self.control, error.close_code(), &reason).await?;
                    }
                    return Ok(ConnectionEnd::Failed(error));
                }
                Next::Abort(error) => return Ok(ConnectionEnd::Failed(error)),
            }
            let buffer = self.next_buffer(chunk);
            let (received, has_waited) = noting_waits(self.receive(buffer)).await;
            chunk = received?;
            self.share.spend(chunk.len(), has_waited).await;
        }
    }

    /// An empty buffer for the next read, twice as large if the last read filled `used`.
    fn next_buffer(&self, mut used: Vec<u8>) -> Vec<u8> {
        let capacity_max = self.shared.receive_buffer_max;
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

    /// Waits for bytes from the peer, and does meanwhile what the worker demands.
    async fn receive(&mut self, buffer: Vec<u8>) -> Result<Vec<u8>, ConnectionEnd> {
        if !self.ahead.is_empty() {
            return Ok(mem::take(&mut self.ahead));
        }
        // The writer and the state are needed while the reader is busy.
        let Self { reader, writer, control, echo, draining, close_sent, .. } = self;
        let mut read = pin!(reader.read(buffer));
        loop {
            if *draining && !*close_sent && echo.between_messages() {
                *close_sent = true;
                write_close(writer, control, CloseCode::Away, GOODBYE).await?;
            }
            // The demand first: a peer that streams always has something to read.
            let demand = match select(pin!(control.demanded()), read.as_mut()).await {
                Either::Left((demand, _)) => demand,
                Either::Right(((Ok(0), _), _)) => return Err(ConnectionEnd::PeerVanished),
                Either::Right(((Ok(_), chunk), _)) => {
                    control.traffic();
                    return Ok(chunk);
                }
                Either::Right(((Err(error), _), _)) => {
                    return Err(ConnectionEnd::Broken(error.kind()));
                }
            };
            match demand {
                Demand::Ping if echo.between_frames() && !*close_sent => {
                    write_all(writer, &PING, 0..PING.len(), control).await?;
                }
                // A handshake's time is over once its connection is open.
                Demand::Ping | Demand::TimeOut => {}
                Demand::Drain => *draining = true,
                Demand::End(end) => return Err(end),
            }
        }
    }

    /// Sends a reply, and returns the chunk that it stands in.
    async fn send(&mut self, reply: Reply, chunk: Vec<u8>) -> Result<Vec<u8>, ConnectionEnd> {
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
        //# The application MUST NOT send any more data frames after sending a Close frame.
        if self.close_sent {
            return Ok(chunk);
        }
        let Self { reader, writer, control, ahead, draining, .. } = self;
        if !reply.prefix.is_empty() {
            let prefix_len = reply.prefix.len();
            write_all(writer, reply.prefix, 0..prefix_len, control).await?;
        }
        if reply.range.is_empty() {
            return Ok(chunk);
        }
        control.sending.set(Some(control.now.get()));
        let room = self.shared.unsent_max.saturating_sub(reply.range.len());
        let mut write = pin!(write_all(writer, chunk, reply.range, control));
        let written = match select(write.as_mut(), pin!(control.send_stalled())).await {
            Either::Left((written, _)) => written,
            Either::Right(_) => {
                if *draining {
                    control.closing();
                }
                // All at once, or the allocator would keep what it outgrows.
                ahead.reserve_exact(room);
                receive_ahead(reader, ahead, room, control, write).await
            }
        };
        control.sending.set(None);
        written
    }
}

/// Waits for a write that stalls, and receives meanwhile until `ahead` holds `len_max` bytes, for
/// which it has the memory: the peer may not begin to read before it has sent all that it wants to.
#[cold]
async fn receive_ahead<T>(
    reader: &mut impl CancelableAsyncReadRent,
    ahead: &mut Vec<u8>,
    len_max: usize,
    control: &Control,
    mut write: Pin<&mut impl Future<Output = T>>,
) -> T {
    while ahead.len() < len_max {
        let canceller = Canceller::new();
        let filled_len = ahead.len();
        let free = mem::take(ahead).slice_mut(filled_len..len_max);
        let mut read = pin!(reader.cancelable_read(free, canceller.handle()));
        let (written, (received, filled)) = match select(write.as_mut(), read.as_mut()).await {
            Either::Left((written, _)) => {
                canceller.cancel();
                (Some(written), read.await)
            }
            Either::Right((received, _)) => (None, received),
        };
        *ahead = filled.into_inner();
        if let Some(written) = written {
            return written;
        }
        // The next read tells the end again.
        if !matches!(received, Ok(1..)) {
            break;
        }
        control.traffic();
    }
    write.await
}

/// How much a connection receives without waiting before others have their turn, in bytes.
///
/// On epoll what is at hand is read and written at once, so a peer that streams would never let
/// the others go on.
const RECEIVE_SHARE: usize = 256 << 10;

/// What of that a connection has left.
struct Share(usize);

impl Default for Share {
    fn default() -> Self {
        Self(RECEIVE_SHARE)
    }
}

impl Share {
    /// Counts what was received, and lets others go on when that is all. Who has waited for it has
    /// done so already.
    async fn spend(&mut self, len: usize, has_waited: bool) {
        if has_waited {
            *self = Self::default();
            return;
        }
        // Even the smallest piece has cost the others the time of a page.
        self.0 = self.0.saturating_sub(len.max(RECEIVE_BUFFER_START.in_memory()));
        if self.0 == 0 {
            *self = Self::default();
            let_others_go_on().await;
        }
    }
}

/// What a future comes to, and whether others had their turn meanwhile.
async fn noting_waits<T>(future: impl Future<Output = T>) -> (T, bool) {
    let mut future = pin!(future);
    let mut has_waited = false;
    let output = poll_fn(|context| {
        let poll = future.as_mut().poll(context);
        has_waited |= poll.is_pending();
        poll
    });
    (output.await, has_waited)
}

/// Lets every other task have its turn first.
///
/// monoio runs a task that wakes itself before all others; one that waits for a new task to end
/// comes behind them.
pub(crate) async fn let_others_go_on() {
    monoio::spawn(async {}).await;
}

/// A Ping without payload.
pub(crate) static PING: [u8; 2] = [0x89, 0];

/// The reason in the Close frames of a stopping server.
pub(crate) const GOODBYE: &str = "the server is stopping";

/// Sends a Close frame, the last frame that is sent.
async fn write_close(
    writer: &mut impl AsyncWriteRent,
    control: &Control,
    code: CloseCode,
    reason: &str,
) -> Result<(), ConnectionEnd> {
    control.closing();
    let frame = encode_close_frame(code, reason);
    let frame_len = frame.len();
    write_all(writer, frame, 0..frame_len, control).await.map(drop)
}

/// Writes `range` of `buffer`, however slowly the peer takes it, and returns the buffer.
pub async fn write_all<T: IoBuf>(
    writer: &mut impl AsyncWriteRent,
    buffer: T,
    range: Range<usize>,
    control: &Control,
) -> Result<T, ConnectionEnd> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-6.1
    //# The frame(s) that have been formed MUST be transmitted over the underlying network
    //# connection.
    let end = range.end;
    let mut unsent = buffer.slice(range);
    loop {
        let unsent_at = unsent.begin();
        // The end first: a peer that reads quickly always takes something.
        let (result, written) =
            match select(pin!(control.ended()), pin!(writer.write(unsent))).await {
                Either::Left((end, _)) => return Err(end),
                Either::Right((completion, _)) => completion,
            };
        let buffer = Slice::into_inner(written);
        match result {
            Ok(len) if unsent_at + len == end => return Ok(buffer),
            Ok(len) => {
                control.traffic();
                unsent = buffer.slice(unsent_at + len..end);
            }
            Err(error) => return Err(ConnectionEnd::Broken(error.kind())),
        }
    }
}

/// Ends a connection without losing what was sent: the write side first, then, once the peer has
/// taken everything and ended its side too, the rest.
///
/// Closing a socket that still has received bytes in it resets the connection, and a reset can
/// destroy what the peer has not read yet; so they are read until the peer's end, or until the
/// sweep finds that it took too long.
pub async fn linger(
    reader: &mut impl AsyncReadRent,
    writer: &mut impl AsyncWriteRent,
    control: &Control,
) {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
    //# After both sending and receiving a Close message, an endpoint considers the WebSocket
    //# connection closed and MUST close the underlying TCP connection.
    control.closing();
    //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
    //# The server MUST close the underlying TCP connection immediately
    if writer.shutdown().await.is_err() {
        return;
    }
    let mut discarded = Vec::with_capacity(RECEIVE_BUFFER_START.in_memory());
    let mut share = Share::default();
    loop {
        let (end, read) = (pin!(control.ended()), pin!(reader.read(discarded)));
        let (outcome, has_waited) = noting_waits(select(end, read)).await;
        let Either::Right(((Ok(1..), buffer), _)) = outcome else { return };
        discarded = buffer;
        share.spend(discarded.len(), has_waited).await;
    }
}
