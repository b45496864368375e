//! Connections that were not admitted: each gets its response at once, and no task.
//!
//! Closing a socket with unread bytes in it resets the connection, and a reset can destroy the
//! response before the peer has read it. So the server's side alone is ended, and the socket stays for
//! a second or two, in which the peer's request may arrive and the peer may end its own side. Then a
//! sweep discards what has come, and closes.
//!
//! The invariant: no more than [`TURNED_AWAY_MAX`] sockets are kept, and no more than the descriptors
//! in reserve have room for. Further ones close the oldest, so a flood of connections takes no more
//! descriptors, and whoever is admitted comes first.

use std::{
    cell::RefCell,
    collections::VecDeque,
    mem::MaybeUninit,
    net::{Shutdown, TcpStream as StdTcpStream},
};

use socket2::SockRef;

use crate::{connection::clock::Tick, http::REQUEST_HEAD_LEN_MAX};

/// The most refused connections that a worker keeps for a while.
pub const TURNED_AWAY_MAX: usize = 64;

/// Refused connections that are about to be closed, the oldest first, and when they were refused.
#[derive(Default)]
pub(super) struct TurnedAway(RefCell<VecDeque<(StdTcpStream, Tick)>>);

impl TurnedAway {
    /// Sends a connection its response, and keeps it for a while if there is room for so many.
    pub(super) fn answer(&self, stream: StdTcpStream, response: &[u8], now: Tick, room: u32) {
        let socket = SockRef::from(&stream);
        // A response is smaller than any send buffer. If it cannot be sent, the peer is gone.
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        if socket.send_with_flags(response, flags).is_err()
            || socket.shutdown(Shutdown::Write).is_err()
        {
            return;
        }
        let mut kept = self.0.borrow_mut();
        kept.push_back((stream, now));
        if kept.len() > TURNED_AWAY_MAX.min(room as usize)
            && let Some((oldest, _)) = kept.pop_front()
        {
            discard_received(&oldest);
        }
    }

    /// Closes those that have been kept for at least a tick.
    pub(super) fn sweep(&self, now: Tick) {
        let mut kept = self.0.borrow_mut();
        while let Some((_, since)) = kept.front()
            && ![*since, since.next()].contains(&now)
            && let Some((oldest, _)) = kept.pop_front()
        {
            discard_received(&oldest);
        }
    }

    /// Closes all of them, and returns whether there were any.
    pub(super) fn close_all(&self) -> bool {
        let mut kept = self.0.borrow_mut();
        let were_any = !kept.is_empty();
        for (stream, _) in kept.drain(..) {
            discard_received(&stream);
        }
        were_any
    }
}

impl Drop for TurnedAway {
    fn drop(&mut self) {
        self.close_all();
    }
}

/// Discards what has arrived, at most 16 KiB, twice a request head. Then the connection can be closed
/// without a reset.
fn discard_received(stream: &StdTcpStream) {
    const DISCARDED_MAX: usize = 2 * REQUEST_HEAD_LEN_MAX;
    // With MSG_TRUNC, TCP discards bytes instead of copying them (tcp(7)).
    let mut untouched = [MaybeUninit::uninit(); DISCARDED_MAX];
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    let _ = SockRef::from(stream).recv_with_flags(&mut untouched, flags);
}
