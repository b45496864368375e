//! How connections are opened: from a socket to the end of the opening handshake.

use std::time::{Duration, Instant};

use http::HeaderValue;
use monoio::time::{timeout, timeout_at};

use super::{
    halves::{ReadHalf, WriteHalf},
    handshake::{Accepted, Answer, Handshake, HandshakeError, RESPONSE_HEAD_LEN_MAX},
    opening_error::OpeningError,
    refusal::Refusal,
    request::{Field, Request, Subprotocol},
    stream,
    stream::{Endpoint, SocketClosing, Sources, Stream},
    target::Target,
    tls::Tls,
};

/// Bytes of a response head that are read at once.
const READ_LEN: usize = 4 * 1024;

/// How long a line of a refusal's body is waited for.
const BODY_WAIT: Duration = Duration::from_millis(250);

/// What a client asks for in its opening handshake, beside what it has to.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// More header fields.
    pub fields: Vec<Field>,
    /// Subprotocols, the best first.
    pub subprotocols: Vec<Subprotocol>,
    /// The origin that a browser's page would have.
    pub origin: Option<HeaderValue>,
}

/// How long opening a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The time until the socket is connected and TLS is spoken.
    pub connect: Duration,
    /// The time until the opening handshake is done.
    pub opening: Duration,
}

/// Opens connections that are all alike.
#[derive(Debug)]
pub struct Connector {
    url: String,
    endpoint: Endpoint,
    sources: Sources,
    tls: Option<Tls>,
    request: Request,
    limits: Limits,
    /// What closing a socket does.
    closing: SocketClosing,
}

impl Connector {
    /// Opens connections to `endpoint`, where `target` was found.
    pub fn new(
        target: &Target,
        endpoint: Endpoint,
        sources: Sources,
        tls: Option<Tls>,
        wishes: &Wishes,
        limits: Limits,
    ) -> Self {
        let Wishes { fields, subprotocols, origin } = wishes;
        Self {
            url: target.url().to_owned(),
            endpoint,
            sources,
            tls,
            request: Request::new(target, fields, subprotocols, origin.as_ref()),
            limits,
            closing: SocketClosing::InOrder,
        }
    }

    /// The same, with an offer of permessage-deflate or without.
    #[must_use]
    pub fn offering_compression(self, compression: bool) -> Self {
        Self { request: self.request.offering_compression(compression), ..self }
    }

    /// The same, with sockets that are reset when they are closed. Unix sockets know no reset.
    #[must_use]
    pub fn resetting(self) -> Self {
        Self { closing: SocketClosing::Reset, ..self }
    }

    /// Where connections go to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Opens a connection with `nonce` as the key of its opening handshake.
    pub(crate) async fn open(&self, nonce: [u8; 16]) -> Result<OpenConnection, OpeningError> {
        let limit = self.limits.opening;
        let deadline = Instant::now() + limit;
        match timeout(limit, self.open_until(deadline, nonce)).await {
            Ok(opened) => opened,
            Err(_) => Err(OpeningError::OpeningTimeout(limit)),
        }
    }

    async fn open_until(
        &self,
        deadline: Instant,
        nonce: [u8; 16],
    ) -> Result<OpenConnection, OpeningError> {
        let limit = self.limits.connect;
        let mut stream = match timeout(limit, self.connect()).await {
            Ok(connected) => connected?,
            Err(_) => return Err(OpeningError::ConnectTimeout(limit)),
        };
        let (early, compression) = match &mut stream {
            Stream::Plain(reader, writer) => {
                self.shake_hands(deadline, nonce, reader, writer).await?
            }
            Stream::Tls(halves) => {
                let (reader, writer) = &mut **halves;
                self.shake_hands(deadline, nonce, reader, writer).await?
            }
        };
        Ok(OpenConnection { stream, early, compression })
    }

    async fn connect(&self) -> Result<Stream, OpeningError> {
        let halves = stream::connect(&self.endpoint, &self.sources, self.closing);
        let (read_half, write_half) = halves.await.map_err(OpeningError::Connect)?;
        let Some(tls) = &self.tls else {
            return Ok(Stream::Plain(read_half, write_half));
        };
        let secured = tls.connect(read_half, write_half).await;
        Ok(Stream::Tls(Box::new(secured.map_err(OpeningError::Tls)?)))
    }

    /// The opening handshake. Returns what arrived behind the response head, and whether messages
    /// may be compressed.
    async fn shake_hands(
        &self,
        deadline: Instant,
        nonce: [u8; 16],
        reader: &mut impl ReadHalf,
        writer: &mut impl WriteHalf,
    ) -> Result<(Vec<u8>, bool), OpeningError> {
        let handshake = Handshake::new(&self.request, nonce);
        let (sent, _) = writer.write_all(handshake.request()).await;
        sent.map_err(|_| OpeningError::HandshakeCutOff)?;

        let mut response = Vec::new();
        loop {
            let (read, chunk) = reader.read(Vec::with_capacity(READ_LEN)).await;
            match read {
                Ok(0) | Err(_) => return Err(OpeningError::HandshakeCutOff),
                Ok(_) => response.extend_from_slice(&chunk),
            }
            match handshake.check(&response)? {
                Some(Answer::Accepted(Accepted { head_len, compression })) => {
                    return Ok((response.split_off(head_len), compression));
                }
                Some(Answer::Refused(refusal)) => {
                    let mut body = response.split_off(refusal.head_len);
                    // It is refused in any case, with a reason or without.
                    let until = deadline.min(Instant::now() + BODY_WAIT);
                    let read = read_line(&refusal, &mut body, reader);
                    let _ = timeout_at(until.into(), read).await;
                    return Err(handshake.explain(refusal, &body).into());
                }
                None if response.len() > RESPONSE_HEAD_LEN_MAX => {
                    return Err(HandshakeError::HeadTooLong.into());
                }
                None => {}
            }
        }
    }
}

/// Reads what a refusal says into `body`, up to the end of a line.
async fn read_line(refusal: &Refusal, body: &mut Vec<u8>, reader: &mut impl ReadHalf) {
    while !refusal.is_told(body) {
        let (read, chunk) = reader.read(Vec::with_capacity(READ_LEN)).await;
        match read {
            Ok(0) | Err(_) => return,
            Ok(_) => body.extend_from_slice(&chunk),
        }
    }
}

/// A connection after its opening handshake.
pub(crate) struct OpenConnection {
    pub(crate) stream: Stream,
    /// What arrived behind the response head.
    pub(crate) early: Vec<u8>,
    /// Whether messages may be compressed.
    pub(crate) compression: bool,
}
