//! Who the client of a connection is: its peer, or whom a trusted proxy names, in a PROXY header before
//! everything else or in the fields of a request.
//!
//! A connection of a proxy that may name another is admitted by the bounds of all, and by those of an
//! address as soon as the address is known: behind the PROXY header, or behind the request head. Over
//! HTTP/2 each of its streams has a client of its own, and meets those bounds in its place. The
//! invariant: nobody is believed but the peers that the configuration names.

use std::{cell::Cell, pin::pin};

use bytes::BytesMut;
use http::{HeaderMap, Request};
use monoio::io::AsyncReadRent;
use tracing::debug;

use super::{
    Worker,
    interruption::{Interruption, unless_interrupted},
    requests::Refused,
};
use crate::{
    config::{Proxies, ProxyProtocol},
    connection::{ConnectionEnd, Control, peer::Peer},
    entry::{
        admission::{AdmissionRefusal, Entered, EnteredStream},
        proxy_header::{
            Expected, HEADER_TIMEOUT, Opening, OpeningError, ProxyHeaderRefusal, read_opening,
        },
    },
    http::{RequestRefusal, forwarded_client},
    plane::Plane,
};

/// The client of a connection, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    /// The client, or the nearest proxy to it that is known.
    pub(super) peer: Peer,
    /// Whether a PROXY header has named it.
    is_named: bool,
}

/// A connection of which all is known that can be known before a request.
pub(super) struct Met {
    pub(super) client: Client,
    /// What has arrived already of the bytes that come next.
    pub(super) received: BytesMut,
}

/// Why a connection does not go on.
pub(super) enum Unmet {
    /// It is refused, and over HTTP told so.
    Refused(Refused),
    /// It is over.
    Ended(ConnectionEnd),
}

impl Client {
    /// A peer, who may be a proxy.
    fn of(peer: Peer) -> Self {
        Self { peer, is_named: false }
    }

    /// Whether what its requests say of their way here is believed. Whoever has come to a proxy by a
    /// Unix socket is none of this machine's own.
    fn is_believed(self, proxies: &Proxies) -> bool {
        let is_elsewhere = self.is_named && self.peer == Peer::Local;
        !is_elsewhere && proxies.believe_request_of(self.peer.ip())
    }
}

impl<P: Plane> Worker<P> {
    /// Whether a peer may name somebody else as the client of its connection.
    pub(super) fn may_name_another(&self, peer: Peer) -> bool {
        let proxies = &self.service().proxies;
        proxies.believe_header_of(peer.ip()) || proxies.believe_request_of(peer.ip())
    }

    /// Reads the PROXY header of a connection, if it may have one. Bytes behind the header that have
    /// arrived with it are handed on.
    pub(super) async fn meet(
        &self,
        stream: &mut impl AsyncReadRent,
        peer: Peer,
        control: &Control,
        entered: &Entered,
    ) -> Result<Met, Unmet> {
        let expected = match self.expected_of(peer) {
            Ok(Some(expected)) => expected,
            Ok(None) => return Ok(Met { client: Client::of(peer), received: BytesMut::new() }),
            Err(refusal) => return Err(Unmet::Refused(refusal.into())),
        };
        let Opening { client: named, behind } = read(stream, expected, control).await?;
        let mut client = Client::of(peer);
        if let Some((named, announced)) = named {
            debug!(client = %named, proxy = %peer, "a proxy has named its client");
            client = Client { peer: named, is_named: true };
            control.note_client(named);
            if let Some(record) = control.record() {
                record.announced(named, announced);
            }
        }
        let is_final =
            expected != Expected::NoHeader && !client.is_believed(&self.service().proxies);
        if is_final {
            entered.belongs_to(client.peer.ip()).map_err(|it| Unmet::Refused(it.into()))?;
        }
        Ok(Met { client, received: behind })
    }

