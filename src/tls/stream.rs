//! TLS over any stream of monoio's, for tasks: a handshake, and then two halves.
//!
//! Ciphertext is received into the caller's own buffer and decrypted there, so a stream that waits
//! holds no buffer. What one call writes is encrypted into memory of the thread's and goes out in one
//! write, up to 64 KiB. Answers of the session's own, such as a change of keys, go out before the
//! next write, as RFC 8446 §4.6.3 has it.

use std::{cell::RefCell, io, rc::Rc, slice};

use monoio::{
    BufResult,
    buf::{IoBuf, IoBufMut, IoVecBuf, IoVecBufMut},
    io::{AsyncReadRent, AsyncWriteRent},
};
use rustls::ProtocolVersion;
use thiserror::Error;

use super::{
    TlsError, TlsFault, TlsSession,
    scratch::{WRITE_LEN_MAX, give_back_records, take_records, with_ciphertext, with_plaintext},
};
use crate::stream::{Duplex, TryRead, WaitReadable};

/// Bytes that are read at once during the handshake.
const HANDSHAKE_READ_LEN: usize = 4 << 10;

/// Why a handshake failed.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// TLS failed. The peer has been sent an alert, where there is one for it.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The stream broke.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<HandshakeError> for io::Error {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Tls(error) if error.fault() == TlsFault::CutOff => {
                io::ErrorKind::UnexpectedEof.into()
            }
            HandshakeError::Tls(error) => broken(error),
            HandshakeError::Io(error) => error,
        }
    }
}

