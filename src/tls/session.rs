//! One TLS session without I/O, of either side: ciphertext in, plaintext out, and back.
//!
//! rustls decrypts each record where it was received. What a session keeps between two calls is a
//! part of a record that has not arrived whole (of a message, during the handshake), and what waits
//! to be sent. Invariant: [`TlsSession::open`] leaves no whole record behind, so what is kept is
//! shorter than [`RECORD_LEN_MAX`], and shorter than [`HANDSHAKE_LEN_MAX`] and one chunk during the
//! handshake.

use std::{cell::RefCell, mem, sync::Arc};

use rustls::{
    ClientConfig, CommonState, Error, ExtractedSecrets, HandshakeKind, ProtocolVersion,
    ServerConfig, SupportedCipherSuite,
    client::{ClientConnectionData, UnbufferedClientConnection},
    pki_types::{CertificateDer, ServerName},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{
        ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
    },
};

use super::{TlsError, TlsFault};

/// Bytes of plaintext in a record, at most (RFC 8446 §5.1).
pub const RECORD_PAYLOAD_MAX: usize = 1 << 14;

/// Bytes of a record, at most: its header, the payload, and what TLS 1.2 lets encryption add.
pub const RECORD_LEN_MAX: usize = RECORD_HEADER_LEN + RECORD_PAYLOAD_MAX + 2048;

/// Bytes that a peer may send for a handshake: a long chain of certificates has some 10 KiB.
pub const HANDSHAKE_LEN_MAX: usize = 64 << 10;

/// Content type, version, and length (RFC 8446 §5.1).
const RECORD_HEADER_LEN: usize = 5;

/// What a record of TLS 1.3 has beside its payload: header, content type, and tag (§5.2).
const OVERHEAD_13: usize = RECORD_HEADER_LEN + 1 + 16;

/// What a record of TLS 1.2 has beside its payload, at most: header, explicit nonce, and tag.
const OVERHEAD_12: usize = RECORD_HEADER_LEN + 8 + 16;

/// Bytes of an encrypted alert, at most.
const ALERT_LEN_MAX: usize = OVERHEAD_12 + 2;

thread_local! {
    /// The name that the last `ClientHello` on this thread asked for.
    static SERVER_NAME: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// Tells the session whose handshake goes on which name its client asks for. A resolver of
/// certificates calls it, since rustls tells nobody else.
pub fn note_server_name(name: Option<&str>) {
    SERVER_NAME.set(name.map(Into::into));
}

/// What [`TlsSession::open`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The peer has said that it sends nothing more (`close_notify`). Later bytes are ignored.
    pub is_closed: bool,
}

/// What [`TlsSession::seal_into`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Bytes of the plaintext that are in the records; the others found no room.
    pub taken: usize,
    /// Bytes that are to be sent.
    pub len: usize,
}

enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// Does the same with the connection of either side.
macro_rules! with_connection {
    ($side:expr, $connection:ident => $what:expr) => {
        match $side {
            Side::Server($connection) => $what,
            Side::Client($connection) => $what,
        }
    };
}

/// A TLS session. The caller gives it what arrives, and sends what it has to say.
pub struct TlsSession {
    side: Side,
    /// What arrived of a record that is not whole.
    kept: Vec<u8>,
    /// What waits to be sent: handshake flights, alerts.
    output: Vec<u8>,
    /// Bytes that arrived while the handshake went on.
    handshake_len: usize,
    server_name: Option<Box<str>>,
    /// The peer sends nothing more.
    is_peer_done: bool,
    /// We send nothing more.
    is_done: bool,
    /// Its configuration lets it give its keys away.
    gives_keys: bool,
    failure: Option<Box<TlsError>>,
}

