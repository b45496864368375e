//! The TLS door: the handshake of a connection whose listener speaks TLS, and what becomes of one that
//! does not get through.
//!
//! The handshake is within the time of the whole opening (`--handshake-timeout`), and the connection
//! counts as one whose handshake is in progress until its HTTP handshake is over too. What it sends is
//! bounded by `crate::tls`.

use std::{
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use monoio::io::{AsyncReadRent, AsyncWriteRent};
use rustls::{ProtocolVersion, ServerConfig};
use tracing::debug;

use super::{
    Worker,
    conversation::BySecurePlane,
    interruption::{Interruption, unless_interrupted},
    requests::{Caller, conclude},
};
use crate::{
    connection::{ConnectionEnd, Control, linger},
    entry::{admission::Entered, tls::name_of},
    http::{ForeignProtocol, RequestRefusal, Tls, encode_refusal, without_body},
    metrics::RefusalReason,
    plane::Plane,
    stream::Duplex,
    tls::{HandshakeError, TlsError, TlsFault, TlsSession, TlsStream},
};

/// Bytes that are read at first: a `ClientHello` has 0.3 to 2 KiB.
const FIRST_READ_LEN: usize = 4 << 10;

/// What came of a handshake.
enum Opening<R, W> {
    Done(TlsStream<R, W>),
    /// No TLS came, but plain HTTP, or a PROXY header, and whether it is a HEAD request.
    Plain {
        below: (R, W),
        refusal: RequestRefusal,
        is_head: bool,
    },
    /// The peer has been sent an alert, where there is one.
    Failed {
        below: (R, W),
        error: TlsError,
    },
    /// The peer left, or the connection broke.
    PeerLeft,
}

impl<P: Plane> Worker<P> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //# If the connection is happening on an HTTPS (HTTP-over-TLS) port,
    //# perform a TLS handshake over the connection.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-10.6
    //# WebSocket implementations MUST support TLS
    /// Converses over TLS until the connection is over. `received` are the first bytes, as far as they
    /// have arrived.
    pub(super) async fn converse_securely(
        self: &Rc<Self>,
        stream: P::Stream,
        received: BytesMut,
        caller: Caller<'_>,
        control: &Rc<Control>,
        entered: &Entered,
    ) -> Option<ConnectionEnd> {
        let Some(config) = self.service().tls.clone() else {
            // Listeners with TLS are refused at the start if there is no certificate.
            return Some(ConnectionEnd::Refused(RefusalReason::TlsFailed));
        };
        let (reader, writer) = stream.split();
        let began = Instant::now();
        let opening = pin!(open(config, reader, writer, received.into()));
        let end = match within_time(opening, control).await {
            Ok(Opening::Done(stream)) => {
                self.note_handshake(&stream, began, control);
                let carrier = BySecurePlane(&self.plane);
                let is_told = self.service().http_echo.is_some();
                let tls = is_told.then(|| stream.with_session(describe));
                let caller = Caller { tls: tls.as_ref(), ..caller };
                return self
                    .converse_http(stream, BytesMut::new(), carrier, caller, control, entered)
                    .await;
            }
            Ok(Opening::Plain { below: (reader, writer), refusal, is_head }) => {
                entered.handshake_over();
                self.counters.tls.failed.add(1);
                let end = ConnectionEnd::Refused(RefusalReason::from(&refusal));
                let response = plain_refusal(refusal, is_head);
                return Some(conclude(reader, writer, response, end, control, entered).await);
            }
            Ok(Opening::Failed { below: (mut reader, mut writer), error }) => {
                entered.handshake_over();
                debug!(%error, "TLS handshake failed");
                linger(&mut reader, &mut writer, control).await;
                ConnectionEnd::Refused(reason(error.fault()))
            }
            Ok(Opening::PeerLeft) => ConnectionEnd::PeerLeft,
            Err(end) => end,
        };
        self.counters.tls.failed.add(1);
        Some(end)
    }

    /// Counts a handshake that is done, and notes who the client is.
    fn note_handshake<R: AsyncReadRent, W: AsyncWriteRent>(
        &self,
        stream: &TlsStream<R, W>,
        began: Instant,
        control: &Control,
    ) {
        stream.with_session(|session| {
            let is_tls13 = session.protocol_version() == Some(ProtocolVersion::TLSv1_3);
            self.counters.tls.count(session.is_resumed(), is_tls13, began.elapsed());
            if let (Some(certificate), Some(record)) =
                (session.peer_certificate(), control.record())
            {
                record.certified(name_of(certificate));
            }
        });
    }
}