    /// What a connection of this peer begins with; `None` if nothing is known of that.
    fn expected_of(&self, peer: Peer) -> Result<Option<Expected>, ProxyHeaderRefusal> {
        let proxies = &self.service().proxies;
        let is_trusted = || proxies.believe_header_of(peer.ip());
        Ok(Some(match proxies.proxy_protocol {
            ProxyProtocol::Off => return Ok(None),
            ProxyProtocol::Required if is_trusted() => Expected::Header,
            ProxyProtocol::Required => return Err(ProxyHeaderRefusal::Untrusted),
            ProxyProtocol::Optional if is_trusted() => Expected::HeaderOrNone,
            ProxyProtocol::Optional => Expected::NoHeader,
        }))
    }

    /// Finds the client of a request: the one of its connection, or the one that the request names if
    /// it comes from a trusted proxy.
    pub(super) fn find_client(
        &self,
        request: &Request<()>,
        client: Client,
        control: &Control,
        entered: &Entered,
    ) -> Result<Client, AdmissionRefusal> {
        let is_believed = client.is_believed(&self.service().proxies);
        if !is_believed && !entered.awaits_address() {
            return Ok(client);
        }
        let found = self.identify(request, client, is_believed, control);
        entered.belongs_to(found.peer.ip())?;
        Ok(found)
    }

    /// The same for a stream of HTTP/2, which counts for a client that its request names as long as
    /// [`EnteredStream`] lives. Its connection, on which there are streams of others, does not.
    pub(super) fn find_client_of_stream(
        &self,
        request: &Request<()>,
        client: Client,
        control: &Control,
        entered: &Entered,
    ) -> Result<(Client, Option<EnteredStream>), AdmissionRefusal> {
        if !client.is_believed(&self.service().proxies) {
            return Ok((self.find_client(request, client, control, entered)?, None));
        }
        let found = self.identify(request, client, true, control);
        let entered_stream = entered.admit_stream(found.peer.ip())?;
        Ok((found, entered_stream))
    }

    /// Finds out whose a request is, and notes it.
    fn identify(
        &self,
        request: &Request<()>,
        client: Client,
        is_believed: bool,
        control: &Control,
    ) -> Client {
        let found =
            Client { peer: self.named_in(request.headers(), client, is_believed), ..client };
        if found.peer != client.peer {
            debug!(client = %found.peer, proxy = %client.peer, "a request names its client");
        }
        control.note_client(found.peer);
        if let Some(record) = control.record() {
            record.comes_from(found.peer);
        }
        found
    }

    fn named_in(&self, headers: &HeaderMap, client: Client, is_believed: bool) -> Peer {
        let trusted = &self.service().proxies.forwarded_from;
        let named = if is_believed { forwarded_client(headers, trusted) } else { None };
        named.map_or(client.peer, |named| Peer::new(named.ip, named.port))
    }
}

/// Reads what a connection begins with, in the time that there is for it.
async fn read(
    stream: &mut impl AsyncReadRent,
    expected: Expected,
    control: &Control,
) -> Result<Opening, Unmet> {
    let has_begun = Cell::new(false);
    // Whoever need not send a header has the time of a request head.
    if expected == Expected::Header {
        control.limit_handshake(Some(HEADER_TIMEOUT));
    }
    let opening = pin!(read_opening(stream, expected, &has_begun));
    let refused = match unless_interrupted(opening, control).await {
        Ok(Ok(opening)) => {
            control.limit_handshake(None);
            return Ok(opening);
        }
        Ok(Err(OpeningError::PeerLeft)) => return Err(Unmet::Ended(ConnectionEnd::PeerLeft)),
        Ok(Err(OpeningError::Refused(refusal))) => refusal.into(),
        Err(Interruption::TimeOut) if expected == Expected::Header || has_begun.get() => {
            ProxyHeaderRefusal::TimedOut.into()
        }
        Err(Interruption::TimeOut) => RequestRefusal::TimedOut.into(),
        Err(Interruption::Stopping) => RequestRefusal::Stopping.into(),
        Err(Interruption::End(end)) => return Err(Unmet::Ended(end)),
    };
    Err(Unmet::Refused(refused))
}
