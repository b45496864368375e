//! HTTP/2 (RFC 9113): the driver of one connection, its streams as something that a session can be
//! carried over, and what both may take. The crate `h2` knows the frames.
//!
//! `connection` drives a connection: bytes in, requests out, streams in between, its end. `pipe`
//! is between `h2`, which polls, and a stream of monoio's, which takes buffers away while it reads and
//! writes. `stream` has the two halves of a stream, and `watch` counts the frames that cost the
//! server something and carry nothing. What a request is answered with is left to the worker, and the
//! opening handshake (RFC 8441) to `handshake`.
//!
//! The invariant: what a peer can make a connection hold is bounded by [`Limits`] and the constants
//! here, and a stream that nobody reads holds up no other.

mod connection;
mod pipe;
mod response;
mod stream;
mod watch;

pub use self::{
    connection::{Incoming, Place, serve},
    response::head,
    stream::{StreamReader, StreamWriter, halves},
};

use crate::config::Http2;

/// The largest window that a peer may be given (RFC 9113 §6.9.1).
const WINDOW_LEN_MAX: u32 = (1 << 31) - 1;

/// Bytes that a stream's writes may be ahead of the connection, which is four frames: so the connection
/// has frames to send while the stream's task waits for its turn.
const SEND_LEN_MAX: usize = 64 << 10;

/// Resets by the server, for errors of the peer, in the life of a connection. Those that a sound peer
/// causes are few: a stream beyond the bound, or a frame that crosses the end of its stream.
const ERROR_RESETS_MAX: usize = 128;

/// Streams that the server has reset and still knows, so that it ignores what is on its way to them.
const RESET_STREAMS_MAX: usize = 100;

/// Streams that the peer may reset before the connection has looked at them, all in what one read
/// brings.
const UNSEEN_RESETS_MAX: usize = 100;

/// Bytes of the table by which the peer may compress its header fields: that of RFC 9113 (§6.5.2).
const HEADER_TABLE_LEN: u32 = 4096;

/// Bytes that an idle connection takes beside its own buffers: those of the crate `h2`.
const IDLE_LEN: usize = 28 << 10;

/// What bounds a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams at a time.
    pub streams_max: u32,
    /// Bytes of a request's header list, with 32 for each field.
    pub header_list_len_max: u32,
    /// Bytes that the peer may send on a stream until some are consumed.
    pub window_len: u32,
}

impl Limits {
    /// The limits that the configuration sets.
    pub fn new(http2: &Http2) -> Self {
        Self {
            streams_max: http2.streams_max.get(),
            header_list_len_max: http2.header_list_len_max.get().0 as u32,
            window_len: http2.window_len.get().0 as u32,
        }
    }

    /// The window of the whole connection. It has room for the windows of all streams, so that streams
    /// which consume nothing leave the others theirs.
    fn connection_window_len(&self) -> u32 {
        self.window_len.saturating_mul(self.streams_max).min(WINDOW_LEN_MAX)
    }

    /// What the crate `h2` is to be bounded by.
    fn builder(&self) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .enable_connect_protocol()
            .max_concurrent_streams(self.streams_max)
            .max_header_list_size(self.header_list_len_max)
            .header_table_size(HEADER_TABLE_LEN)
            .initial_window_size(self.window_len)
            .initial_connection_window_size(self.connection_window_len())
            .max_send_buffer_size(SEND_LEN_MAX)
            .max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
            .max_concurrent_reset_streams(RESET_STREAMS_MAX)
            .max_pending_accept_reset_streams(UNSEEN_RESETS_MAX)
            // Half of the connection's window, as by default, but never less than small frames take
            // which fill one read, since none is consumed before the read is over.
            .data_frame_budget(self.data_frame_budget());
        builder
    }

    /// Bytes that `h2` may need beside the payloads of DATA frames that nobody has consumed: 256 less
    /// the payload for each that is shorter.
    fn data_frame_budget(&self) -> usize {
        const FRAME_LEN_MIN: usize = 10;
        let one_read = pipe::READ_LEN_MAX / FRAME_LEN_MIN * 256;
        one_read.max(self.connection_window_len() as usize / 2)
    }
}
