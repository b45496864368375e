//! What received bytes are answered with.

use std::ops::Range;

use super::ProtocolError;

/// What a received chunk is answered with: `prefix`, then `range` of the chunk, then `closing`.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// Bytes that were held back from earlier chunks; usually none.
    pub prefix: Vec<u8>,
    /// Where in the chunk the other echoes stand.
    pub range: Range<usize>,
    /// Messages whose echo the reply completes.
    pub messages: u32,
    /// Those of them that are text.
    pub texts: u32,
    /// Control frames that the chunk has ended, other than Close; usually none.
    pub controls: ControlFrames,
    /// What the received frames mean for the connection.
    pub next: Next,
    /// What the session does about the closing handshake; usually nothing. The transformer leaves it
    /// empty.
    pub closing: Option<Box<Closing>>,
}

/// Control frames that have been answered or, as Pongs are, passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlFrames {
    /// Pings, which the reply answers.
    pub pings: u32,
    /// Pongs.
    pub pongs: u32,
}

/// What received frames mean for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The connection goes on.
    Continue,
    /// The peer closed the connection, and the reply ends with the echo of its Close frame.
    Close,
    /// The connection is failed: a Close frame with the error's code must follow the reply.
    Fail(ProtocolError),
    /// The connection is failed inside of a frame that is half sent, where no Close frame can
    /// stand.
    Abort(ProtocolError),
}

/// A step of the closing handshake, or the failing of a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Closing {
    /// A Close frame of the server's own, which comes behind the echoes.
    pub frame: Option<Vec<u8>>,
    /// How the session has ended, if it has. The connection is to be closed once the reply is sent.
    pub end: Option<End>,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer began the closing handshake, and the reply ends with the echo of its Close frame.
    ClosedByPeer,
    /// The server began the closing handshake, and the peer's Close frame has arrived.
    ClosedByServer,
    /// The peer violated the protocol, which fails the connection (RFC 6455 §7.1.7).
    Failed(ProtocolError),
}

impl Reply {
    /// Bytes of the echoes: of `prefix` and `range`.
    #[inline]
    pub fn sent_len(&self) -> usize {
        // Its end is never before its start, so this is the length without a look at that.
        self.prefix.len() + (self.range.end - self.range.start)
    }

    /// The answer to nothing.
    pub(super) fn nothing() -> Self {
        Self {
            prefix: Vec::new(),
            range: 0..0,
            messages: 0,
            texts: 0,
            controls: ControlFrames::default(),
            next: Next::Continue,
            closing: None,
        }
    }
}
