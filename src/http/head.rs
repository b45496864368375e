//! Reads request heads of HTTP/1.1: their length is bounded, and a fault is refused at the first
//! byte that shows it.
//!
//! monoio-http decodes a head once it is whole; the scanner here finds its end. Where the request
//! goes is left to [`route`](super::route). The invariant: no more than [`REQUEST_HEAD_LEN_MAX`]
//! bytes are held, and the scanner searches each of them once for the end of a line.

use bytes::BytesMut;
use http::Request;
use memchr::memchr2;
use monoio::io::AsyncReadRent;
use monoio_codec::{Decoded, Decoder};
use monoio_http::h1::codec::decoder::{DecodeError, RequestHeadDecoder};

use super::{foreign::ForeignProtocol, refusal::RequestRefusal};
use crate::protocol::token::is_token_byte;

/// The longest request head, in bytes, from the first of its request line to its empty line.
pub const REQUEST_HEAD_LEN_MAX: usize = 8 << 10;

/// The most header fields of a request head, which is the bound of monoio-http's decoder. A lower one
/// is left to whoever asks for the head.
pub const HEADER_FIELDS_MAX: usize = 96;

/// The longest method, in bytes: longer than any that is registered.
const METHOD_LEN_MAX: usize = 32;

/// Why no request head was read.
#[derive(Debug, PartialEq, Eq)]
pub enum HeadError {
    /// The peer ended the connection, or it broke, before a head was whole.
    PeerLeft,
    /// The request is refused, and the peer can be told so.
    Refused {
        /// Why it is refused.
        refusal: RequestRefusal,
        /// Whether it is a HEAD, whose response has no body.
        is_head: bool,
    },
}

/// Reads a request head, of which `received` has arrived. Bytes that arrived behind it, the first
/// frames, are returned with it.
pub async fn read_request_head(
    reader: &mut impl AsyncReadRent,
    mut received: BytesMut,
) -> Result<(Request<()>, BytesMut), HeadError> {
    let mut scanner = Scanner::default();
    if received.is_empty() {
        received = BytesMut::with_capacity(REQUEST_HEAD_LEN_MAX);
        received = read_more(reader, received).await?;
    }
    loop {
        let head = match scanner.reaches_end(&received) {
            Ok(true) => decode_request_head(&mut received).map(Some),
            Ok(false) if received.len() >= REQUEST_HEAD_LEN_MAX => Err(RequestRefusal::HeadTooLong),
            Ok(false) => Ok(None),
            Err(refusal) => Err(refusal),
        };
        match head {
            Ok(Some(head)) => return Ok((Request::from_parts(head, ()), received)),
            Ok(None) => received = read_more(reader, received).await?,
            Err(refusal) => {
                return Err(HeadError::Refused { refusal, is_head: scanner.is_head });
            }
        }
    }
}

/// Appends bytes that have arrived to those `received` before, up to the bound.
async fn read_more(
    reader: &mut impl AsyncReadRent,
    mut received: BytesMut,
) -> Result<BytesMut, HeadError> {
    let len = received.len();
    received.reserve(REQUEST_HEAD_LEN_MAX.saturating_sub(len));
    let unfilled = received.split_off(len);
    let (result, mut filled) = reader.read(unfilled).await;
    match result {
        Ok(0) | Err(_) => Err(HeadError::PeerLeft),
        Ok(len) => {
            // A layer such as TLS may have used more of the buffer than it has filled.
            filled.truncate(len);
            received.unsplit(filled);
            Ok(received)
        }
    }
}

/// Looks at the lines of a head as they arrive, however the bytes are cut. It refuses other protocols
/// at the first byte that shows them, since their peers wait for an answer before they send anything
/// that would end a head.
#[derive(Default)]
struct Scanner {
    /// The start of the line that is not whole yet.
    line_at: usize,
    /// How far that line has been searched for its end.
    searched: usize,
    /// Whether the request line has been read.
    in_fields: bool,
    /// Whether the method is HEAD.
    is_head: bool,
}

