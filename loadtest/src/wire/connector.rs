//! How connections are opened: from a socket to the end of the opening handshake.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use http::HeaderValue;
use monoio::time::timeout;

use super::{
    halves::{ReadHalf, WriteHalf},
    handshake::{Accepted, Answer, Handshake, HandshakeError, RESPONSE_HEAD_LEN_MAX},
    opening_error::OpeningError,
    refusal::BODY_WAIT,
    request::{Field, Request, Subprotocol},
    route::Route,
    stream::{SocketClosing, Sources, Stream},
    target::Target,
    tls::Tls,
};

/// Bytes of a response head that are read at once.
const READ_LEN: usize = 4 * 1024;

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
    /// The time until the socket is connected, a proxy has done its part, and TLS is spoken.
    pub connect: Duration,
    /// The time until the opening handshake is done.
    pub opening: Duration,
}

/// Opens connections that are all alike.
#[derive(Debug)]
pub struct Connector {
    url: String,
    /// The URLs that have redirected to it, the one that was asked for first.
    redirects: Vec<String>,
    route: Route,
    sources: Sources,
    tls: Option<Tls>,
    request: Request,
    limits: Limits,
    /// What closing a socket does.
    closing: SocketClosing,
}

impl Connector {
    /// Opens connections by `route`, which leads to `target`.
    pub fn new(
        target: &Target,
        route: impl Into<Route>,
        sources: Sources,
        tls: Option<Tls>,
        wishes: &Wishes,
        limits: Limits,
    ) -> Self {
        let Wishes { fields, subprotocols, origin } = wishes;
        Self {
            url: target.url().to_owned(),
            redirects: Vec::new(),
            route: route.into(),
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

    /// The same, whose URL these have led to, the one that was asked for first.
    #[must_use]
    pub fn redirected_from(self, redirects: Vec<String>) -> Self {
        Self { redirects, ..self }
    }

    /// Where connections go to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URLs that have redirected to it.
    pub(crate) fn redirects(&self) -> &[String] {
        &self.redirects
    }

    /// How connections go there.
    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    /// Opens a connection with `nonce` as the key of its opening handshake.
    pub(crate) async fn open(&self, nonce: [u8; 16]) -> Result<OpenConnection, OpeningError> {
        let limit = self.limits.opening;
        let deadline = Instant::now() + limit;
        let is_routed = Cell::new(false);
        match timeout(limit, self.open_until(deadline, nonce, &is_routed)).await {
            Ok(opened) => opened,
            Err(_) => Err(self.late(limit, &is_routed, OpeningError::OpeningTimeout)),
        }
    }

    /// The error of what took longer than `limit`: the proxy's, if there is no connection to the
    /// server yet.
    fn late(
        &self,
        limit: Duration,
        is_routed: &Cell<bool>,
        otherwise: fn(Duration) -> OpeningError,
    ) -> OpeningError {
        match self.route.proxy() {
            Some((proxy, _)) if !is_routed.get() => {
                OpeningError::ProxyTimeout { url: proxy.url().to_owned(), limit }
            }
            _ => otherwise(limit),
        }
    }

    async fn open_until(
        &self,
        deadline: Instant,
        nonce: [u8; 16],
        is_routed: &Cell<bool>,
    ) -> Result<OpenConnection, OpeningError> {
        let limit = self.limits.connect;
        let mut stream = match timeout(limit, self.connect(is_routed)).await {
            Ok(connected) => connected?,
            Err(_) => return Err(self.late(limit, is_routed, OpeningError::ConnectTimeout)),
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

    /// Connects, and says when there is a connection to the server.
    async fn connect(&self, is_routed: &Cell<bool>) -> Result<Stream, OpeningError> {
        let (read_half, write_half) = self.route.connect(&self.sources, self.closing).await?;
        is_routed.set(true);
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
                    let until = deadline.min(Instant::now() + BODY_WAIT);
                    refusal.hear(&mut body, reader, until).await;
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

/// A connection after its opening handshake.
pub(crate) struct OpenConnection {
    pub(crate) stream: Stream,
    /// What arrived behind the response head.
    pub(crate) early: Vec<u8>,
    /// Whether messages may be compressed.
    pub(crate) compression: bool,
}
