//! A monoio stream for crates that poll: tokio's `AsyncRead` and `AsyncWrite`, of which only the
//! traits are linked, over halves that read and write with owned buffers.
//!
//! [`split`] makes two ends. The [`PollIo`] goes to the crate; it copies bytes and never calls the
//! kernel. The [`Pump`] reads and writes; its [`drive`](Pump::drive) polls whoever uses the
//! [`PollIo`] in the same task. Everything that is written in one turn of that task goes out in one
//! write at the turn's end, so a flush is ready at once and means "with this turn". No buffer is
//! shared with the kernel and the crate at the same time, and nothing is allocated for each read or
//! write.
//!
//! Bounds: one chunk of `read_len` bytes is read ahead, and at most [`WRITE_LEN_MAX`] bytes wait
//! while as many are being written.

use std::{
    cell::RefCell,
    future::{poll_fn, ready},
    io, mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that wait to be written, at most; further ones are refused until a write is done. With
/// fewer, a turn of many small frames would take more than one write.
const WRITE_LEN_MAX: usize = 256 * 1024;

/// Rounds of reading, using and writing in one turn of the task, at most: where reads do not have to
/// wait, other tasks have their turn after as many chunks.
const ROUNDS_MAX: u32 = 16;

/// The two ends of a stream whose halves are `reader` and `writer`; up to `read_len` bytes are read
/// at once.
pub(crate) fn split<R, W>(reader: R, writer: W, read_len: usize) -> (PollIo, Pump)
where
    R: AsyncReadRent + 'static,
    W: AsyncWriteRent + 'static,
{
    let mailbox = Rc::<RefCell<Mailbox>>::default();
    let pump = Pump {
        reading: Box::pin(read_on(reader, Rc::clone(&mailbox), read_len)),
        writing: Box::pin(write_on(writer, Rc::clone(&mailbox))),
        mailbox: Rc::clone(&mailbox),
    };
    (PollIo { mailbox }, pump)
}

/// What the two ends tell each other.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of one direction")]
struct Mailbox {
    /// What was read last, and how much of it has been taken.
    received: Vec<u8>,
    taken: usize,
    /// Whether more is to be read; the chunk has been taken then.
    wants_chunk: bool,
    /// Whether nothing more can be read.
    read_over: bool,
    /// Why not, if it is not the end of the stream; told once.
    read_error: Option<io::Error>,
    /// The first error of the stream, as it was.
    failure: Option<io::Error>,
    /// What is to be written next.
    to_write: Vec<u8>,
    /// The buffer of the write before, empty.
    spare: Vec<u8>,
    write_over: bool,
    /// Why nothing more can be written; told once.
    write_error: Option<io::Error>,
    wants_shutdown: bool,
    is_shut_down: bool,
    /// Reads and writes that have ended.
    steps: u64,
}

/// The end that somebody polls. Polled outside of [`Pump::drive`], it never becomes ready.
#[derive(Debug)]
pub(crate) struct PollIo {
    mailbox: Rc<RefCell<Mailbox>>,
}

impl AsyncRead for PollIo {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mailbox = &mut *self.mailbox.borrow_mut();
        let rest = &mailbox.received[mailbox.taken..];
        if !rest.is_empty() {
            let len = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..len]);
            mailbox.taken += len;
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = mailbox.read_error.take() {
            return Poll::Ready(Err(error));
        }
        if mailbox.read_over {
            return Poll::Ready(Ok(()));
        }
        mailbox.wants_chunk = true;
        Poll::Pending
    }
}

impl AsyncWrite for PollIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mailbox = &mut *self.mailbox.borrow_mut();
        mailbox.check_writable()?;
        let mut room = WRITE_LEN_MAX - mailbox.to_write.len();
        if room == 0 {
            return Poll::Pending;
        }
        let mut written = 0;
        for slice in slices {
            let len = slice.len().min(room);
            mailbox.to_write.extend_from_slice(&slice[..len]);
            written += len;
            room -= len;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.mailbox.borrow_mut().check_writable()?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mailbox = &mut *self.mailbox.borrow_mut();
        if mailbox.is_shut_down {
            return Poll::Ready(Ok(()));
        }
        mailbox.check_writable()?;
        mailbox.wants_shutdown = true;
        Poll::Pending
    }
}

impl Mailbox {
    /// Keeps an error, and returns one like it.
    fn note_failure(&mut self, error: io::Error) -> io::Error {
        let alike = match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        self.failure.get_or_insert(error);
        alike
    }