impl TlsSession {
    /// The server's side.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let gives_keys = config.enable_secret_extraction;
        let session = Self::new(Side::Server(UnbufferedServerConnection::new(config)?));
        Ok(Self { gives_keys, ..session })
    }

    /// The client's side, of a session with `name`. Its `ClientHello` waits to be sent.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, TlsError> {
        let mut session = Self::new(Side::Client(UnbufferedClientConnection::new(config, name)?));
        session.open(&mut [], &mut Vec::new())?;
        Ok(session)
    }

    fn new(side: Side) -> Self {
        Self {
            side,
            kept: Vec::new(),
            output: Vec::new(),
            handshake_len: 0,
            server_name: None,
            is_peer_done: false,
            is_done: false,
            gives_keys: false,
            failure: None,
        }
    }

    /// Decrypts what has arrived, in place, and appends the payload of every whole record to
    /// `plaintext`; a part of a record is kept until the rest comes. There may be
    /// [output](Self::has_output) afterwards, also after an error: the alert that tells the peer.
    ///
    /// After an error every further call fails in the same way.
    pub fn open(
        &mut self,
        received: &mut [u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<Opened, TlsError> {
        if let Some(failure) = &self.failure {
            return Err((**failure).clone());
        }
        let was_handshaking = self.is_handshaking();
        if was_handshaking {
            self.handshake_len += received.len();
            SERVER_NAME.take();
        }
        let mut rest = self.complete_kept(received, plaintext)?;
        if !self.is_peer_done && self.kept.is_empty() {
            let consumed = self.advance(rest, plaintext)?;
            rest = &mut rest[consumed..];
            if !self.is_peer_done {
                self.kept.extend_from_slice(rest);
            }
        }
        if self.kept.is_empty() || self.is_peer_done {
            // No buffer is kept while nothing is in it.
            self.kept = Vec::new();
        }
        if was_handshaking {
            self.check_handshake()?;
        } else if self.kept.len() >= RECORD_LEN_MAX {
            return Err(self.fail(TlsFault::RecordTooLong.into()));
        }
        Ok(Opened { is_closed: self.is_peer_done })
    }

    /// Completes what is kept from what has arrived, as far as it reaches, and processes it. Returns
    /// what has not been used; nothing is kept then, unless nothing is left.
    fn complete_kept<'r>(
        &mut self,
        received: &'r mut [u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<&'r mut [u8], TlsError> {
        let mut rest = received;
        while !self.kept.is_empty() && !rest.is_empty() && !self.is_peer_done {
            let wanted = missing_len(&self.kept).min(rest.len());
            let (piece, behind) = rest.split_at_mut(wanted);
            rest = behind;
            self.kept.extend_from_slice(piece);
            let mut kept = mem::take(&mut self.kept);
            let consumed = self.advance(&mut kept, plaintext);
            self.kept = kept;
            self.kept.drain(..consumed?);
        }
        Ok(rest)
    }

    /// Has rustls process `incoming`, and returns how much of it is done with.
    fn advance(&mut self, incoming: &mut [u8], plaintext: &mut Vec<u8>) -> Result<usize, TlsError> {
        let output = &mut self.output;
        let progress = with_connection!(&mut self.side, connection => {
            advance(connection, incoming, plaintext, output)
        });
        self.is_peer_done |= progress.is_closed;
        match progress.result {
            Ok(()) => Ok(progress.consumed),
            Err(error) => {
                with_connection!(&mut self.side, connection => encode_alert(connection, output));
                Err(self.fail(error.into()))
            }
        }
    }

    #[cold]
    fn fail(&mut self, error: TlsError) -> TlsError {
        self.kept = Vec::new();
        self.failure = Some(Box::new(error.clone()));
        error
    }

    /// What has come to light during the handshake, and whether it is too long.
    fn check_handshake(&mut self) -> Result<(), TlsError> {
        if let Some(name) = SERVER_NAME.take() {
            self.server_name = Some(name);
        }
        if self.is_handshaking() && self.handshake_len > HANDSHAKE_LEN_MAX {
            return Err(self.fail(TlsFault::HandshakeTooLong.into()));
        }
        Ok(())
    }

    /// Whether something waits to be sent. What comes of [`seal`](Self::seal),
    /// [`seal_into`](Self::seal_into) and [`close`](Self::close) begins with it.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Appends what waits to be sent to `out`.
    pub fn take_output(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.output);
        self.output = Vec::new();
    }

    /// Bytes that [`seal`](Self::seal) would append for so many bytes of plaintext, at most, unless
    /// the keys are to be changed.
    pub fn sealed_len(&self, plaintext_len: usize) -> usize {
        let records = plaintext_len.div_ceil(RECORD_PAYLOAD_MAX);
        self.output.len() + plaintext_len + records * self.record_overhead()
    }

    /// Appends all of `plaintext` to `out`, encrypted, in records behind one another.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        let mut taken = 0;
        // The second round is for what a change of keys has displaced.
        while self.has_output() || taken < plaintext.len() {
            let rest = &plaintext[taken..];
            let filled = out.len();
            out.resize(filled + self.sealed_len(rest.len()) + ALERT_LEN_MAX, 0);
            let sealed = self.seal_into(rest, &mut out[filled..]);
            out.truncate(filled + sealed.as_ref().map_or(0, |sealed| sealed.len));
            taken += sealed?.taken;
        }
        Ok(())
    }

    /// Writes as much of `plaintext` into `place` as finds room there, encrypted, in records behind
    /// one another. Both counts are 0 if there is no room for anything.
    pub fn seal_into(&mut self, plaintext: &[u8], place: &mut [u8]) -> Result<Sealed, TlsError> {
        if let Some(failure) = &self.failure {
            return Err((**failure).clone());
        }
        let output_len = self.output.len().min(place.len());
        let (front, place) = place.split_at_mut(output_len);
        front.copy_from_slice(&self.output[..output_len]);
        self.output.drain(..output_len);
        if self.has_output() {
            return Ok(Sealed { taken: 0, len: output_len });
        }
        self.output = Vec::new();

        let mut taken = plaintext.len().min(self.payload_len_in(place.len()));
        let mut required = 0;
        while taken > 0 {
            match self.encrypt(&plaintext[..taken], place)? {
                Ok(len) => return Ok(Sealed { taken, len: output_len + len }),
                // Something of rustls' own comes before, such as a change of keys.
                Err(len) if len != required => {
                    required = len;
                    taken = taken.saturating_sub(required.saturating_sub(place.len()));
                }
                Err(_) => break,
            }
        }
        Ok(Sealed { taken: 0, len: output_len })
    }

    /// Encrypts all of `plaintext`, or says how much room that would need.
    fn encrypt(
        &mut self,
        plaintext: &[u8],
        place: &mut [u8],
    ) -> Result<Result<usize, usize>, TlsError> {
        let Self { side, kept, output, .. } = self;
        let encrypted = with_connection!(side, connection => {
            while_writing(connection, kept, output, |mut traffic| traffic.encrypt(plaintext, place))
        });
        match encrypted {
            Ok(Some(Ok(len))) => Ok(Ok(len)),
            Ok(Some(Err(EncryptError::InsufficientSize(size)))) => Ok(Err(size.required_size)),
            Ok(Some(Err(EncryptError::EncryptExhausted))) => {
                Err(self.fail(Error::EncryptError.into()))
            }
            // The caller sends it first.
            Ok(None) => Ok(Err(usize::MAX)),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// The longest plaintext whose records are no longer than `len`.
    fn payload_len_in(&self, len: usize) -> usize {
        let overhead = self.record_overhead();
        let record_len = RECORD_PAYLOAD_MAX + overhead;
        let rest = (len % record_len).saturating_sub(overhead);
        len / record_len * RECORD_PAYLOAD_MAX + rest
    }

    fn record_overhead(&self) -> usize {
        match self.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => OVERHEAD_13,
            _ => OVERHEAD_12,
        }
    }

    /// Appends what waits to be sent to `out`, and then `close_notify`: we send nothing more. Before the
    /// end of the handshake, and after an error, there is no `close_notify`.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        self.take_output(out);
        if self.failure.is_some() || mem::replace(&mut self.is_done, true) {
            return;
        }
        let mut place = vec![0; ALERT_LEN_MAX];
        loop {
            let Self { side, kept, output, .. } = self;
            let notified = with_connection!(side, connection => {
                while_writing(connection, kept, output, |mut traffic| {
                    traffic.queue_close_notify(&mut place)
                })
            });
            self.take_output(out);
            match notified {
                Ok(Some(Ok(len))) => return out.extend_from_slice(&place[..len]),
                // Something of rustls' own comes before.
                Ok(Some(Err(EncryptError::InsufficientSize(size))))
                    if size.required_size > place.len() =>
                {
                    place.resize(size.required_size, 0);
                }
                Ok(None) => {}
                Ok(Some(Err(_))) | Err(_) => return,
            }
        }
    }

    /// Whether [`into_secrets`](Self::into_secrets) may be called: the configuration allows it
    /// ([`ServerConfig::enable_secret_extraction`]), and the session is between two records, with
    /// nothing to send.
    pub fn may_give_keys_away(&self) -> bool {
        self.gives_keys
            && !self.is_handshaking()
            && self.kept.is_empty()
            && !self.has_output()
            && !self.is_peer_done
            && !self.is_done
            && self.failure.is_none()
    }

    /// The keys of both directions, with the numbers of their next records.
    pub fn into_secrets(self) -> Result<ExtractedSecrets, TlsError> {
        Ok(match self.side {
            Side::Server(connection) => connection.dangerous_into_kernel_connection()?.0,
            Side::Client(connection) => connection.dangerous_into_kernel_connection()?.0,
        })
    }

    /// Whether this is the server's side.
    pub fn is_server(&self) -> bool {
        matches!(self.side, Side::Server(_))
    }

    /// Whether the handshake is still going on.
    pub fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// Whether the peer has said that it sends nothing more.
    pub fn is_closed_by_peer(&self) -> bool {
        self.is_peer_done
    }

    /// The application protocol that both sides agreed on (ALPN).
    pub fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    /// The name that the client asked for (SNI), on the server's side, if the resolver of its
    /// certificates calls [`note_server_name`].
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The peer's own certificate, once it has shown one.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.common().peer_certificates()?.first()
    }

    /// Whether the handshake went by a ticket of an earlier session; false until that is known.
    pub fn is_resumed(&self) -> bool {
        self.common().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The version that both sides agreed on.
    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.common().protocol_version()
    }

    /// The cipher suite that both sides agreed on.
    pub fn cipher_suite(&self) -> Option<SupportedCipherSuite> {
        self.common().negotiated_cipher_suite()
    }

    /// Bytes of memory that the session holds beside itself and what rustls holds.
    pub fn held_len(&self) -> usize {
        self.kept.capacity() + self.output.capacity()
    }

    fn common(&self) -> &CommonState {
        with_connection!(&self.side, connection => connection)
    }
}

