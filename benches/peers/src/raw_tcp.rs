//! What the raw TCP echoes begin with.
//!
//! They are the physical limit that WebSocket echo servers are compared with, so a WebSocket load
//! generator must be able to drive them: the [opening handshake](crate::opening) is answered. Every
//! byte behind the request head then comes back **untouched**. A client that expects an echo in the
//! sense of RFC 6455 finds its own frames instead: with the MASK bit set, four bytes longer, and the
//! payload still masked. It must have been told to accept that.

use std::io;

use crate::opening;

/// The reply to what a client has sent so far: the 101, and the echo of the bytes that came behind
/// the request head. `None` while the head's end is not there.
pub fn opening_reply(received: &[u8]) -> io::Result<Option<Vec<u8>>> {
    Ok(opening::response(received)?.map(|(mut reply, request_head_len)| {
        reply.extend_from_slice(&received[request_head_len..]);
        reply
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_behind_the_request_head_are_echoed_behind_the_reply() {
        let request_head = b"GET / HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let alone = opening_reply(request_head).unwrap().unwrap();
        let with_more = opening_reply(&[&request_head[..], b"early"].concat()).unwrap().unwrap();
        assert_eq!(with_more, [&alone[..], b"early"].concat());
    }
}