/// What was agreed on, as a request that is sent back tells it.
fn describe(session: &TlsSession) -> Tls {
    Tls {
        version: session.protocol_version().map(|it| format!("{it:?}").replace('_', ".")),
        cipher: session.cipher_suite().map(|it| format!("{:?}", it.suite())),
        sni: session.server_name().map(ToOwned::to_owned),
        alpn: session.alpn().map(|alpn| String::from_utf8_lossy(alpn).into_owned()),
        client_name: session.peer_certificate().map(|it| name_of(it).into()),
    }
}

/// Goes through the handshake.
async fn open<R: AsyncReadRent, W: AsyncWriteRent>(
    config: Arc<ServerConfig>,
    mut reader: R,
    writer: W,
    mut early: Vec<u8>,
) -> Opening<R, W> {
    if early.is_empty() {
        let received;
        (received, early) = reader.read(Vec::with_capacity(FIRST_READ_LEN)).await;
        if !matches!(received, Ok(1..)) {
            return Opening::PeerLeft;
        }
    }
    // No record of TLS begins with a letter or a line's end.
    if matches!(early[0], b'A'..=b'Z' | b'a'..=b'z' | b'\r' | b'\n') {
        let refusal = match ForeignProtocol::recognize(&early) {
            Some(it @ ForeignProtocol::ProxyHeader) => RequestRefusal::Foreign(it),
            _ => RequestRefusal::TlsExpected,
        };
        let is_head = early.starts_with(b"HEAD ");
        return Opening::Plain { below: (reader, writer), refusal, is_head };
    }
    let session = match TlsSession::server(config) {
        Ok(session) => session,
        Err(error) => return Opening::Failed { below: (reader, writer), error },
    };
    let mut stream = TlsStream::new(session, reader, writer);
    match stream.shake_hands(early).await {
        Ok(()) => Opening::Done(stream),
        Err(HandshakeError::Tls(error)) if error.fault() != TlsFault::CutOff => {
            Opening::Failed { below: stream.into_below(), error }
        }
        Err(_) => Opening::PeerLeft,
    }
}

/// Waits for a handshake, unless the worker demands its end. Nobody could be told why: there is no
/// HTTP yet.
async fn within_time<T>(
    opening: Pin<&mut impl Future<Output = T>>,
    control: &Control,
) -> Result<T, ConnectionEnd> {
    unless_interrupted(opening, control).await.map_err(|interruption| match interruption {
        Interruption::TimeOut => ConnectionEnd::Refused(RefusalReason::TlsTimedOut),
        Interruption::Stopping => ConnectionEnd::Refused(RefusalReason::Stopping),
        Interruption::End(end) => end,
    })
}

/// Tells whoever comes without TLS, in plain HTTP, what to change.
fn plain_refusal(refusal: RequestRefusal, is_head: bool) -> Bytes {
    let response = encode_refusal(&refusal.into()).into();
    if is_head { without_body(response) } else { response }
}

/// Under which reason a handshake is counted that failed.
fn reason(fault: TlsFault) -> RefusalReason {
    match fault {
        TlsFault::Malformed
        | TlsFault::Misbehaved
        | TlsFault::RecordTooLong
        | TlsFault::NotDecrypted => RefusalReason::TlsMalformed,
        TlsFault::HandshakeTooLong => RefusalReason::TlsHandshakeTooLong,
        TlsFault::NothingInCommon | TlsFault::NoProtocolInCommon => RefusalReason::TlsIncompatible,
        TlsFault::CertificateMissing => RefusalReason::TlsCertificateMissing,
        TlsFault::CertificateRefused => RefusalReason::TlsCertificateRefused,
        TlsFault::RefusedByPeer(_)
        | TlsFault::Closed
        | TlsFault::CutOff
        | TlsFault::KeysChanged => RefusalReason::TlsRefusedByClient,
        TlsFault::Internal => RefusalReason::TlsFailed,
    }
}
