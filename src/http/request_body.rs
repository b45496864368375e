//! Where a request's body ends (RFC 9112 §6 and §7.1), and how it is read.
//!
//! A request whose end is not certain is refused, since whoever stands between client and server might
//! see the end elsewhere, and a second request inside of the first (request smuggling, §11.2). So what
//! may be read in two ways is an error here, even where the standard lets a server choose.
//!
//! The invariant: no more is kept than the data up to [`RequestBody::new`]'s bound; of framing, no
//! more is read than [`OVERHEAD_LEN_MAX`] beside the sizes of chunks.

use bytes::{Buf, BytesMut};
use http::{
    HeaderMap, Method, Request, Version,
    header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING},
};
use memchr::memchr;
use monoio::io::AsyncReadRent;

use super::{
    head::{HeadError, read_more},
    refusal::RequestRefusal,
};
use crate::protocol::token::is_token_byte;

/// The longest body that is read only to be discarded, in bytes. Beyond that, a new connection costs
/// the client less than the rest of the body.
pub const DISCARDED_BODY_LEN_MAX: u64 = 64 << 10;

/// The longest line of a chunked body, in bytes: a chunk's size with its extensions, or a field of the
/// trailer section.
const LINE_LEN_MAX: usize = 1 << 10;

/// Bytes of chunk extensions and of the trailer section together. They are discarded, so this is a
/// bound on work: data may not hide in them.
const OVERHEAD_LEN_MAX: usize = 8 << 10;

/// Hexadecimal digits of a chunk's size, leading zeros included: those of a `u64`.
const CHUNK_DIGITS_MAX: usize = 16;

/// How the end of a request's body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// The body has this length, in bytes, and that is not 0.
    Length(u64),
    /// The body consists of chunks, the last of which is empty.
    Chunked,
}

/// Why a body was not read.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The peer ended the connection, or it broke.
    PeerLeft,
    /// The request is refused, and where it ends is not known.
    Refused(RequestRefusal),
}

impl Framing {
    /// The framing of a request.
    pub fn of(request: &Request<()>) -> Result<Self, RequestRefusal> {
        let headers = request.headers();
        let is_old = request.version() == Version::HTTP_10;
        let codings = headers.contains_key(TRANSFER_ENCODING);
        let lengths = headers.contains_key(CONTENT_LENGTH);
        match (codings, lengths) {
            //= https://www.rfc-editor.org/rfc/rfc9112#section-6.3
            //# If a message is received with both a Transfer-Encoding and a
            //# Content-Length header field, the Transfer-Encoding overrides the
            //# Content-Length.  Such a message might indicate an attempt to
            //# perform request smuggling (Section 11.2) or response splitting
            //# (Section 11.1) and ought to be handled as an error.
            (true, true) => Err(RequestRefusal::LengthUnclear),
            //= https://www.rfc-editor.org/rfc/rfc9112#section-6.1
            //# A server or client that receives an HTTP/1.0 message containing a
            //# Transfer-Encoding header field MUST treat the message as if the
            //# framing is faulty, even if a Content-Length is present, and close the
            //# connection after processing the message.
            (true, false) if is_old => Err(RequestRefusal::LengthUnclear),
            (true, false) => check_codings(headers).map(|()| Self::Chunked),
            (false, true) => match content_length(headers)? {
                0 => Ok(Self::None),
                length => Ok(Self::Length(length)),
            },
            // An HTTP/1.0 client may end such a body by the end of its side.
            (false, false) if is_old && has_body_by_nature(request.method()) => {
                Err(RequestRefusal::LengthMissing)
            }
            (false, false) => Ok(Self::None),
        }
    }
}

/// Whether the client waits for a 100 before it sends the body; a refusal if it waits for something
/// else. HTTP/1.0 has no expectations.
pub fn expects_continue(request: &Request<()>) -> Result<bool, RequestRefusal> {
    if request.version() == Version::HTTP_10 {
        return Ok(false);
    }
    let mut expected = request.headers().get_all(EXPECT).iter().peekable();
    let is_any = expected.peek().is_some();
    //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
    //# A server that receives an Expect field value containing a member other
    //# than 100-continue MAY respond with a 417 (Expectation Failed) status code
    //# to indicate that the unexpected expectation cannot be met.
    if expected.any(|it| !it.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(RequestRefusal::ExpectationUnknown);
    }
    Ok(is_any)
}