    fn check_writable(&mut self) -> io::Result<()> {
        match self.write_error.take() {
            Some(error) => Err(error),
            None if self.write_over => Err(io::ErrorKind::BrokenPipe.into()),
            None => Ok(()),
        }
    }
}

/// The end that reads and writes. When it is dropped, the halves are, with a read or a write that may
/// be under way.
pub(crate) struct Pump {
    reading: Pin<Box<dyn Future<Output = ()>>>,
    writing: Pin<Box<dyn Future<Output = ()>>>,
    mailbox: Rc<RefCell<Mailbox>>,
}

impl Pump {
    /// Polls `user`, which uses the [`PollIo`], until it is ready, and reads and writes for it.
    /// Bytes that it has written in its last turn may be lost, unless it has shut the stream down.
    pub(crate) async fn drive<T>(
        &mut self,
        mut user: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> T {
        loop {
            if let Some(output) = poll_fn(|cx| self.turn(cx, &mut user)).await {
                return output;
            }
            // A task that wakes itself would run before all others, again and again; one that waits
            // for the end of another runs behind them.
            monoio::spawn(ready(())).await;
        }
    }

    /// The first error of the stream below. Whoever used the [`PollIo`] was told one of the same kind
    /// and text, and may have made another of that.
    pub(crate) fn take_failure(&mut self) -> Option<io::Error> {
        self.mailbox.borrow_mut().failure.take()
    }

    /// One turn of the task. Ready without an output if others should have their turn.
    fn turn<T>(
        &mut self,
        cx: &mut Context<'_>,
        user: &mut impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Option<T>> {
        self.poll(cx);
        for _ in 0..ROUNDS_MAX {
            if let Poll::Ready(output) = user(cx) {
                return Poll::Ready(Some(output));
            }
            let steps = self.steps();
            self.poll(cx);
            if self.steps() == steps {
                return Poll::Pending;
            }
        }
        Poll::Ready(None)
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        let Mailbox { read_over, write_over, is_shut_down, .. } = *self.mailbox.borrow();
        if !read_over {
            let _ = self.reading.as_mut().poll(cx);
        }
        if !write_over && !is_shut_down {
            let _ = self.writing.as_mut().poll(cx);
        }
    }

    fn steps(&self) -> u64 {
        self.mailbox.borrow().steps
    }
}

impl std::fmt::Debug for Pump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pump").field("mailbox", &self.mailbox).finish_non_exhaustive()
    }
}

/// Reads a chunk whenever one is wanted. Whoever changes the mailbox polls this afterwards, so it
/// needs no wake-up for that.
async fn read_on(mut reader: impl AsyncReadRent, mailbox: Rc<RefCell<Mailbox>>, read_len: usize) {
    loop {
        poll_fn(|_| ready_if(mailbox.borrow().wants_chunk)).await;
        let mut buffer = {
            let mailbox = &mut *mailbox.borrow_mut();
            mailbox.taken = 0;
            mem::take(&mut mailbox.received)
        };
        buffer.clear();
        buffer.reserve_exact(read_len);
        let (read, buffer) = reader.read(buffer).await;
        let mailbox = &mut *mailbox.borrow_mut();
        mailbox.steps += 1;
        mailbox.wants_chunk = false;
        match read {
            Ok(len) if len > 0 => mailbox.received = buffer,
            ended => {
                mailbox.read_over = true;
                if let Err(error) = ended {
                    mailbox.read_error = Some(mailbox.note_failure(error));
                }
                return;
            }
        }
    }
}

/// Writes whatever there is to write, and shuts the stream down when that is wanted.
async fn write_on(mut writer: impl AsyncWriteRent, mailbox: Rc<RefCell<Mailbox>>) {
    loop {
        let has_something =
            |mailbox: &Mailbox| !mailbox.to_write.is_empty() || mailbox.wants_shutdown;
        poll_fn(|_| ready_if(has_something(&mailbox.borrow()))).await;
        let buffer = {
            let mailbox = &mut *mailbox.borrow_mut();
            mem::replace(&mut mailbox.to_write, mem::take(&mut mailbox.spare))
        };
        let is_last = buffer.is_empty();
        let (written, mut buffer) = if is_last {
            (writer.shutdown().await, buffer)
        } else {
            let (written, buffer) = writer.write_all(buffer).await;
            (written.map(|_| ()), buffer)
        };
        let mailbox = &mut *mailbox.borrow_mut();
        mailbox.steps += 1;
        buffer.clear();
        mailbox.spare = buffer;
        if let Err(error) = written {
            mailbox.write_over = true;
            mailbox.write_error = Some(mailbox.note_failure(error));
            return;
        }
        if is_last {
            mailbox.is_shut_down = true;
            return;
        }
    }
}