/// Bytes that are missing in `kept` until its first record is whole, or its header. If that record is
/// whole and rustls has not done with it, a message goes on in the next one, however long it is.
fn missing_len(kept: &[u8]) -> usize {
    let Some(&[_, _, _, high, low]) = kept.first_chunk() else {
        return RECORD_HEADER_LEN - kept.len();
    };
    let record_len = RECORD_HEADER_LEN + usize::from(u16::from_be_bytes([high, low]));
    match record_len.saturating_sub(kept.len()) {
        0 => usize::MAX,
        missing => missing,
    }
}

/// A connection of rustls', of either side.
trait Connection {
    type Data;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Whether something is queued to be sent.
    fn has_alert(&self) -> bool;
}

impl Connection for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(incoming)
    }

    fn has_alert(&self) -> bool {
        self.wants_write()
    }
}

impl Connection for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(incoming)
    }

    fn has_alert(&self) -> bool {
        self.wants_write()
    }
}

/// How far [`advance`] came.
struct Progress {
    /// Bytes that are done with.
    consumed: usize,
    is_closed: bool,
    result: Result<(), Error>,
}

/// Has rustls process all whole records of `incoming`.
fn advance<C: Connection>(
    connection: &mut C,
    incoming: &mut [u8],
    plaintext: &mut Vec<u8>,
    output: &mut Vec<u8>,
) -> Progress {
    let mut progress = Progress { consumed: 0, is_closed: false, result: Ok(()) };
    loop {
        let UnbufferedStatus { mut discard, state } =
            connection.process(&mut incoming[progress.consumed..]);
        let mut is_over = false;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    match record {
                        Ok(record) => {
                            plaintext.extend_from_slice(record.payload);
                            discard += record.discard;
                        }
                        Err(error) => return Progress { result: Err(error), ..progress },
                    }
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, output),
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => progress.is_closed = true,
            // Early data is never offered and never accepted, so nothing else has more to do.
            Ok(_) => is_over = true,
            Err(error) => return Progress { result: Err(error), ..progress },
        }
        progress.consumed += discard;
        if is_over {
            return progress;
        }
    }
}