/// Whether requests with this method have a body as a rule.
fn has_body_by_nature(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Refuses all transfer codings but chunked, once.
fn check_codings(headers: &HeaderMap) -> Result<(), RequestRefusal> {
    let values = headers.get_all(TRANSFER_ENCODING).iter();
    let codings = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let codings: Vec<&[u8]> = codings.map(trim_blanks).collect();
    let is_chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
    //= https://www.rfc-editor.org/rfc/rfc9112#section-6.3
    //# If a Transfer-Encoding header field is present in a request and the
    //# chunked transfer coding is not the final encoding, the message body
    //# length cannot be determined reliably; the server MUST respond with the
    //# 400 (Bad Request) status code and then close the connection.
    match &codings[..] {
        [coding] if is_chunked(coding) => Ok(()),
        [others @ .., last] if is_chunked(last) && !others.iter().any(is_chunked) => {
            Err(RequestRefusal::TransferCodingUnknown)
        }
        _ => Err(RequestRefusal::LengthUnclear),
    }
}

/// The value of `Content-Length`. Two are refused even if they are equal: a recipient may take the
/// list that they form for no number.
fn content_length(headers: &HeaderMap) -> Result<u64, RequestRefusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (Some(length), None) = (lengths.next(), lengths.next()) else {
        return Err(RequestRefusal::LengthUnclear);
    };
    // A number may be parsed with a sign, which a length has not.
    let digits = length.to_str().ok().filter(|it| it.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(RequestRefusal::LengthUnclear)
}

fn trim_blanks(text: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text.iter().position(|byte| !is_blank(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    &text[start..end]
}

/// A body that is being read, cut however it arrives.
#[derive(Debug)]
pub struct RequestBody {
    stage: Stage,
    /// The data, if it is kept.
    data: Option<Vec<u8>>,
    /// Bytes of data that the framing has promised so far.
    promised_len: u64,
    len_max: u64,
    /// Bytes of chunk extensions and of the trailer section so far.
    overhead_len: usize,
}

/// What comes next in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// So many bytes of a body without chunks.
    Data(u64),
    /// The line with a chunk's size.
    ChunkSize,
    /// So many bytes of a chunk.
    ChunkData(u64),
    /// The line's end behind a chunk's data.
    ChunkEnd,
    /// A field of the trailer section, or its empty line.
    Trailers,
    /// Nothing: the body is whole.
    End,
}

impl RequestBody {
    /// A body of at most `len_max` bytes of data, whose data is kept or not.
    pub fn new(framing: Framing, len_max: u64, is_kept: bool) -> Result<Self, RequestRefusal> {
        let (stage, promised_len) = match framing {
            Framing::None => (Stage::End, 0),
            Framing::Length(length) => (Stage::Data(length), length),
            Framing::Chunked => (Stage::ChunkSize, 0),
        };
        let data = is_kept.then(Vec::new);
        let mut body = Self { stage, data, promised_len: 0, len_max, overhead_len: 0 };
        body.promise(promised_len)?;
        Ok(body)
    }

    /// So much more data is to come.
    fn promise(&mut self, len: u64) -> Result<(), RequestRefusal> {
        self.promised_len = self.promised_len.saturating_add(len);
        if self.promised_len > self.len_max {
            return Err(RequestRefusal::BodyTooLong(self.len_max));
        }
        Ok(())
    }

    /// Whether all of it has been taken.
    pub fn is_whole(&self) -> bool {
        self.stage == Stage::End
    }

    /// The data, if it was kept.
    pub fn into_data(self) -> Vec<u8> {
        self.data.unwrap_or_default()
    }

    /// How much memory the data takes.
    pub fn held_len(&self) -> usize {
        self.data.as_ref().map_or(0, Vec::capacity)
    }

    /// Reads on, until the body is whole or has made a step. `received` has arrived already; what
    /// belongs to the body is taken from its front.
    pub async fn read_on(
        &mut self,
        reader: &mut impl AsyncReadRent,
        received: &mut BytesMut,
    ) -> Result<(), BodyError> {
        let more = read_more(reader, std::mem::take(received)).await;
        *received = more.map_err(|error| match error {
            HeadError::PeerLeft => BodyError::PeerLeft,
            HeadError::Refused { refusal, .. } => BodyError::Refused(refusal),
        })?;
        self.take_from(received).map_err(BodyError::Refused)
    }

    /// Takes what belongs to the body from the front of `received`.
    pub fn take_from(&mut self, received: &mut BytesMut) -> Result<(), RequestRefusal> {
        loop {
            self.stage = match self.stage {
                Stage::Data(left) => match self.take_data(left, received) {
                    0 => Stage::End,
                    left => return self.wait_at(Stage::Data(left)),
                },
                Stage::ChunkData(left) => match self.take_data(left, received) {
                    0 => Stage::ChunkEnd,
                    left => return self.wait_at(Stage::ChunkData(left)),
                },
                Stage::ChunkEnd => match received[..] {
                    [b'\r', b'\n', ..] => {
                        received.advance(2);
                        Stage::ChunkSize
                    }
                    [] | [b'\r'] => return Ok(()),
                    _ => return Err(RequestRefusal::BodyMalformed),
                },
                Stage::ChunkSize => {
                    let Some(line) = take_line(received)? else { return Ok(()) };
                    let (size, extensions) = parse_chunk_size(&line)?;
                    self.count_overhead(extensions.len())?;
                    self.promise(size)?;
                    if size == 0 { Stage::Trailers } else { Stage::ChunkData(size) }
                }
                Stage::Trailers => {
                    let Some(line) = take_line(received)? else { return Ok(()) };
                    if line.is_empty() {
                        Stage::End
                    } else {
                        check_trailer(&line)?;
                        self.count_overhead(line.len())?;
                        Stage::Trailers
                    }
                }
                Stage::End => return Ok(()),
            };
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is the outcome of its caller")]
    fn wait_at(&mut self, stage: Stage) -> Result<(), RequestRefusal> {
        self.stage = stage;
        Ok(())
    }

    /// Takes data of which so much is to come, and returns how much is left.
    fn take_data(&mut self, left: u64, received: &mut BytesMut) -> u64 {
        let len = left.min(received.len() as u64);
        if let Some(data) = &mut self.data {
            data.extend_from_slice(&received[..len as usize]);
        }
        received.advance(len as usize);
        left - len
    }

    fn count_overhead(&mut self, len: usize) -> Result<(), RequestRefusal> {
        self.overhead_len += len;
        if self.overhead_len > OVERHEAD_LEN_MAX {
            return Err(RequestRefusal::BodyMalformed);
        }
        Ok(())
    }
}

/// Takes a line without its end; `None` if it is not whole yet.
fn take_line(received: &mut BytesMut) -> Result<Option<BytesMut>, RequestRefusal> {
    let searched = &received[..received.len().min(LINE_LEN_MAX)];
    let Some(end) = memchr(b'\n', searched) else {
        let is_too_long = searched.len() == LINE_LEN_MAX;
        return if is_too_long { Err(RequestRefusal::BodyMalformed) } else { Ok(None) };
    };
    let mut line = received.split_to(end + 1);
    // A line feed alone ends no line, and neither it nor a return may be within one: recipients
    // disagree about both.
    let is_well_formed = line.ends_with(b"\r\n")
        && line[..end - 1].iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    if !is_well_formed {
        return Err(RequestRefusal::BodyMalformed);
    }
    line.truncate(end - 1);
    Ok(Some(line))
}

/// The size of a chunk, and its extensions, which nobody here knows.
fn parse_chunk_size(line: &[u8]) -> Result<(u64, &[u8]), RequestRefusal> {
    let digits_len = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extensions) = line.split_at(digits_len);
    let is_well_formed = (1..=CHUNK_DIGITS_MAX).contains(&digits_len)
        && (extensions.is_empty() || trim_blanks(extensions).starts_with(b";"));
    let digits = str::from_utf8(digits).ok().filter(|_| is_well_formed);
    let size = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    Ok((size.ok_or(RequestRefusal::BodyMalformed)?, extensions))
}

/// Refuses what is no field of a trailer section.
fn check_trailer(line: &[u8]) -> Result<(), RequestRefusal> {
    let name_len = line.iter().take_while(|byte| is_token_byte(**byte)).count();
    if name_len == 0 || line.get(name_len) != Some(&b':') {
        return Err(RequestRefusal::BodyMalformed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;

    use super::*;
    use crate::http::read_request_head;

    fn framing(request_line: &str, fields: &str) -> Result<Framing, RequestRefusal> {
        let head = format!("{request_line}\r\nHost: a\r\n{fields}\r\n");
        let read = block_on(read_request_head(&mut head.as_bytes(), BytesMut::new()));
        Framing::of(&read.unwrap().0)
    }

    #[test]
    fn length_of_a_body_is_told_in_one_way_or_the_request_is_refused() {
        use RequestRefusal::{LengthMissing, LengthUnclear, TransferCodingUnknown};
        for (fields, expected) in [
            ("", Ok(Framing::None)),
            ("Content-Length: 0\r\n", Ok(Framing::None)),
            ("Content-Length: 5\r\n", Ok(Framing::Length(5))),
            ("Content-Length: 0005\r\n", Ok(Framing::Length(5))),
            ("Content-Length:\t5 \r\n", Ok(Framing::Length(5))),
            ("Content-Length: 18446744073709551615\r\n", Ok(Framing::Length(u64::MAX))),
            ("Transfer-Encoding: chunked\r\n", Ok(Framing::Chunked)),
            ("transfer-encoding: \tCHUNKED \r\n", Ok(Framing::Chunked)),
            // Two ways at once.
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(LengthUnclear)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", Err(LengthUnclear)),
            ("Content-Length: 5\r\nTransfer-Encoding: identity\r\n", Err(LengthUnclear)),
            ("Content-Length: 5\r\ntransfer-encoding: x\r\n", Err(LengthUnclear)),
            // Lengths that are no number, or several.
            ("Content-Length: 5\r\nContent-Length: 6\r\n", Err(LengthUnclear)),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Err(LengthUnclear)),
            ("Content-Length: 5, 5\r\n", Err(LengthUnclear)),
            ("Content-Length: 5,\r\n", Err(LengthUnclear)),
            ("Content-Length:\r\n", Err(LengthUnclear)),
            ("Content-Length: +5\r\n", Err(LengthUnclear)),
            ("Content-Length: -5\r\n", Err(LengthUnclear)),
            ("Content-Length: 0x5\r\n", Err(LengthUnclear)),
            ("Content-Length: 5 5\r\n", Err(LengthUnclear)),
            ("Content-Length: 5.0\r\n", Err(LengthUnclear)),
            ("Content-Length: 1e3\r\n", Err(LengthUnclear)),
            ("Content-Length: \"5\"\r\n", Err(LengthUnclear)),
            ("Content-Length: \u{661}\r\n", Err(LengthUnclear)),
            ("Content-Length: 18446744073709551616\r\n", Err(LengthUnclear)),
            // Codings that are not chunked alone.
            ("Transfer-Encoding: gzip, chunked\r\n", Err(TransferCodingUnknown)),
            (
                "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
                Err(TransferCodingUnknown),
            ),
            ("Transfer-Encoding: identity, chunked\r\n", Err(TransferCodingUnknown)),
            ("Transfer-Encoding: chunked, gzip\r\n", Err(LengthUnclear)),
            ("Transfer-Encoding: chunked, identity\r\n", Err(LengthUnclear)),
            ("Transfer-Encoding: chunked, chunked\r\n", Err(LengthUnclear)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(LengthUnclear)),
            ("Transfer-Encoding: gzip\r\n", Err(LengthUnclear)),
            ("Transfer-Encoding: identity\r\n", Err(LengthUnclear)),
            ("Transfer-Encoding: xchunked\r\n", Err(LengthUnclear)),
            ("Transfer-Encoding: chunked;q=1\r\n", Err(LengthUnclear)),
            ("Transfer-Encoding: \"chunked\"\r\n", Err(LengthUnclear)),
            ("Transfer-Encoding: chunked,\r\n", Err(LengthUnclear)),
            ("Transfer-Encoding:\r\n", Err(LengthUnclear)),
            ("Transfer-Encoding: ch\u{fc}nked\r\n", Err(LengthUnclear)),
        ] {
            assert_eq!(framing("POST / HTTP/1.1", fields), expected, "{fields:?}");
        }
        for (request_line, fields, expected) in [
            ("GET / HTTP/1.0", "", Ok(Framing::None)),
            ("DELETE / HTTP/1.0", "", Ok(Framing::None)),
            ("POST / HTTP/1.0", "Content-Length: 5\r\n", Ok(Framing::Length(5))),
            ("POST / HTTP/1.0", "", Err(LengthMissing)),
            ("PUT / HTTP/1.0", "", Err(LengthMissing)),
            ("POST / HTTP/1.0", "Transfer-Encoding: chunked\r\n", Err(LengthUnclear)),
            ("GET / HTTP/1.1", "Content-Length: 5\r\n", Ok(Framing::Length(5))),
        ] {
            assert_eq!(framing(request_line, fields), expected, "{request_line} {fields:?}");
        }
    }

    /// The data of a body and what is behind it, `None` if more would have to come.
    type Outcome<T> = Result<Option<(T, T)>, RequestRefusal>;

    /// What is read of a body that arrives in pieces.
    fn read(framing: Framing, input: &[u8], piece_len: usize) -> Outcome<Vec<u8>> {
        let mut body = RequestBody::new(framing, 20, true)?;
        let mut received = BytesMut::new();
        for piece in input.chunks(piece_len) {
            received.extend_from_slice(piece);
            body.take_from(&mut received)?;
        }
        let is_whole = body.is_whole();
        assert!(body.held_len() <= 64);
        Ok(is_whole.then(|| (body.into_data(), received.to_vec())))
    }

    fn assert_reads(framing: Framing, input: &[u8], expected: &Outcome<&[u8]>) {
        let expected = expected.clone().map(|it| it.map(|(a, b)| (a.to_vec(), b.to_vec())));
        for piece_len in [1, 2, 3, 7, input.len().max(1)] {
            assert_eq!(
                read(framing, input, piece_len),
                expected,
                "{} by {piece_len}",
                input.escape_ascii()
            );
        }
    }

    #[test]
    fn body_of_a_known_length_ends_there() {
        let (length, none) = (Framing::Length, Framing::None);
        assert_reads(none, b"GET /", &Ok(Some((b"", b"GET /"))));
        assert_reads(length(5), b"hello", &Ok(Some((b"hello", b""))));
        assert_reads(length(5), b"helloGET /", &Ok(Some((b"hello", b"GET /"))));
        assert_reads(length(5), b"hell", &Ok(None));
        assert_reads(length(20), &[b'a'; 20], &Ok(Some((&[b'a'; 20], b""))));
        assert_reads(length(21), b"", &Err(RequestRefusal::BodyTooLong(20)));
        assert_reads(length(u64::MAX), b"", &Err(RequestRefusal::BodyTooLong(20)));
    }

    #[test]
    fn chunks_are_joined_and_everything_else_in_them_is_discarded_or_refused() {
        use RequestRefusal::{BodyMalformed, BodyTooLong};
        let long_extension = [b"1;", &[b'x'; LINE_LEN_MAX][..]].concat();
        let many_extensions = [&[b'1', b';'][..], &[b'x'; 900], b"\r\na\r\n"].concat().repeat(10);
        let many_trailers = [b"0\r\n", &b"x: y\r\n".repeat(3000)[..]].concat();
        for (input, expected) in [
            (&b"0\r\n\r\n"[..], Ok(Some((&b""[..], &b""[..])))),
            (b"5\r\nhello\r\n0\r\n\r\nGET", Ok(Some((b"hello", b"GET")))),
            (b"1\r\na\r\n00a\r\n0123456789\r\n000\r\n\r\n", Ok(Some((b"a0123456789", b"")))),
            (b"A\r\n0123456789\r\n0\r\n\r\n", Ok(Some((b"0123456789", b"")))),
            (b"2\r\n\r\n\r\n0\r\n\r\n", Ok(Some((b"\r\n", b"")))),
            (b"1;a=b;c\r\nx\r\n0;d\r\n\r\n", Ok(Some((b"x", b"")))),
            (b"1 \t;a\r\nx\r\n0\r\n\r\n", Ok(Some((b"x", b"")))),
            (b"0\r\nx-a: b\r\nY:\r\n\r\nrest", Ok(Some((b"", b"rest")))),
            (b"5\r\nhel", Ok(None)),
            (b"5\r\nhello\r\n0\r\n", Ok(None)),
            (b"15\r\n", Err(BodyTooLong(20))),
            (b"14\r\n01234567890123456789\r\n1\r\n", Err(BodyTooLong(20))),
            (b"ffffffffffffffff\r\n", Err(BodyTooLong(20))),
            // Sizes that others may read as other numbers.
            (b"10000000000000000\r\n", Err(BodyMalformed)),
            (b"00000000000000001\r\n", Err(BodyMalformed)),
            (b"\r\n", Err(BodyMalformed)),
            (b"0x5\r\n", Err(BodyMalformed)),
            (b"+5\r\n", Err(BodyMalformed)),
            (b"-5\r\n", Err(BodyMalformed)),
            (b" 5\r\n", Err(BodyMalformed)),
            (b"5 \r\n", Err(BodyMalformed)),
            (b"5_0\r\n", Err(BodyMalformed)),
            (b"g\r\n", Err(BodyMalformed)),
            (b"5,\r\n", Err(BodyMalformed)),
            // Lines that others may end elsewhere.
            (b"5\nhello\r\n0\r\n\r\n", Err(BodyMalformed)),
            (b"5\r\nhello\n0\r\n\r\n", Err(BodyMalformed)),
            (b"5\r\nhello0\r\n\r\n", Err(BodyMalformed)),
            (b"5\r\nhello\r0\r\n\r\n", Err(BodyMalformed)),
            (b"1;a\rb\r\nx\r\n0\r\n\r\n", Err(BodyMalformed)),
            (b"1;a\0\r\nx\r\n0\r\n\r\n", Err(BodyMalformed)),
            (b"1;a\n\r\nx\r\n0\r\n\r\n", Err(BodyMalformed)),
            (b"0\r\n\n", Err(BodyMalformed)),
            (b"0\n\r\n", Err(BodyMalformed)),
            (b"0\r\nno colon\r\n\r\n", Err(BodyMalformed)),
            (b"0\r\n: b\r\n\r\n", Err(BodyMalformed)),
            (b"0\r\na b: c\r\n\r\n", Err(BodyMalformed)),
            (b"0\r\nGET / HTTP/1.1\r\n\r\n", Err(BodyMalformed)),
            // More than a bound of what is discarded.
            (&long_extension, Err(BodyMalformed)),
            (&many_extensions, Err(BodyMalformed)),
            (&many_trailers, Err(BodyMalformed)),
        ] {
            assert_reads(Framing::Chunked, input, &expected);
        }
    }

    #[test]
    fn only_a_100_can_be_expected() {
        for (version, values, expected) in [
            (Version::HTTP_11, &[][..], Ok(false)),
            (Version::HTTP_11, &["100-continue"], Ok(true)),
            (Version::HTTP_11, &["100-Continue"], Ok(true)),
            (Version::HTTP_11, &["tea"], Err(RequestRefusal::ExpectationUnknown)),
            (Version::HTTP_11, &["100-continue", "tea"], Err(RequestRefusal::ExpectationUnknown)),
            (Version::HTTP_10, &["100-continue"], Ok(false)),
            (Version::HTTP_10, &["tea"], Ok(false)),
        ] {
            let mut request = Request::builder().version(version);
            for value in values {
                request = request.header(EXPECT, *value);
            }
            assert_eq!(expects_continue(&request.body(()).unwrap()), expected, "{values:?}");
        }
    }
}