fn ready_if(is_ready: bool) -> Poll<()> {
    if is_ready { Poll::Ready(()) } else { Poll::Pending }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
        pin::pin,
        thread,
    };

    use monoio::{LegacyDriver, RuntimeBuilder, io::Splitable};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use ringecho::host::runtime::build_on_ring;

    const READ_LEN: usize = 1000;

    /// Bytes of which no two pieces of a buffer's length are alike.
    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at % 251) as u8 ^ (at >> 10) as u8).collect()
    }

    /// Runs a user of a stream whose peer does something else on a thread of its own.
    async fn with_peer<T, F: Future<Output = T>>(
        peer: impl FnOnce(UnixStream) + Send + 'static,
        user: impl FnOnce(PollIo) -> F,
    ) -> T {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = thread::spawn(move || peer(theirs));
        ours.set_nonblocking(monoio::utils::is_legacy()).unwrap();
        let stream = monoio::net::UnixStream::from_std(ours).unwrap();
        let (reader, writer) = stream.into_split();
        let (io, mut pump) = split(reader, writer, READ_LEN);
        let mut user = pin!(user(io));
        let output = pump.drive(|cx| user.as_mut().poll(cx)).await;
        drop(pump);
        peer.join().unwrap();
        output
    }

    /// More than fits into the sockets, both ways at once, and the end.
    async fn echo_is_whole() {
        let bytes = pattern(3_000_000);
        let echo = |mut stream: UnixStream| {
            let mut chunk = vec![0; 70_000];
            loop {
                let len = stream.read(&mut chunk).unwrap();
                if len == 0 {
                    return;
                }
                stream.write_all(&chunk[..len]).unwrap();
            }
        };
        let received = with_peer(echo, |io| async move {
            let (mut reader, mut writer) = tokio::io::split(io);
            let outgoing = bytes.clone();
            let mut send = pin!(async move {
                writer.write_all(&outgoing).await.unwrap();
                writer.flush().await.unwrap();
                writer.shutdown().await.unwrap();
            });
            let mut received = Vec::new();
            let mut receive = pin!(async { reader.read_to_end(&mut received).await.unwrap() });
            let mut is_sent = false;
            poll_fn(|cx| {
                is_sent = is_sent || send.as_mut().poll(cx).is_ready();
                receive.as_mut().poll(cx)
            })
            .await;
            assert!(is_sent);
            (received, bytes)
        });
        let (received, bytes) = received.await;
        assert!(received == bytes, "{} of {} bytes", received.len(), bytes.len());
    }

    /// What is written in one turn comes with one write, however often it is flushed.
    async fn a_turn_is_one_write() {
        let (lens, seen) = std::sync::mpsc::channel();
        let peer = move |mut stream: UnixStream| {
            let mut chunk = [0; 1000];
            loop {
                let len = stream.read(&mut chunk).unwrap();
                lens.send(len).unwrap();
                if len == 0 {
                    return;
                }
            }
        };
        with_peer(peer, |mut io| async move {
            for _ in 0..10 {
                io.write_all(b"frame").await.unwrap();
                io.flush().await.unwrap();
            }
            io.shutdown().await.unwrap();
        })
        .await;
        assert_eq!(seen.iter().collect::<Vec<usize>>(), [50, 0]);
    }

    /// The error of a write is told, also if nothing else is written.
    async fn errors_are_told() {
        let error = with_peer(drop, |mut io| async move {
            loop {
                if let Err(error) = io.write_all(b"x").await {
                    return error;
                }
                // Has the pump write.
                monoio::spawn(ready(())).await;
            }
        });
        assert_eq!(error.await.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn streams_are_polled_on_either_driver() {
        let all = || async {
            echo_is_whole().await;
            a_turn_is_one_write().await;
            errors_are_told().await;
        };
        if let Ok(mut on_ring) = build_on_ring() {
            on_ring.runtime.block_on(all());
        }
        let mut epoll = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build().unwrap();
        epoll.block_on(all());
    }
}
