//! The opening handshake of the hand-rolled echoes, answered as RFC 6455 §4.2.2 says. Of a request
//! head they look at nothing but the key.

use std::io;

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Longest request head that is answered.
pub const REQUEST_HEAD_LEN_MAX: usize = 4 << 10;

/// The 101 to what a client has sent so far, and the length of the request head in it. `None` while
/// the head's end is not there.
pub fn response(received: &[u8]) -> io::Result<Option<(Vec<u8>, usize)>> {
    let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if received.len() < REQUEST_HEAD_LEN_MAX {
            Ok(None)
        } else {
            Err(io::Error::other("the request head is longer than 4 KiB"))
        };
    };
    let request_head_len = end + 4;
    let request_head = String::from_utf8_lossy(&received[..request_head_len]);
    let key = websocket_key(&request_head)
        .ok_or_else(|| io::Error::other("the request head has no Sec-WebSocket-Key"))?;
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    Ok(Some((response.into_bytes(), request_head_len)))
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
            assert_eq!(response(&REQUEST_HEAD[..len]).unwrap(), None, "{len}");
        }
        let (response, len) = response(&[REQUEST_HEAD, b"early"].concat()).unwrap().unwrap();
        let response = String::from_utf8(response).unwrap();
        assert!(response.starts_with("HTTP/1.1 101 "), "{response}");
        assert!(response.ends_with("Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"), "{response}");
        assert_eq!(len, REQUEST_HEAD.len());
    }

    #[test]
    fn what_is_no_opening_handshake_is_refused() {
        assert!(response(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").is_err());
        assert!(response(&[b'x'; REQUEST_HEAD_LEN_MAX]).is_err());
    }
}
