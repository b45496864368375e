//! A response that does not open the connection: its status, where it points to, and what it says.

use std::{
    borrow::Cow,
    fmt,
    time::{Duration, Instant},
};

use http::header::{CONTENT_LENGTH, LOCATION, TRANSFER_ENCODING};
use monoio::time::timeout_at;

use super::{
    fields::{has_token, values},
    halves::ReadHalf,
    secrets::{Secrets, masked},
};
use crate::text::excerpt::excerpt;

/// Bytes of a body that are looked at, at most.
pub(crate) const BODY_LEN_MAX: usize = 4 * 1024;

/// Bytes of a body that are read at once.
const READ_LEN: usize = 4 * 1024;

/// How long a line of a body is waited for.
pub(super) const BODY_WAIT: Duration = Duration::from_millis(250);

/// The head of such a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Bytes of everything up to the body.
    pub(crate) head_len: usize,
    status: u16,
    location: Option<String>,
    framing: Framing,
}

/// What a response says that does not open the connection, without the secrets of the request. Texts
/// of the server are excerpts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusalReason {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    /// The first line of the body that is not empty.
    pub(crate) line: Option<String>,
    /// Where a redirect points to, as the server wrote it: not to be shown.
    pub(crate) redirect: Option<String>,
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered with status {} instead of 101", self.status)?;
        self.write_details(f)
    }
}

impl RefusalReason {
    /// The same of the answer to a stream's extended CONNECT, to which 200 agrees.
    pub(crate) fn of_stream(&self) -> impl fmt::Display + '_ {
        fmt::from_fn(|f| {
            write!(f, "the server answered with :status {} instead of 200", self.status)?;
            self.write_details(f)
        })
    }

    fn write_details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, ", and points to {location}")?;
            if self.redirect.is_some() {
                f.write_str(" (--follow goes there, once and before the load)")?;
            }
        }
        if let Some(line) = &self.line {
            write!(f, ": {line}")?;
        }
        Ok(())
    }
}

/// How a body ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Refusal {
    pub(crate) fn new(head_len: usize, status: u16, fields: &[httparse::Header<'_>]) -> Self {
        let text = |name| values(fields, name).next().map(String::from_utf8_lossy);
        let length = text(&CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let framing = match length {
            _ if matches!(status, 204 | 304) => Framing::Length(0),
            _ if has_token(fields, &TRANSFER_ENCODING, b"chunked") => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        };
        let location = text(&LOCATION).map(Cow::into_owned);
        Self { head_len, status, location, framing }
    }

    /// Whether the first line of a body that begins with `body` is there, or there will be none.
    pub(crate) fn is_told(&self, body: &[u8]) -> bool {
        let (content, is_whole) = self.framing.decode(body);
        let begun = content.trim_ascii_start();
        is_whole || body.len() >= BODY_LEN_MAX || begun.contains(&b'\n')
    }

    /// Reads what it says into `body`, up to the end of a line and until `deadline`. It is refused in
    /// any case, with a reason or without.
    pub(super) async fn hear(
        &self,
        body: &mut Vec<u8>,
        reader: &mut impl ReadHalf,
        deadline: Instant,
    ) {
        let read_line = async {
            while !self.is_told(body) {
                let (read, chunk) = reader.read(Vec::with_capacity(READ_LEN)).await;
                match read {
                    Ok(0) | Err(_) => return,
                    Ok(_) => body.extend_from_slice(&chunk),
                }
            }
        };
        let _ = timeout_at(deadline.into(), read_line).await;
    }

    /// What to say of a response with a body that begins with `body`.
    pub(crate) fn explain(self, body: &[u8], secrets: &Secrets) -> RefusalReason {
        let (content, _) = self.framing.decode(body);
        let text = String::from_utf8_lossy(&content);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty());
        let location = self.location.as_deref().map(masked);
        let is_redirect = matches!(self.status, 301 | 302 | 303 | 307 | 308);
        RefusalReason {
            redirect: self.location.clone().filter(|_| is_redirect),
            status: self.status,
            location: location.map(|location| excerpt(&secrets.masked_in(&location))),
            line: line.map(|line| excerpt(&secrets.masked_in(line))),
        }
    }
}

impl Framing {
    /// What of a body has been received, and whether that is all of it.
    fn decode(self, received: &[u8]) -> (Vec<u8>, bool) {
        match self {
            Self::Length(len) => {
                (received[..len.min(received.len())].to_vec(), received.len() >= len)
            }
            Self::Chunked => dechunk(received),
            Self::UntilClose => (received.to_vec(), false),
        }
    }
}

fn dechunk(received: &[u8]) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    let mut rest = received;
    loop {
        match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Partial) => return (content, false),
            Ok(httparse::Status::Complete((_, 0))) | Err(_) => return (content, true),
            Ok(httparse::Status::Complete((at, len))) => {
                rest = &rest[at..];
                let len = len as usize;
                content.extend_from_slice(&rest[..len.min(rest.len())]);
                // A CRLF stands behind each chunk.
                let Some(behind) = rest.get(len.saturating_add(2)..) else {
                    return (content, false);
                };
                rest = behind;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(fields: &[(&str, &str)], body: &str) -> (bool, RefusalReason) {
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| httparse::Header { name, value: value.as_bytes() })
            .collect();
        let refusal = Refusal::new(0, 401, &fields);
        (refusal.is_told(body.as_bytes()), refusal.explain(body.as_bytes(), &Secrets::default()))
    }

    #[test]
    fn the_first_line_that_says_something_is_told() {
        let chunked = [("transfer-encoding", "gzip, Chunked")];
        let length = [("content-length", "7")];
        for (fields, body, told, line) in [
            (&[][..], "", false, None),
            (&[], "\r\n\r\n no tok", false, Some("no tok")),
            (&[], "\r\n no token \r\nat all", true, Some("no token")),
            (&length, "no toke", true, Some("no toke")),
            (&length, "no toke and what is not of it", true, Some("no toke")),
            (&length, "no", false, Some("no")),
            (&[("content-length", "0")], "", true, None),
            (&chunked, "3\r\nno \r\n4;x=y\r\ntoke\r\n", false, Some("no toke")),
            (&chunked, "3\r\nno \r\n0\r\n\r\n", true, Some("no")),
            (&chunked, "ff\r\nno", false, Some("no")),
            (&chunked, "no chunk", true, None),
            (&[], "\x1b[31mred\n", true, Some("\u{1b}[31mred")),
        ] {
            let line = line.map(|line: &str| format!("{line:?}"));
            let error = RefusalReason { status: 401, location: None, line, redirect: None };
            assert_eq!(said(fields, body), (told, error), "{body:?}");
        }
    }
}
