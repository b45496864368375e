//! The opening handshake of the raw TCP echoes.
//!
//! They are the physical limit that WebSocket echo servers are compared with, so a WebSocket load
//! generator must be able to drive them: the opening handshake is answered as RFC 6455 §4.2.2
//! says. Every byte behind the request head then comes back **untouched**. A client that expects
//! an echo in the sense of the RFC finds its own frames instead: with the MASK bit set, four bytes
//! longer, and the payload still masked. It must have been told to accept that.

use std::io;

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Longest request head that is answered.
pub const REQUEST_HEAD_LEN_MAX: usize = 4 << 10;

/// The reply to what a client has sent so far: the 101, and the echo of the bytes that came behind
/// the request head. `None` while the head's end is not there.
pub fn opening_reply(received: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if received.len() < REQUEST_HEAD_LEN_MAX {
            Ok(None)
        } else {
            Err(io::Error::other("the request head is longer than 4 KiB"))
        };
    };
    let (request_head, behind) = received.split_at(end + 4);
    let request_head = String::from_utf8_lossy(request_head);
    let key = websocket_key(&request_head)
        .ok_or_else(|| io::Error::other("the request head has no Sec-WebSocket-Key"))?;
    let mut reply = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    )
    .into_bytes();
    reply.extend_from_slice(behind);
    Ok(Some(reply))
}

fn websocket_key(request_head: &str) -> Option<&str> {
    let mut fields = request_head.lines().filter_map(|line| line.split_once(':'));
    let (_, key) = fields.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))?;
    Some(key.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and its answer in RFC 6455 §1.3.
    const REQUEST_HEAD: &[u8] =
        b"GET / HTTP/1.1\r\nSEC-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    #[test]
    fn the_example_of_the_rfc_is_accepted_once_it_is_whole() {
        for len in 0..REQUEST_HEAD.len() {
            assert_eq!(opening_reply(&REQUEST_HEAD[..len]).unwrap(), None, "{len}");
        }
        let reply = String::from_utf8(opening_reply(REQUEST_HEAD).unwrap().unwrap()).unwrap();
        assert!(reply.starts_with("HTTP/1.1 101 "), "{reply}");
        assert!(reply.ends_with("Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"), "{reply}");
    }

    #[test]
    fn bytes_behind_the_request_head_are_echoed_behind_the_reply() {
        let alone = opening_reply(REQUEST_HEAD).unwrap().unwrap();
        let with_more = opening_reply(&[REQUEST_HEAD, b"early"].concat()).unwrap().unwrap();
        assert_eq!(with_more, [&alone[..], b"early"].concat());
    }

    #[test]
    fn what_is_no_opening_handshake_is_refused() {
        assert!(opening_reply(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").is_err());
        assert!(opening_reply(&[b'x'; REQUEST_HEAD_LEN_MAX]).is_err());
    }
}
