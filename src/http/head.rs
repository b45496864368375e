//! Reads request heads of HTTP/1.1: their length is bounded, and a fault is refused at the first
//! byte that shows it.
//!
//! monoio-http decodes a head once it is whole; the scanner here finds its end. Where the request
//! goes is left to [`route`](super::route). The invariant: no more than [`REQUEST_HEAD_LEN_MAX`]
//! bytes are held, and the scanner searches each of them once for the end of a line.
//!
//! Requests may follow each other: what has arrived behind one is where the next is read from.

use bytes::{Bytes, BytesMut};
use http::Request;
use memchr::memchr2;
use monoio::{buf::IoBufMut, io::AsyncReadRent};
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

/// What a connection begins with that speaks HTTP/2 (RFC 9113 §3.4).
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a connection begins, and the bytes that have arrived.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub enum Beginning {
    /// With a request head of HTTP/1; behind it come the first frames.
    Http1(Request<()>, BytesMut),
    /// With the preface of HTTP/2, which is the first of these bytes.
    Http2(BytesMut),
}

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

/// A request head as it arrived, among the extensions of a request for which it was kept.
#[derive(Clone, Debug)]
pub struct HeadText(Bytes);

impl HeadText {
    /// The request target, and the names and values of the header fields in their order.
    pub fn parse<T>(
        &self,
        use_parsed: impl FnOnce(&str, &[httparse::Header<'_>]) -> T,
    ) -> Option<T> {
        let mut fields = [httparse::EMPTY_HEADER; HEADER_FIELDS_MAX];
        let mut head = httparse::Request::new(&mut fields);
        head.parse(&self.0).ok()?;
        Some(use_parsed(head.path?, head.headers))
    }
}

/// Reads a request head, of which `received` has arrived. Bytes that arrived behind it, the first
/// frames or the next request, are returned with it.
pub async fn read_request_head(
    reader: &mut impl AsyncReadRent,
    received: BytesMut,
) -> Result<(Request<()>, BytesMut), HeadError> {
    read_request(reader, received, false).await
}

/// The same. `keeps_text`: the head is also kept as it arrived, as a [`HeadText`].
pub async fn read_request(
    reader: &mut impl AsyncReadRent,
    mut received: BytesMut,
    keeps_text: bool,
) -> Result<(Request<()>, BytesMut), HeadError> {
    let mut scanner = Scanner::default();
    if received.is_empty() {
        received = read_more(reader, received).await?;
    }
    while !scanner.reaches_end(&received).map_err(|refusal| scanner.refuse(refusal))? {
        if received.len() >= REQUEST_HEAD_LEN_MAX {
            return Err(scanner.refuse_length());
        }
        received = read_more(reader, received).await?;
    }
    let text = keeps_text.then(|| {
        let head = &received[scanner.begins_at..scanner.line_at];
        HeadText(Bytes::copy_from_slice(head))
    });
    let head = decode_request_head(&mut received).map_err(|refusal| scanner.refuse(refusal))?;
    let mut request = Request::from_parts(head, ());
    if let Some(text) = text {
        request.extensions_mut().insert(text);
    }
    Ok((request, received))
}

/// Reads the first request head of a connection, of which `received` has arrived, or the preface of
/// HTTP/2.
pub async fn read_beginning(
    reader: &mut impl AsyncReadRent,
    mut received: BytesMut,
    keeps_text: bool,
) -> Result<Beginning, HeadError> {
    while HTTP2_PREFACE.starts_with(&received) && received.len() < HTTP2_PREFACE.len() {
        received = read_more(reader, received).await?;
    }
    if received.starts_with(HTTP2_PREFACE) {
        return Ok(Beginning::Http2(received));
    }
    let (request, early) = read_request(reader, received, keeps_text).await?;
    Ok(Beginning::Http1(request, early))
}

/// Appends bytes that have arrived to those `received` before, which are fewer than the bound, up to
/// the bound.
pub async fn read_more(
    reader: &mut impl AsyncReadRent,
    mut received: BytesMut,
) -> Result<BytesMut, HeadError> {
    // What is behind another head has the rest of that head's memory.
    if received.capacity() != REQUEST_HEAD_LEN_MAX {
        let mut whole = BytesMut::with_capacity(REQUEST_HEAD_LEN_MAX);
        whole.extend_from_slice(&received);
        received = whole;
    }
    let received_len = received.len();
    let (result, filled) = reader.read(received.slice_mut(received_len..)).await;
    let mut received = filled.into_inner();
    match result {
        Ok(0) | Err(_) => Err(HeadError::PeerLeft),
        Ok(len) => {
            // What was read counts, and not what has been used of the buffer on the way.
            received.truncate(received_len + len);
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
    /// Where the request line begins, once it has been read.
    begins_at: usize,
    /// Whether the method is HEAD.
    is_head: bool,
}

impl Scanner {
    /// Refuses the head, of which so much is known.
    fn refuse(&self, refusal: RequestRefusal) -> HeadError {
        HeadError::Refused { refusal, is_head: self.is_head }
    }

    /// Refuses a head that is too long without having ended.
    fn refuse_length(&self) -> HeadError {
        self.refuse(if self.in_fields {
            RequestRefusal::HeadTooLong
        } else {
            RequestRefusal::TargetTooLong
        })
    }

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
            let line_at = self.line_at;
            if line.is_empty() && !self.in_fields && line_at > 0 {
                // A PROXY header of version 2 begins with two empty lines too.
                self.searched = line_end;
                if received.len() == line_end + 2 {
                    return Ok(false);
                }
                let foreign = ForeignProtocol::recognize(received);
                return Err(foreign.map_or(RequestRefusal::LinesEmpty, RequestRefusal::Foreign));
            }
            self.line_at = line_end + 2;
            self.searched = self.line_at;
            match line {
                [] if self.in_fields => return Ok(true),
                //= https://www.rfc-editor.org/rfc/rfc9112#section-2.2
                //# a server that is expecting to receive and parse a request-line SHOULD ignore
                //# at least one empty line (CRLF) received prior to the request-line.
                [] => {}
                _ if self.in_fields => {}
                request_line => {
                    self.is_head = request_line.starts_with(b"HEAD ");
                    check_request_line(request_line)?;
                    self.begins_at = line_at;
                    self.in_fields = true;
                }
            }
        }
    }
}

/// Refuses bytes that cannot become a request line: they must be the beginning of a method, or a
/// method and a space.
fn check_beginning(beginning: &[u8]) -> Result<(), RequestRefusal> {
    if let [b'\r' | b'\n', ..] = beginning {
        // Empty lines are judged once it is known how many there are, however much has arrived.
        return Ok(());
    }
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
        let target_too_long = [&b"GET /"[..], &[b'x'; 8 << 10]].concat();
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
            (b"\r\n\r\n\0", foreign(ForeignProtocol::ProxyHeader)),
            (b"\r\n\r\nG", LinesEmpty),
            (b"\r\n\r\n\r", LinesEmpty),
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
            (&target_too_long[..REQUEST_HEAD_LEN_MAX], RequestRefusal::TargetTooLong),
            (too_many.as_bytes(), RequestRefusal::HeaderFieldsTooMany(HEADER_FIELDS_MAX)),
        ] {
            let shown = head.escape_ascii();
            assert_eq!(read(head).unwrap_err(), expected, "{shown}");
            // Bytes behind it change nothing.
            for behind in [&b" / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"\n\0"] {
                let longer = [head, behind].concat();
                assert_eq!(read(&longer).unwrap_err(), expected, "{shown} and more");
            }
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
    fn requests_that_came_together_are_read_one_by_one_however_they_are_cut() {
        let heads: Vec<_> =
            (0..200).map(|at| format!("GET /{at} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
        let input = heads.concat();
        for early_len in [0, 1, 40, 4000] {
            let (early, mut rest) = input.as_bytes().split_at(early_len);
            let mut received = BytesMut::from(early);
            for (at, expected) in heads.iter().enumerate() {
                let read = block_on(read_request(&mut rest, received, true));
                let (request, behind) = read.unwrap();
                assert_eq!(request.uri().path(), format!("/{at}"));
                let HeadText(text) = request.extensions().get().unwrap();
                assert_eq!(text, expected);
                assert!(behind.len() < REQUEST_HEAD_LEN_MAX);
                received = behind;
            }
            assert_eq!((rest.len(), received.len()), (0, 0));
        }
    }

    #[test]
    fn preface_of_http_2_is_recognised_however_it_is_cut_and_nothing_else_is() {
        struct ByteByByte<'a>(&'a [u8]);
        impl AsyncReadRent for ByteByByte<'_> {
            async fn read<T: IoBufMut>(&mut self, buffer: T) -> monoio::BufResult<usize, T> {
                let (mut byte, left) = self.0.split_at(self.0.len().min(1));
                self.0 = left;
                AsyncReadRent::read(&mut byte, buffer).await
            }

            async fn readv<T: monoio::buf::IoVecBufMut>(
                &mut self,
                buffers: T,
            ) -> monoio::BufResult<usize, T> {
                (Err(std::io::ErrorKind::Unsupported.into()), buffers)
            }
        }
        let read = |input| block_on(read_beginning(&mut ByteByByte(input), BytesMut::new(), false));
        match read(HTTP2_PREFACE) {
            Ok(Beginning::Http2(received)) => assert_eq!(received, HTTP2_PREFACE),
            other => panic!("{other:?}"),
        }
        let whole = [HTTP2_PREFACE, b"\0\0\0"].concat();
        match block_on(read_beginning(&mut &whole[..], BytesMut::new(), false)) {
            Ok(Beginning::Http2(received)) => assert_eq!(received, whole),
            other => panic!("{other:?}"),
        }
        match read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r.") {
            Err(HeadError::Refused { refusal, .. }) => {
                assert_eq!(refusal, RequestRefusal::VersionUnsupported);
            }
            other => panic!("{other:?}"),
        }
        match read(b"P /ws HTTP/1.1\r\nHost: a\r\n\r\n") {
            Ok(Beginning::Http1(request, _)) => assert_eq!(request.method(), "P"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn text_of_a_head_has_its_fields_as_they_came() {
        let input =
            b"\r\nPOST /a?b HTTP/1.1\r\nhOst: a\r\nX-A: 1\r\nx-b: 2\r\nX-A:  3 \r\n\r\nbody";
        let read = block_on(read_request(&mut &input[..], BytesMut::new(), true));
        let (request, behind) = read.unwrap();
        let fields = request.extensions().get::<HeadText>().unwrap().parse(|target, fields| {
            let fields = fields.iter().map(|it| format!("{}={}", it.name, it.value.escape_ascii()));
            (target.to_owned(), fields.collect::<Vec<_>>())
        });
        let expected = ["hOst=a", "X-A=1", "x-b=2", "X-A=3"].map(ToOwned::to_owned).to_vec();
        assert_eq!(fields, Some(("/a?b".to_owned(), expected)));
        assert_eq!(&behind[..], b"body");
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