fn broken(error: TlsError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What both halves of a stream share. Neither borrows it while it waits.
struct Shared {
    session: TlsSession,
    /// Plaintext that the reader's buffers had no room for yet: a record's, and a chunk's at most.
    pending: Vec<u8>,
    /// Bytes of it that have been taken.
    taken_len: usize,
}

impl Shared {
    /// Copies pending plaintext into `buffer`, as far as it has room, and returns how much.
    fn take_pending(&mut self, buffer: &mut impl IoBufMut) -> usize {
        let len = fill(buffer, &self.pending[self.taken_len..]);
        self.taken_len += len;
        if self.taken_len == self.pending.len() {
            self.pending = Vec::new();
            self.taken_len = 0;
        }
        len
    }

    /// Decrypts the first `len` bytes of `buffer` and puts the plaintext in their place, as far as it
    /// has room. Returns the bytes of plaintext in `buffer`.
    fn decrypt(&mut self, buffer: &mut impl IoBufMut, len: usize) -> Result<usize, TlsError> {
        with_plaintext(|plaintext| {
            self.session.open(received(buffer, len), plaintext)?;
            let filled = fill(buffer, plaintext);
            self.pending.extend_from_slice(&plaintext[filled..]);
            Ok(filled)
        })
    }
}

/// A buffer while ciphertext is received into it. Its length is that of what it has for the caller, and
/// monoio only ever makes it longer, so it stays until there is plaintext.
struct Receiving<T>(T);

#[expect(unsafe_code, reason = "a buffer for monoio is one by promise")]
// SAFETY: the memory is that of the buffer inside, which promises the same.
unsafe impl<T: IoBufMut> IoBufMut for Receiving<T> {
    fn write_ptr(&mut self) -> *mut u8 {
        self.0.write_ptr()
    }

    fn bytes_total(&mut self) -> usize {
        self.0.bytes_total()
    }

    unsafe fn set_init(&mut self, _: usize) {}
}

/// The first `len` bytes of `buffer`, which have just been received.
#[expect(unsafe_code, reason = "IoBufMut has no safe view of its memory")]
fn received(buffer: &mut impl IoBufMut, len: usize) -> &mut [u8] {
    assert!(len <= buffer.bytes_total());
    // SAFETY: an IoBufMut has bytes_total() bytes at write_ptr() for as long as it lives, the reader
    // has initialised the first `len` of them, and nobody else has it meanwhile.
    unsafe { slice::from_raw_parts_mut(buffer.write_ptr(), len) }
}

/// Copies `bytes` to the start of `buffer`, as far as it has room, and returns how many.
#[expect(unsafe_code, reason = "IoBufMut has no safe view of its memory")]
pub(super) fn fill(buffer: &mut impl IoBufMut, bytes: &[u8]) -> usize {
    let len = bytes.len().min(buffer.bytes_total());
    // SAFETY: an IoBufMut has bytes_total() bytes at write_ptr(), which are its own and so apart from
    // `bytes`; `len` of them are initialised here.
    unsafe {
        buffer.write_ptr().copy_from_nonoverlapping(bytes.as_ptr(), len);
        buffer.set_init(len);
    }
    len
}

/// The bytes of a buffer that is to be written.
#[expect(unsafe_code, reason = "IoBuf has no safe view of its bytes")]
pub(super) fn written(buffer: &impl IoBuf) -> &[u8] {
    // SAFETY: an IoBuf has bytes_init() initialised bytes at read_ptr() for as long as it lives.
    unsafe { slice::from_raw_parts(buffer.read_ptr(), buffer.bytes_init()) }
}

/// A stream that speaks TLS.
pub struct TlsStream<R, W> {
    reader: TlsReader<R>,
    writer: TlsWriter<W>,
}

impl<R: AsyncReadRent, W: AsyncWriteRent> TlsStream<R, W> {
    /// A stream over the halves of another, of a session whose handshake is still to come.
    pub fn new(session: TlsSession, reader: R, writer: W) -> Self {
        let shared = Shared { session, pending: Vec::new(), taken_len: 0 };
        let shared = Rc::new(RefCell::new(shared));
        Self {
            reader: TlsReader { half: reader, shared: shared.clone(), failure: None },
            writer: TlsWriter { half: writer, shared, is_broken: false },
        }
    }

    /// Goes through the handshake; `early` has arrived before. A server's tickets go out with its
    /// first write.
    pub async fn shake_hands(&mut self, mut early: Vec<u8>) -> Result<(), HandshakeError> {
        let mut opened = self.open_early(&mut early);
        let mut buffer = early;
        loop {
            if opened.is_err() || !self.may_wait_with_output() {
                let flushed = self.writer.flush().await;
                // What went wrong first counts; the peer may be gone already.
                opened?;
                flushed?;
            }
            if self.with_session(|session| !session.is_handshaking()) {
                return Ok(());
            }
            buffer.clear();
            buffer.reserve_exact(HANDSHAKE_READ_LEN);
            let (received, filled) = self.reader.half.read(buffer).await;
            buffer = filled;
            if received? == 0 {
                return Err(TlsError::from(TlsFault::CutOff).into());
            }
            opened = self.open_early(&mut buffer);
        }
    }

    /// Decrypts what arrives during the handshake. Plaintext that comes behind it is kept.
    fn open_early(&mut self, bytes: &mut [u8]) -> Result<(), TlsError> {
        let shared = &mut *self.reader.shared.borrow_mut();
        shared.session.open(bytes, &mut shared.pending).map(drop)
    }

    /// Whether what the session has to say may go out with the first write: the tickets of TLS 1.3.
    fn may_wait_with_output(&self) -> bool {
        self.with_session(|session| {
            !session.is_handshaking()
                && session.is_server()
                && session.protocol_version() == Some(ProtocolVersion::TLSv1_3)
        })
    }

    /// Asks the session something.
    pub fn with_session<T>(&self, ask: impl FnOnce(&TlsSession) -> T) -> T {
        ask(&self.reader.shared.borrow().session)
    }

    /// The halves, which can be used at the same time.
    pub fn into_split(self) -> (TlsReader<R>, TlsWriter<W>) {
        (self.reader, self.writer)
    }

    /// The session, the plaintext that nobody has read yet, and the halves of the stream below.
    pub fn into_parts(self) -> (TlsSession, Vec<u8>, R, W) {
        let Self { reader, writer } = self;
        drop(writer.shared);
        let Ok(shared) = Rc::try_unwrap(reader.shared) else {
            unreachable!("the other half is gone")
        };
        let Shared { session, mut pending, taken_len } = shared.into_inner();
        pending.drain(..taken_len);
        (session, pending, reader.half, writer.half)
    }

    /// The halves of the stream below, once no more TLS is spoken.
    pub fn into_below(self) -> (R, W) {
        (self.reader.half, self.writer.half)
    }
}

impl<R: TryRead, W: AsyncWriteRent> WaitReadable for TlsStream<R, W> {
    fn readable(&mut self) -> impl Future<Output = io::Result<()>> {
        self.reader.readable()
    }
}

impl<R: TryRead, W: AsyncWriteRent> Duplex for TlsStream<R, W> {
    type Reader = TlsReader<R>;
    type Writer = TlsWriter<W>;

    fn split(self) -> (TlsReader<R>, TlsWriter<W>) {
        self.into_split()
    }
}

impl<R: AsyncReadRent, W> AsyncReadRent for TlsStream<R, W> {
    fn read<T: IoBufMut>(&mut self, buffer: T) -> impl Future<Output = BufResult<usize, T>> {
        self.reader.read(buffer)
    }

    fn readv<T: IoVecBufMut>(&mut self, buffers: T) -> impl Future<Output = BufResult<usize, T>> {
        self.reader.readv(buffers)
    }
}

impl<R, W: AsyncWriteRent> AsyncWriteRent for TlsStream<R, W> {
    fn write<T: IoBuf>(&mut self, buffer: T) -> impl Future<Output = BufResult<usize, T>> {
        self.writer.write(buffer)
    }

    fn writev<T: IoVecBuf>(&mut self, buffers: T) -> impl Future<Output = BufResult<usize, T>> {
        self.writer.writev(buffers)
    }

    fn flush(&mut self) -> impl Future<Output = io::Result<()>> {
        self.writer.flush()
    }

    fn shutdown(&mut self) -> impl Future<Output = io::Result<()>> {
        self.writer.shutdown()
    }
}

/// The half that is read. The end of the stream is the peer's `close_notify`, or the end of the stream
/// below: WebSocket and HTTP tell a message that is cut off from one that is whole.
pub struct TlsReader<R> {
    half: R,
    shared: Rc<RefCell<Shared>>,
    /// What [`readable`](WaitReadable::readable) has met, for the next read. The end of the stream
    /// below is [`UnexpectedEof`](io::ErrorKind::UnexpectedEof).
    failure: Option<io::Error>,
}

impl<R> TlsReader<R> {
    /// What can be said without the stream below: pending plaintext, the end, or an error.
    fn at_hand(&mut self, buffer: &mut impl IoBufMut) -> Option<io::Result<usize>> {
        let shared = &mut *self.shared.borrow_mut();
        match shared.take_pending(buffer) {
            0 if shared.session.is_closed_by_peer() => Some(Ok(0)),
            0 => match self.failure.take()? {
                end if end.kind() == io::ErrorKind::UnexpectedEof => Some(Ok(0)),
                error => Some(Err(error)),
            },
            taken => Some(Ok(taken)),
        }
    }

    /// Whether [`at_hand`](Self::at_hand) has something to say.
    fn is_readable(&self) -> bool {
        let shared = self.shared.borrow();
        self.failure.is_some() || shared.session.is_closed_by_peer() || !shared.pending.is_empty()
    }

    /// Takes what the stream below has received; `None` if there is no plaintext in it.
    fn take_received(
        &mut self,
        received: io::Result<usize>,
        buffer: &mut impl IoBufMut,
    ) -> Option<io::Result<usize>> {
        match received {
            Ok(0) | Err(_) => Some(received),
            Ok(len) => match self.shared.borrow_mut().decrypt(buffer, len) {
                Ok(0) => None,
                Ok(len) => Some(Ok(len)),
                Err(error) => Some(Err(broken(error))),
            },
        }
    }
}

impl<R: AsyncReadRent> AsyncReadRent for TlsReader<R> {
    async fn read<T: IoBufMut>(&mut self, mut buffer: T) -> BufResult<usize, T> {
        loop {
            if let Some(taken) = self.at_hand(&mut buffer) {
                return (taken, buffer);
            }
            let (received, Receiving(filled)) = self.half.read(Receiving(buffer)).await;
            buffer = filled;
            if let Some(taken) = self.take_received(received, &mut buffer) {
                return (taken, buffer);
            }
        }
    }

    async fn readv<T: IoVecBufMut>(&mut self, buffers: T) -> BufResult<usize, T> {
        (Err(io::ErrorKind::Unsupported.into()), buffers)
    }
}

impl<R: TryRead> WaitReadable for TlsReader<R> {
    /// Decrypts what arrives until there is plaintext for the next read, of one record or more.
    async fn readable(&mut self) -> io::Result<()> {
        while !self.is_readable() {
            self.half.readable().await?;
            // Nothing is awaited while bytes are between the streams, so none are lost if this is
            // dropped.
            with_ciphertext(|ciphertext| match self.half.try_read(ciphertext) {
                Ok(0) => self.failure = Some(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    let shared = &mut *self.shared.borrow_mut();
                    let opened = shared.session.open(&mut ciphertext[..len], &mut shared.pending);
                    self.failure = opened.err().map(broken);
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => self.failure = Some(error),
            });
        }
        Ok(())
    }
}

/// Whether a read may succeed if it is tried again.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The half that is written.
pub struct TlsWriter<W> {
    half: W,
    shared: Rc<RefCell<Shared>>,
    /// A write failed or was given up in the middle, so that records are missing.
    is_broken: bool,
}

impl<W: AsyncWriteRent> TlsWriter<W> {
    /// Sends the first `len` bytes of a buffer of the thread's.
    async fn send(&mut self, mut records: Vec<u8>, len: usize) -> io::Result<()> {
        if self.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.is_broken = true;
        let mut sent_len = 0;
        while sent_len < len {
            let (sent, part) = self.half.write(records.slice(sent_len..len)).await;
            records = part.into_inner();
            match sent? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                sent => sent_len += sent,
            }
        }
        self.is_broken = false;
        give_back_records(records);
        Ok(())
    }
}

impl<W: AsyncWriteRent> AsyncWriteRent for TlsWriter<W> {
    async fn write<T: IoBuf>(&mut self, buffer: T) -> BufResult<usize, T> {
        loop {
            let mut records = take_records();
            let sealed = {
                let bytes = written(&buffer);
                let bytes = &bytes[..bytes.len().min(WRITE_LEN_MAX)];
                self.shared.borrow_mut().session.seal_into(bytes, &mut records)
            };
            let sealed = match sealed {
                Ok(sealed) => sealed,
                Err(error) => return (Err(broken(error)), buffer),
            };
            if let Err(error) = self.send(records, sealed.len).await {
                return (Err(error), buffer);
            }
            // What the session itself had to say may have left no room.
            if sealed.taken > 0 || buffer.bytes_init() == 0 {
                return (Ok(sealed.taken), buffer);
            }
        }
    }

    async fn writev<T: IoVecBuf>(&mut self, buffers: T) -> BufResult<usize, T> {
        (Err(io::ErrorKind::Unsupported.into()), buffers)
    }

    /// Sends what the session itself has to say.
    async fn flush(&mut self) -> io::Result<()> {
        let mut output = Vec::new();
        self.shared.borrow_mut().session.take_output(&mut output);
        let len = output.len();
        if len > 0 { self.send(output, len).await } else { Ok(()) }
    }

    /// Sends `close_notify`, or the alert that says why the session has failed, and ends the write side
    /// of the stream below.
    async fn shutdown(&mut self) -> io::Result<()> {
        let mut output = Vec::new();
        self.shared.borrow_mut().session.close(&mut output);
        let len = output.len();
        // A peer that is gone needs no close_notify.
        let _ = self.send(output, len).await;
        self.half.shutdown().await
    }
}
