//! How connections are opened: from a socket to the end of the opening handshake.

use std::{
    cell::Cell,
    io,
    time::{Duration, Instant},
};

use http::HeaderValue;
use monoio::time::timeout;

use super::{
    halves::{ReadHalf, WriteHalf},
    handshake::{Accepted, Answer, Handshake, HandshakeError, RESPONSE_HEAD_LEN_MAX},
    http2::{
        error::Http2Error,
        poll_io,
        pool::{Dialed, TransportPool},
        request::ConnectRequest,
        transport::OpenStream,
    },
    opening_error::{OpeningError, tls_error},
    openings::{Openings, TlsOpening},
    refusal::BODY_WAIT,
    request::{Field, Request, Subprotocol},
    route::Route,
    stream::{Connected, SocketClosing, Sources, Stream},
    target::Target,
    tls::Tls,
};

/// Bytes of a response head that are read at once.
const READ_LEN: usize = 4 * 1024;

/// Bytes that are read at once for all streams of a transport.
const TRANSPORT_READ_LEN: usize = 64 * 1024;

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

/// Streams of HTTP/2 in the place of connections.
#[derive(Clone, Debug)]
pub(crate) struct Http2 {
    pub(crate) request: ConnectRequest,
    /// Connections that streams are spread over, over all threads.
    pub(crate) transports: usize,
    /// Streams that are open at the same time, over all threads.
    pub(crate) connections: usize,
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
    /// What closing a socket does, or a stream.
    closing: SocketClosing,
    http2: Option<Http2>,
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
            http2: None,
        }
    }

    /// The same, with streams of HTTP/2 instead of connections of their own.
    pub(crate) fn over_http2(self, http2: Http2) -> Self {
        Self { http2: Some(http2), ..self }
    }

    /// The same, with an offer of permessage-deflate or without.
    #[must_use]
    pub fn offering_compression(self, compression: bool) -> Self {
        let http2 = self.http2.map(|http2| Http2 {
            request: http2.request.offering_compression(compression),
            ..http2
        });
        Self { request: self.request.offering_compression(compression), http2, ..self }
    }

    /// The same, with sockets that are reset when they are closed, or over HTTP/2 streams. Unix sockets
    /// know no reset.
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

    /// Connections of HTTP/2 that streams are spread over, over all threads; 0 without.
    pub fn transports(&self) -> usize {
        self.http2.as_ref().map_or(0, |http2| http2.transports)
    }

    /// How TLS is spoken, if it is.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// The URLs that have redirected to it.
    pub(crate) fn redirects(&self) -> &[String] {
        &self.redirects
    }

    /// How connections go there.
    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    /// How long connecting may take.
    pub(super) fn connect_limit(&self) -> Duration {
        self.limits.connect
    }

    /// Opens a connection with `nonce` as the key of its opening handshake, or a stream on one of
    /// `transports`. `tls` and `transports` are those of the thread.
    pub(super) async fn open(
        &self,
        tls: Option<&Tls>,
        transports: Option<&TransportPool>,
        nonce: [u8; 16],
    ) -> Result<OpenConnection, OpeningError> {
        let limit = self.limits.opening;
        if let (Some(transports), Some(http2)) = (transports, &self.http2) {
            let opened = timeout(limit, self.open_stream(transports, http2)).await;
            return opened.unwrap_or(Err(OpeningError::OpeningTimeout(limit)));
        }
        let deadline = Instant::now() + limit;
        let is_routed = Cell::new(false);
        match timeout(limit, self.open_until(deadline, tls, nonce, &is_routed)).await {
            Ok(opened) => opened,
            Err(_) => Err(self.late(limit, &is_routed, OpeningError::OpeningTimeout)),
        }
    }

    async fn open_stream(
        &self,
        transports: &TransportPool,
        Http2 { request, connections, .. }: &Http2,
    ) -> Result<OpenConnection, OpeningError> {
        let resets = self.closing == SocketClosing::Reset;
        let opened = transports.open(request, &self.request, *connections, resets).await;
        let OpenStream { halves, compression, took } = opened?;
        Ok(OpenConnection {
            stream: Stream::Http2(Box::new(halves)),
            early: Vec::new(),
            compression,
            openings: Openings { tls: None, stream: Some(took) },
        })
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
        tls: Option<&Tls>,
        nonce: [u8; 16],
        is_routed: &Cell<bool>,
    ) -> Result<OpenConnection, OpeningError> {
        let limit = self.limits.connect;
        let connected = timeout(limit, self.connect(tls, self.closing, is_routed)).await;
        let (mut connected, tls) = match connected {
            Ok(connected) => connected?,
            Err(_) => return Err(self.late(limit, is_routed, OpeningError::ConnectTimeout)),
        };
        if tls.as_ref().is_some_and(TlsOpening::chose_http2) {
            return Err(Http2Error::AlpnChosen.into());
        }
        let (early, compression) = match &mut connected {
            Connected::Plain(reader, writer) => {
                self.shake_hands(deadline, nonce, reader, writer).await?
            }
            Connected::Tls(halves) => {
                let (reader, writer) = &mut **halves;
                self.shake_hands(deadline, nonce, reader, writer).await?
            }
        };
        let openings = Openings { tls, stream: None };
        Ok(OpenConnection { stream: connected.into(), early, compression, openings })
    }

    /// Connects, and says when there is a connection to the server.
    async fn connect(
        &self,
        tls: Option<&Tls>,
        closing: SocketClosing,
        is_routed: &Cell<bool>,
    ) -> Result<(Connected, Option<TlsOpening>), OpeningError> {
        let (read_half, write_half) = self.route.connect(&self.sources, closing).await?;
        is_routed.set(true);
        let Some(tls) = tls else {
            return Ok((Connected::Plain(read_half, write_half), None));
        };
        let secured = tls.connect(read_half, write_half).await;
        let (halves, opening) = secured.map_err(OpeningError::Tls)?;
        Ok((Connected::Tls(Box::new(halves)), Some(opening)))
    }

    /// Connects a stream that HTTP/2 is to be spoken on.
    pub(super) async fn dial(&self, tls: Option<&Tls>) -> Result<Dialed, OpeningError> {
        let limit = self.limits.connect;
        let is_routed = Cell::new(false);
        let connecting = self.connect(tls, SocketClosing::InOrder, &is_routed);
        let (connected, tls) = match timeout(limit, connecting).await {
            Ok(connected) => connected?,
            Err(_) => return Err(self.late(limit, &is_routed, OpeningError::ConnectTimeout)),
        };
        if let Some(tls) = tls.as_ref().filter(|tls| !tls.chose_http2()) {
            return Err(Http2Error::AlpnDeclined(tls.agreed.alpn.clone()).into());
        }
        let (io, pump) = match connected {
            Connected::Plain(reader, writer) => poll_io::split(reader, writer, TRANSPORT_READ_LEN),
            Connected::Tls(halves) => poll_io::split(halves.0, halves.1, TRANSPORT_READ_LEN),
        };
        Ok(Dialed { io, pump, tls })
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
        sent.map_err(cut_off)?;

        let mut response = Vec::new();
        loop {
            let (read, chunk) = reader.read(Vec::with_capacity(READ_LEN)).await;
            match read {
                Ok(0) => return Err(OpeningError::HandshakeCutOff),
                Err(error) => return Err(cut_off(error)),
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

/// Why there is no response. A server of TLS 1.3 refuses the client's certificate after the handshake.
fn cut_off(error: io::Error) -> OpeningError {
    if tls_error(&error).is_some() {
        OpeningError::Tls(error)
    } else {
        OpeningError::HandshakeCutOff
    }
}

/// A connection after its opening handshake.
pub(crate) struct OpenConnection {
    pub(crate) stream: Stream,
    /// What arrived behind the response head.
    pub(crate) early: Vec<u8>,
    /// Whether messages may be compressed.
    pub(crate) compression: bool,
    /// How the layers below it came about.
    pub(crate) openings: Openings,
}