impl Scanner {
    /// Whether the head's end has arrived. `received` is everything from the head's first byte.
    fn reaches_end(&mut self, received: &[u8]) -> Result<bool, RequestRefusal> {
        loop {
            if !self.in_fields {
                check_beginning(&received[self.line_at..])?;
            }
            let Some(found) = memchr2(b'\r', b'\n', &received[self.searched..]) else {
                self.searched = received.len();
                return Ok(false);
            };
            let line_end = self.searched + found;
            //= https://www.rfc-editor.org/rfc/rfc9112#section-2.2
            //# A recipient of such a bare CR MUST consider that element to be
            //# invalid or replace each bare CR with SP before processing the
            //# element or forwarding the message.
            match &received[line_end..] {
                [b'\r', b'\n', ..] => {}
                [b'\r'] => {
                    self.searched = line_end;
                    return Ok(false);
                }
                _ => return Err(RequestRefusal::LineEndBare),
            }
            let line = &received[self.line_at..line_end];
            let is_first = self.line_at == 0;
            self.line_at = line_end + 2;
            self.searched = self.line_at;
            match line {
                [] if self.in_fields => return Ok(true),
                //= https://www.rfc-editor.org/rfc/rfc9112#section-2.2
                //# a server that is expecting to receive and parse a request-line SHOULD ignore
                //# at least one empty line (CRLF) received prior to the request-line.
                [] if is_first => {}
                [] => return Err(RequestRefusal::LinesEmpty),
                _ if self.in_fields => {}
                request_line => {
                    self.is_head = request_line.starts_with(b"HEAD ");
                    check_request_line(request_line)?;
                    self.in_fields = true;
                }
            }
        }
    }
}

/// Refuses bytes that cannot become a request line: they must be the beginning of a method, or a
/// method and a space.
fn check_beginning(beginning: &[u8]) -> Result<(), RequestRefusal> {
    if let Some(foreign) = ForeignProtocol::recognize(beginning) {
        return Err(RequestRefusal::Foreign(foreign));
    }
    let method_len =
        beginning.iter().take(METHOD_LEN_MAX + 1).take_while(|byte| is_token_byte(**byte)).count();
    match beginning.get(method_len) {
        _ if method_len > METHOD_LEN_MAX => Err(RequestRefusal::Malformed),
        None | Some(b'\r' | b'\n') => Ok(()),
        Some(b' ') if method_len > 0 => Ok(()),
        Some(_) => Err(RequestRefusal::Malformed),
    }
}

/// Refuses a request line that is not a method, a target and a version of HTTP/1.
fn check_request_line(line: &[u8]) -> Result<(), RequestRefusal> {
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    let (Some(version), None) = (words.next(), words.next()) else {
        return Err(RequestRefusal::Malformed);
    };
    match version.strip_prefix(b"HTTP/") {
        Some(b"1.1" | b"1.0") => Ok(()),
        Some([b'0'..=b'9', ..]) => Err(RequestRefusal::VersionUnsupported),
        _ => Err(RequestRefusal::Malformed),
    }
}

