//! What an operator may ask of one connection: who the peer is, what it asked for, and how much it has
//! sent and got. Records are kept only where somebody asks for them, by `--admin-listen` or
//! `--access-log`.
//!
//! Text of a peer is kept up to [`TEXT_LEN_MAX`] bytes, and with its control characters escaped, so
//! that it can be written anywhere. Payloads are never kept.

use std::{
    cell::{Cell, OnceCell, RefCell},
    fmt::Write,
    time::{Duration, Instant},
};

use strum::IntoStaticStr;

use super::peer::Peer;

/// The most bytes of a text that are kept, such as a path.
pub const TEXT_LEN_MAX: usize = 256;

/// What is known of one connection. It belongs to the thread of its worker.
#[derive(Debug)]
pub struct Record {
    number: u64,
    peer: Peer,
    /// The client, if it is another than the peer.
    named: RefCell<Option<Box<Named>>>,
    /// The number of the connection that carries it, if it is a stream of HTTP/2.
    carrier: Option<u64>,
    speaks_http2: Cell<bool>,
    admitted: Instant,
    client: OnceCell<Box<str>>,
    request: RefCell<Option<Box<RequestRecord>>>,
    subprotocol: OnceCell<Box<str>>,
    state: Cell<State>,
    traffic: Cell<Traffic>,
}

/// What a peer asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestRecord {
    /// The path, without a query.
    pub path: Box<str>,
    /// `Origin`.
    pub origin: Option<Box<str>>,
    /// `User-Agent`.
    pub agent: Option<Box<str>>,
}

/// What a proxy says of its client beside the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// The host that the client asked for, by SNI as a rule.
    pub authority: Option<Box<str>>,
    /// The protocol that client and proxy have agreed on, such as `h2`.
    pub alpn: Option<Box<str>>,
    /// The version of TLS between client and proxy, such as `TLSv1.3`.
    pub tls: Option<Box<str>>,
    /// The connection's name in the proxy's log.
    pub unique_id: Option<Box<str>>,
}

/// A client that a proxy has named.
#[derive(Debug)]
struct Named {
    client: Peer,
    announced: Option<Announced>,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum State {
    /// Its request has not been answered.
    Request,
    /// It is a WebSocket connection.
    Open,
    /// It is being closed.
    Closing,
}

/// What has gone over a WebSocket connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes received after the handshake.
    pub received_bytes: u64,
    /// Bytes sent after the handshake.
    pub sent_bytes: u64,
    /// Messages whose echo was produced.
    pub messages: u64,
}

/// A copy of a record at some time, for another thread.
#[derive(Clone, Debug)]
pub struct RecordView {
    /// The connection's number among those of its worker's place.
    pub number: u64,
    /// The client: who is at the other end, or whom a proxy there has named.
    pub peer: Peer,
    /// The proxy at the other end that has named the client.
    pub via: Option<Peer>,
    /// What that proxy says of the client beside the address, if it says something.
    pub announced: Option<Announced>,
    /// The number of the connection that carries it, if it is a stream of HTTP/2.
    pub carrier: Option<u64>,
    /// The version of HTTP: 1, or 2.
    pub http: u8,
    /// The time since the connection was admitted.
    pub age: Duration,
    /// Who the peer is by its certificate, if it has shown one.
    pub client: Option<Box<str>>,
    /// What the peer asked for, once it is known.
    pub request: Option<RequestRecord>,
    /// The subprotocol that was agreed on.
    pub subprotocol: Option<Box<str>>,
    /// How far the connection is.
    pub state: State,
    /// What has gone over it.
    pub traffic: Traffic,
}

impl Record {
    /// The record of a connection that is admitted now.
    pub fn new(number: u64, peer: Peer) -> Self {
        Self {
            number,
            peer,
            named: RefCell::default(),
            carrier: None,
            speaks_http2: Cell::new(false),
            admitted: Instant::now(),
            client: OnceCell::new(),
            request: RefCell::default(),
            subprotocol: OnceCell::new(),
            state: Cell::new(State::Request),
            traffic: Cell::default(),
        }
    }

    /// The record of a stream of HTTP/2 that begins now, on the connection with this number.
    pub fn of_stream(number: u64, peer: Peer, carrier: u64) -> Self {
        let record = Self { carrier: Some(carrier), ..Self::new(number, peer) };
        record.speaks_http2();
        record
    }

    /// Notes that the connection speaks HTTP/2.
    pub fn speaks_http2(&self) {
        self.speaks_http2.set(true);
    }

    /// The connection's number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Notes who the peer is by its certificate.
    pub fn certified(&self, client: Box<str>) {
        let _ = self.client.set(client);
    }

