//! How connections are opened: from a socket to the end of the opening handshake.

use std::time::Duration;

use http::HeaderValue;
use monoio::time::timeout;

use crate::{
    handshake::{Accepted, Handshake, HandshakeError, RESPONSE_HEAD_LEN_MAX},
    request::{Field, Request, Subprotocol},
    stream::{self, Endpoint, ReadHalf, Sources, Stream, WriteHalf},
    tally::ConnectionError,
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
    /// Where a browser's page would come from.
    pub origin: Option<HeaderValue>,
}

/// How long opening a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until the socket is connected and TLS is spoken.
    pub connect: Duration,
    /// Until the opening handshake is done.
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
        }
    }

    /// The same, with an offer of permessage-deflate or without.
    #[must_use]
    pub fn offering_compression(self, compression: bool) -> Self {
        Self { request: self.request.offering_compression(compression), ..self }
    }

    /// Where connections go to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Opens a connection with `nonce` as the key of its opening handshake.
    pub(crate) async fn open(&self, nonce: [u8; 16]) -> Result<OpenConnection, ConnectionError> {
        let limit = self.limits.opening;
        match timeout(limit, self.open_untimed(nonce)).await {
            Ok(opened) => opened,
            Err(_) => Err(ConnectionError::OpeningTimeout(limit)),
        }
    }

    async fn open_untimed(&self, nonce: [u8; 16]) -> Result<OpenConnection, ConnectionError> {
        let limit = self.limits.connect;
        let mut stream = match timeout(limit, self.connect()).await {
            Ok(connected) => connected?,
            Err(_) => return Err(ConnectionError::ConnectTimeout(limit)),
        };
        let (early, compression) = match &mut stream {
            Stream::Plain(reader, writer) => self.shake_hands(nonce, reader, writer).await?,
            Stream::Tls(halves) => {
                let (reader, writer) = &mut **halves;
                self.shake_hands(nonce, reader, writer).await?
            }
        };
        Ok(OpenConnection { stream, early, compression })
    }

    async fn connect(&self) -> Result<Stream, ConnectionError> {
        let halves = stream::connect(&self.endpoint, &self.sources);
        let (read_half, write_half) = halves.await.map_err(ConnectionError::Connect)?;
        let Some(tls) = &self.tls else {
            return Ok(Stream::Plain(read_half, write_half));
        };
        let secured = tls.connect(read_half, write_half).await;
        Ok(Stream::Tls(Box::new(secured.map_err(ConnectionError::Tls)?)))
    }

    /// The opening handshake. Returns what arrived behind the response head, and whether messages
    /// may be compressed.
    async fn shake_hands(
        &self,
        nonce: [u8; 16],
        reader: &mut impl ReadHalf,
        writer: &mut impl WriteHalf,
    ) -> Result<(Vec<u8>, bool), ConnectionError> {
        let handshake = Handshake::new(&self.request, nonce);
        let (sent, _) = writer.write_all(handshake.request()).await;
        sent.map_err(|_| ConnectionError::HandshakeCutOff)?;

        let mut response = Vec::new();
        loop {
            let (read, chunk) = reader.read(Vec::with_capacity(READ_LEN)).await;
            match read {
                Ok(0) | Err(_) => return Err(ConnectionError::HandshakeCutOff),
                Ok(_) => response.extend_from_slice(&chunk),
            }
            if let Some(Accepted { head_len, compression }) = handshake.check(&response)? {
                return Ok((response.split_off(head_len), compression));
            }
            if response.len() > RESPONSE_HEAD_LEN_MAX {
                return Err(HandshakeError::HeadTooLong.into());
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