/// Takes a whole head from the front of `received`.
fn decode_request_head(received: &mut BytesMut) -> Result<http::request::Parts, RequestRefusal> {
    match RequestHeadDecoder.decode(received) {
        Ok(Decoded::Some(head)) => Ok(head),
        Err(DecodeError::Parse(httparse::Error::TooManyHeaders)) => {
            Err(RequestRefusal::HeaderFieldsTooMany(HEADER_FIELDS_MAX))
        }
        Ok(_) | Err(_) => Err(RequestRefusal::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;

    use super::*;

    fn read(mut input: &[u8]) -> Result<Request<()>, RequestRefusal> {
        match block_on(read_request_head(&mut input, BytesMut::new())) {
            Ok((request, _)) => Ok(request),
            Err(HeadError::Refused { refusal, .. }) => Err(refusal),
            Err(HeadError::PeerLeft) => panic!("the input ended before anything was clear"),
        }
    }

    //= https://www.rfc-editor.org/rfc/rfc9112#section-2.2
    //= type=test
    //# A recipient of such a bare CR MUST consider that element to be invalid or replace each bare
    //# CR with SP before processing the element or forwarding the message.
    #[test]
    fn what_is_no_request_is_refused_at_the_byte_that_shows_it() {
        use RequestRefusal::{LineEndBare, LinesEmpty, Malformed, VersionUnsupported};
        let foreign = RequestRefusal::Foreign;
        let too_long = [&b"GET / HTTP/1.1\r\nX: "[..], &[b'x'; 8 << 10]].concat();
        let too_many =
            format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADER_FIELDS_MAX + 1));
        // Each head is refused at its last byte, and not before.
        for (head, expected) in [
            (&b"\x16"[..], foreign(ForeignProtocol::Tls)),
            (b"\x05", foreign(ForeignProtocol::Socks)),
            (b"\x04", foreign(ForeignProtocol::Socks)),
            (b"\x81", foreign(ForeignProtocol::WebSocketFrame)),
            (b"\x02", foreign(ForeignProtocol::WebSocketFrame)),
            (b"SSH-", foreign(ForeignProtocol::Ssh)),
            (b"PROXY ", foreign(ForeignProtocol::ProxyHeader)),
            (b"\r\n\r\n", LinesEmpty),
            (b"\r\n\x16", foreign(ForeignProtocol::Tls)),
            (b"\0", Malformed),
            (b"\xff", Malformed),
            (b" ", Malformed),
            (b"{", Malformed),
            (b"GE\0", Malformed),
            (b"HTTP/", Malformed),
            (&[b'A'; METHOD_LEN_MAX + 1], Malformed),
            (b"QUIT\r\n", Malformed),
            (b"GET /\r\n", Malformed),
            (b"GET / \r\n", Malformed),
            (b"GET  / HTTP/1.1\r\n", Malformed),
            (b"GET / a HTTP/1.1\r\n", Malformed),
            (b"GET / http/1.1\r\n", Malformed),
            (b"GET / HTTP/1.1 \r\n", Malformed),
            (b"GET / HTTP/0.9\r\n", VersionUnsupported),
            (b"GET / HTTP/2.0\r\n", VersionUnsupported),
            (b"GET / HTTP/3\r\n", VersionUnsupported),
            (b"PRI * HTTP/2.0\r\n", VersionUnsupported),
            (b"\n", LineEndBare),
            (b"\r\n\n", LineEndBare),
            (b"\r\r", LineEndBare),
            (b"GET / HTTP/1.1\n", LineEndBare),
            (b"GET / HTTP/1.1\rH", LineEndBare),
            (b"GET / HTTP/1.1\r\nHost: a\n", LineEndBare),
            (b"GET / HTTP/1.1\r\nHost: a\rb", LineEndBare),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\n", LineEndBare),
            (b"GET / HTTP/1.1\r\nHost: a\r\r", LineEndBare),
            (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", Malformed),
            (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", Malformed),
            (b"GET / HTTP/1.1\r\nHo st: a\r\n\r\n", Malformed),
            (b"GET /\x7f HTTP/1.1\r\n\r\n", Malformed),
            (&too_long[..REQUEST_HEAD_LEN_MAX], RequestRefusal::HeadTooLong),
            (too_many.as_bytes(), RequestRefusal::HeaderFieldsTooMany(HEADER_FIELDS_MAX)),
        ] {
            let shown = head.escape_ascii();
            assert_eq!(read(head).unwrap_err(), expected, "{shown}");
            // Bytes behind it change nothing.
            let longer = [head, b" / HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            assert_eq!(read(&longer).unwrap_err(), expected, "{shown} and more");
            let mut scanner = Scanner::default();
            for received_len in 1..head.len() {
                assert_eq!(scanner.reaches_end(&head[..received_len]), Ok(false), "{shown}");
            }
            match scanner.reaches_end(head) {
                Ok(true) => {}
                Ok(false) => assert_eq!(head.len(), REQUEST_HEAD_LEN_MAX),
                Err(refusal) => assert_eq!(refusal, expected, "{shown}"),
            }
        }
    }

    #[test]
    fn one_empty_line_may_come_before_a_request() {
        let request = read(b"\r\nGET /ws HTTP/1.1\r\nHost: a\r\n\r\n\n\r").unwrap();
        assert_eq!(request.uri().path(), "/ws");
    }

    #[test]
    fn refusals_of_heads_know_whether_they_answer_a_head() {
        for (input, is_head) in [
            ("HEAD / HTTP/2.0\r\n", true),
            ("HEAD / HTTP/1.1\r\nno colon\r\n\r\n", true),
            ("\r\nHEAD / HTTP/1.1\r\nHost: a\n", true),
            ("GET /HEAD HTTP/2.0\r\n", false),
            ("HEADER / HTTP/2.0\r\n", false),
        ] {
            match block_on(read_request_head(&mut input.as_bytes(), BytesMut::new())) {
                Err(HeadError::Refused { is_head: known, .. }) => assert_eq!(known, is_head),
                other => panic!("{other:?}"),
            }
        }
    }
}