    /// Notes the client that a proxy's header names, and what else that says of the client.
    pub fn announced(&self, client: Peer, announced: Announced) {
        let announced = Some(announced).filter(|it| *it != Announced::default());
        self.named.replace(Some(Named { client, announced }.into()));
    }

    /// Notes the client of the newest request.
    pub fn comes_from(&self, client: Peer) {
        let mut named = self.named.borrow_mut();
        let announced = named.take().and_then(|named| named.announced);
        if client != self.peer || announced.is_some() {
            *named = Some(Named { client, announced }.into());
        }
    }

    /// Notes what the peer asks for; the latest request stands.
    pub fn asked_for(&self, request: RequestRecord) {
        self.request.replace(Some(request.into()));
    }

    /// Notes that the handshake is done, and the subprotocol that it agreed on.
    pub fn opened(&self, subprotocol: Option<&str>) {
        self.state.set(State::Open);
        if let Some(subprotocol) = subprotocol {
            let _ = self.subprotocol.set(printable(subprotocol.as_bytes()));
        }
    }

    /// Notes that the connection is being closed.
    pub fn closing(&self) {
        self.state.set(State::Closing);
    }

    /// Counts received bytes, and what they were answered with.
    pub fn count(&self, received_len: usize, sent_len: usize, messages: u32) {
        let mut traffic = self.traffic.get();
        traffic.received_bytes += received_len as u64;
        traffic.sent_bytes += sent_len as u64;
        traffic.messages += u64::from(messages);
        self.traffic.set(traffic);
    }

    /// What is known now.
    pub fn view(&self) -> RecordView {
        let named = self.named.borrow();
        let named = named.as_ref();
        RecordView {
            number: self.number,
            peer: named.map_or(self.peer, |named| named.client),
            via: named.map(|_| self.peer),
            announced: named.and_then(|named| named.announced.clone()),
            carrier: self.carrier,
            http: 1 + u8::from(self.speaks_http2.get()),
            age: self.admitted.elapsed(),
            client: self.client.get().cloned(),
            request: self.request.borrow().as_deref().cloned(),
            subprotocol: self.subprotocol.get().cloned(),
            state: self.state.get(),
            traffic: self.traffic.get(),
        }
    }
}

/// A peer's text as it may be written anywhere: control characters, and those that change how a line
/// is read, are escaped, and what is too long is cut off.
pub fn printable(bytes: &[u8]) -> Box<str> {
    let mut text = String::with_capacity(bytes.len().min(TEXT_LEN_MAX));
    // A byte becomes three at most before it is escaped.
    for character in String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_LEN_MAX)]).chars() {
        let at = text.len();
        if character.is_control() || is_invisible(character) {
            let _ = write!(text, "{}", character.escape_unicode());
        } else {
            text.push(character);
        }
        if text.len() > TEXT_LEN_MAX {
            text.truncate(at);
            break;
        }
    }
    text.into()
}

/// Whether a character ends a line or changes the direction in which it is read.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn text_of_a_peer_is_escaped_and_bounded() {
        for (text, expected) in [
            (&b"/ws"[..], "/ws"),
            ("/\u{e4}".as_bytes(), "/\u{e4}"),
            (b"a\r\nfake line", r"a\u{d}\u{a}fake line"),
            (b"\x1b[31mred\x7f\x00", r"\u{1b}[31mred\u{7f}\u{0}"),
            (b"\xff", "\u{fffd}"),
            ("a\u{202e}b\u{2028}\u{85}".as_bytes(), r"a\u{202e}b\u{2028}\u{85}"),
        ] {
            assert_eq!(&*printable(text), expected);
        }
        assert_eq!(printable(&[b'a'; 9000]).len(), TEXT_LEN_MAX);
        let escaped = printable(&[7; 9000]);
        assert!(escaped.len() <= TEXT_LEN_MAX && escaped.ends_with('}'));
    }

    #[test]
    fn record_counts_what_goes_over_its_connection() {
        let record = Record::new(7, SocketAddr::from(([127, 0, 0, 1], 80)).into());
        record.asked_for(RequestRecord { path: "/ws".into(), ..RequestRecord::default() });
        record.opened(Some("chat"));
        record.count(100, 96, 1);
        record.count(10, 8, 0);
        let view = record.view();
        assert_eq!((view.number, view.state), (7, State::Open));
        assert_eq!(view.subprotocol.as_deref(), Some("chat"));
        let expected = Traffic { received_bytes: 110, sent_bytes: 104, messages: 1 };
        assert_eq!(view.traffic, expected);
    }
}
