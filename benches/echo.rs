//! The echo in memory: received bytes in, replies out, without a socket; one frame at a time and
//! in batches of 16. Beside it fastwebsockets with the equal work on the same bytes.
//!
//! Both pay for the two copies that a kernel would make: of the received bytes into their
//! buffer, and of their replies into what is sent. What differs is all that lies between.
//! These copies go in pieces of [`PIECE_LEN`] bytes: a longer one is `rep movsb` in glibc, which
//! on AMD's Zen 3 takes 20 times as long for some distances between source and target. It made
//! 40 us of 2 us where the allocator happened to put the buffers like that.

mod measure;
mod sizes;

use std::{
    cell::RefCell,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket};
use measure::measure;
use ringecho::{
    config,
    protocol::{
        echo::{Compression, Rules},
        session::Session,
    },
};
use sizes::SIZES;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const RULES: Rules = Rules { hold: 4 << 10, frame_size_max: u64::MAX, message_size_max: 64 << 20 };

const PIECE_LEN: usize = 1024;

criterion_group!(benches, bench_echo);
criterion_main!(benches);

fn bench_echo(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("echo");
    for (kind, opcode) in [("binary", OpCode::Binary), ("text", OpCode::Text)] {
        for frames in [1, 16] {
            for size in SIZES {
                let batch = Batch::new(opcode, size, frames);
                group.throughput(Throughput::Bytes((frames * size) as u64));
                let id = BenchmarkId::new(format!("{kind}-x{frames}"), size);
                group.bench_with_input(id, &batch, measure_ringecho);
                let id = BenchmarkId::new(format!("{kind}-x{frames}-by-fastwebsockets"), size);
                group.bench_with_input(id, &batch, measure_fastwebsockets);
            }
        }
    }
    group.finish();
}

/// Equal frames that arrive together, and the replies to them; both written by fastwebsockets.
struct Batch {
    frames: usize,
    received: Vec<u8>,
    replies: Vec<u8>,
}

impl Batch {
    fn new(opcode: OpCode, size: usize, frames: usize) -> Self {
        let payload: Vec<u8> = (b'a'..=b'z').cycle().take(size).collect();
        let frame = |key| Frame::new(true, opcode, key, Payload::Borrowed(&payload));
        let mut masked = frame(Some([0x37, 0xfa, 0x21, 0x3d]));
        masked.mask();
        let received = masked.write(&mut Vec::new()).repeat(frames);
        let replies = frame(None).write(&mut Vec::new()).repeat(frames);
        Self { frames, received, replies }
    }
}

fn measure_ringecho(bencher: &mut Bencher, batch: &Batch) {
    let mut session = Session::new(Compression::None);
    // As in the server, a chunk is no longer than the receive buffer.
    let chunk_len = config::Echo::default().receive_buffer.get().in_memory();
    let mut chunk = Vec::with_capacity(chunk_len);
    measure_echo(bencher, batch, |sent| {
        for received in batch.received.chunks(chunk_len) {
            chunk.clear();
            append(&mut chunk, received);
            let reply = session.receive(&mut chunk, &RULES);
            assert_eq!(reply.closing, None);
            append(sent, &reply.prefix);
            append(sent, &chunk[reply.range]);
        }
    });
}

fn measure_fastwebsockets(bencher: &mut Bencher, batch: &Batch) {
    let wire = RefCell::new(Wire { received: &batch.received, read: 0, sent: Vec::new() });
    let mut websocket = WebSocket::after_handshake(WireStream(&wire), Role::Server);
    measure_echo(bencher, batch, |sent| {
        wire.borrow_mut().read = 0;
        std::mem::swap(sent, &mut wire.borrow_mut().sent);
        complete(async {
            for _ in 0..batch.frames {
                let frame = websocket.read_frame().await.expect("a valid frame");
                // Without a key, since a server's frame is not masked.
                let reply = Frame::new(frame.fin, frame.opcode, None, frame.payload);
                websocket.write_frame(reply).await.expect("memory takes every byte");
            }
        });
        std::mem::swap(sent, &mut wire.borrow_mut().sent);
    });
}

/// Times `echo`, which appends the replies to one batch to what is sent.
fn measure_echo(bencher: &mut Bencher, batch: &Batch, mut echo: impl FnMut(&mut Vec<u8>)) {
    let mut sent = Vec::with_capacity(batch.replies.len());
    echo(&mut sent);
    assert!(sent == batch.replies, "the replies are not the echo of what was received");

    measure(bencher, || {
        sent.clear();
        echo(&mut sent);
        assert_eq!(sent.len(), batch.replies.len());
        assert_eq!(sent.last(), batch.replies.last());
    });
}

fn append(buffer: &mut Vec<u8>, bytes: &[u8]) {
    bytes.chunks(PIECE_LEN).for_each(|piece| buffer.extend_from_slice(piece));
}

/// Runs a future that never has to wait.
fn complete<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("memory is always ready"),
    }
}

/// Two directions of a connection, in memory.
struct Wire<'a> {
    received: &'a [u8],
    /// How much of what was received has been read.
    read: usize,
    sent: Vec<u8>,
}

/// The end of the wire that a server holds.
struct WireStream<'a>(&'a RefCell<Wire<'a>>);

impl AsyncRead for WireStream<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.0.borrow_mut();
        let unread = &wire.received[wire.read..];
        let taken = unread.len().min(buffer.remaining());
        unread[..taken].chunks(PIECE_LEN).for_each(|piece| buffer.put_slice(piece));
        wire.read += taken;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WireStream<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        append(&mut self.0.borrow_mut().sent, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = &mut self.0.borrow_mut().sent;
        for piece in pieces {
            append(sent, piece);
        }
        Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
