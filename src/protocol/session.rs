//! A WebSocket connection after its opening handshake, as RFC 6455 tells it: data, control frames,
//! and the closing handshake. Pure state: no I/O, no clock.
//!
//! A session's carrier moves its bytes. The carrier gives every received chunk to
//! [`Session::receive`], sends what each call returns, in order, and ends the connection once a
//! [`Reply`] has an [`End`]. The carrier knows nothing else of the protocol.
//!
//! The invariants: a Ping or a Close frame of the server's own only comes where the bytes to send
//! so far end with a whole frame; at most one Close frame is sent, and nothing behind it.

use super::{
    close_code::{CloseCode, encode_close_frame},
    echo::{Compression, Echo, Rules},
    reply::{Closing, End, Next, Reply},
};

/// One connection's state between its two handshakes.
#[derive(Debug)]
pub struct Session {
    echo: Echo,
    stage: Stage,
    /// The server has sent its own Close frame.
    close_sent: bool,
    /// Why the server closes, once it does.
    goodbye: Option<Goodbye>,
}

/// Why the server closes a connection of its own accord, with Close 1001 (Going Away).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// No message has come for as long as the server waits for one.
    Idle,
    /// The connection is as old as a connection may become.
    LifetimeOver,
    /// The server is stopping.
    Stopping,
}

/// How far the closing handshake is (RFC 6455 §7.1.2, §7.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The closing handshake has not begun.
    Open,
    /// The server closes, and its Close frame waits for the end of a message.
    Draining,
    /// The server has sent its Close frame, and the peer's has not arrived.
    CloseSent,
    /// The session is over.
    Ended,
}

/// A Ping frame without payload.
pub const PING: &[u8] = &[0x89, 0];

impl Goodbye {
    /// The reason in the Close frame.
    fn reason(self) -> &'static str {
        match self {
            Self::Idle => "no message has come for too long",
            Self::LifetimeOver => "the connection is as old as it may become",
            Self::Stopping => "the server is stopping",
        }
    }
}

impl Session {
    /// The session of a connection whose opening handshake has agreed on `compression`.
    pub fn new(compression: Compression) -> Self {
        let echo = Echo::with_compression(compression);
        Self { echo, stage: Stage::Open, close_sent: false, goodbye: None }
    }

    /// The code of the Close frame that was sent, if one was and it had one: the server's own, or the
    /// echo of the peer's.
    pub fn close_code(&self) -> Option<u16> {
        if self.close_sent {
            return Some(CloseCode::GoingAway as u16);
        }
        self.echo.close_code()
    }

    /// The Close frame for a connection that cannot have a session, since there is no room for it.
    pub fn turn_away() -> Vec<u8> {
        encode_close_frame(CloseCode::TryAgainLater, "there is no room for more connections")
    }

    /// Answers the next received bytes, in place.
    ///
    /// Once a reply has had an [`End`], all further chunks are answered with nothing.
    #[inline]
    pub fn receive(&mut self, chunk: &mut [u8], rules: &Rules) -> Reply {
        if self.stage != Stage::Open {
            return self.receive_while_closing(chunk, rules);
        }
        let mut reply = self.echo.transform(chunk, rules);
        if reply.next != Next::Continue {
            reply.closing = self.end(reply.next);
        }
        reply
    }