/// Calls `write` in the state in which rustls lets something be written; `None` if something of its
/// own has come into `output`, which is to be sent before.
fn while_writing<C: Connection, T>(
    connection: &mut C,
    kept: &mut [u8],
    output: &mut Vec<u8>,
    write: impl FnOnce(WriteTraffic<'_, C::Data>) -> T,
) -> Result<Option<T>, TlsError> {
    loop {
        // rustls looks for messages where it has found a part of one before.
        match connection.process(kept).state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, output),
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => {}
            Ok(ConnectionState::WriteTraffic(traffic)) if output.is_empty() => {
                return Ok(Some(write(traffic)));
            }
            Ok(ConnectionState::WriteTraffic(_)) => return Ok(None),
            Ok(ConnectionState::Closed) => return Err(TlsFault::Closed.into()),
            Ok(_) => return Err(Error::HandshakeNotComplete.into()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the alert that an error has left behind. rustls must not look at what it has received again.
#[cold]
fn encode_alert<C: Connection>(connection: &mut C, output: &mut Vec<u8>) {
    while connection.has_alert() {
        let Ok(ConnectionState::EncodeTlsData(mut data)) = connection.process(&mut []).state else {
            return;
        };
        encode(&mut data, output);
    }
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, output: &mut Vec<u8>) {
    let filled = output.len();
    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
        output.resize(filled + size.required_size, 0);
        let encoded = data.encode(&mut output[filled..]);
        output.truncate(filled + encoded.unwrap_or(0));
    }
}