    /// A Ping frame, if one may be sent now (RFC 6455 §5.5.2).
    pub fn ping(&self) -> Option<&'static [u8]> {
        let may_ping = matches!(self.stage, Stage::Open | Stage::Draining);
        (may_ping && self.echo.between_frames()).then_some(PING)
    }

    /// Begins the closing handshake: returns the Close frame if it may be sent now. If a message is
    /// under way, the reply that ends it ends with the Close frame. The first reason to close stands.
    pub fn say_goodbye(&mut self, goodbye: Goodbye) -> Option<Vec<u8>> {
        if self.stage == Stage::Open {
            self.stage = Stage::Draining;
            self.goodbye = Some(goodbye);
        }
        self.start_closing_handshake()
    }

    /// Whether no message and no closing handshake is under way, so that a goodbye would return the
    /// Close frame.
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Open && self.echo.between_messages()
    }

    /// Why the server closes, once it has begun to [say goodbye](Self::say_goodbye).
    pub fn goodbye(&self) -> Option<Goodbye> {
        self.goodbye
    }

    /// Whether the server closes, and the session is not over.
    pub fn is_closing(&self) -> bool {
        matches!(self.stage, Stage::Draining | Stage::CloseSent)
    }

    /// Whether the server has sent its Close frame, and the session is not over.
    pub fn has_said_goodbye(&self) -> bool {
        self.stage == Stage::CloseSent
    }

    /// Whether all that has arrived is answered, and no message is under way.
    pub fn is_between_messages(&self) -> bool {
        self.echo.between_messages()
    }

    /// Bytes that are kept of a frame until it is whole; none if no frame is held.
    #[inline]
    pub fn held_len(&self) -> usize {
        self.echo.held_len()
    }

    /// Answers received bytes while the server closes: with echoes up to the end of the message
    /// that is under way, and from there on with a Close frame and nothing else.
    #[cold]
    fn receive_while_closing(&mut self, chunk: &mut [u8], rules: &Rules) -> Reply {
        let (mut reply, mut answered_len) = if self.stage == Stage::Draining {
            self.echo.transform_to_boundary(chunk, rules)
        } else {
            (Reply::nothing(), 0)
        };
        if reply.next != Next::Continue {
            reply.closing = self.end(reply.next);
            return reply;
        }
        let frame = self.start_closing_handshake();
        while answered_len < chunk.len() && reply.next == Next::Continue {
            //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
            //# The application MUST NOT send any more data frames after sending a Close frame.
            let unanswered = &mut chunk[answered_len..];
            let (unsent, consumed_len) = self.echo.transform_to_boundary(unanswered, rules);
            answered_len += consumed_len;
            reply.next = unsent.next;
        }
        let end = self.end(reply.next).and_then(|closing| closing.end);
        reply.closing = (frame.is_some() || end.is_some()).then(|| Closing { frame, end }.into());
        reply
    }

    /// Ends the session if the transformer says so.
    #[cold]
    fn end(&mut self, next: Next) -> Option<Box<Closing>> {
        let close_sent = self.stage == Stage::CloseSent;
        let mut frame = None;
        let end = match next {
            Next::Continue => return None,
            Next::Close if close_sent => End::ClosedByServer,
            Next::Close => End::ClosedByPeer,
            //= https://www.rfc-editor.org/rfc/rfc6455#section-7.1.7
            //# If _The WebSocket Connection is Established_ prior to the point where
            //# the endpoint is required to _Fail the WebSocket Connection_, the
            //# endpoint SHOULD send a Close frame with an appropriate status code
            //= https://www.rfc-editor.org/rfc/rfc6455#section-7.1.7
            //# Similarly, to do so, the server MUST _Close the WebSocket Connection_, and
            //# SHOULD log the problem.
            Next::Fail(error) => {
                if !close_sent {
                    frame = Some(encode_close_frame(error.close_code(), &error.to_string()));
                }
                End::Failed(error)
            }
            Next::Abort(error) => End::Failed(error),
        };
        self.stage = Stage::Ended;
        Some(Closing { frame, end: Some(end) }.into())
    }

    /// Returns the server's own Close frame, once, if no message is under way.
    fn start_closing_handshake(&mut self) -> Option<Vec<u8>> {
        if self.stage != Stage::Draining || !self.echo.between_messages() {
            return None;
        }
        self.stage = Stage::CloseSent;
        self.close_sent = true;
        Some(encode_close_frame(CloseCode::GoingAway, self.goodbye?.reason()))
    }
}
