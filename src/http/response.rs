//! Responses other than a 101: what each is, whichever HTTP carries it, and how HTTP/1.1 writes it.
//!
//! A [`Response`] knows nothing of connections: length and persistence are added by the writer.

use bytes::Bytes;
use http::StatusCode;
use memchr::memmem;

use super::{persistence::Persistence, refusal::Refusal, route::Methods};

const HEAD_END: &[u8] = b"\r\n\r\n";

const TEXT: &str = "text/plain; charset=utf-8";

/// A response, before an HTTP writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The media type of the body; `None` if there is no body.
    pub content_type: Option<&'static str>,
    /// Names and values of further header fields, but for those of the connection and of the length.
    pub fields: &'static [(&'static str, &'static str)],
    /// The content, also for a HEAD, whose response has its length and leaves it out.
    pub body: Bytes,
}

/// A response that is the same for everybody, written once.
#[derive(Clone, Debug)]
pub struct SharedResponse {
    response: Response,
    kept_alive: Bytes,
    closed: Bytes,
}

impl Response {
    /// The browser page.
    pub fn page(page: String) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: Some("text/html; charset=utf-8"),
            fields: PAGE_FIELDS,
            body: page.into(),
        }
    }

    /// The answer to a health check while new connections are wanted.
    pub fn healthy() -> Self {
        Self {
            status: StatusCode::OK,
            content_type: Some(TEXT),
            fields: &[("Cache-Control", "no-store")],
            body: Bytes::from_static(b"ok\n"),
        }
    }

    /// The answer to an OPTIONS: the methods that are possible, and nothing else.
    pub fn options(methods: Methods) -> Self {
        Self {
            status: StatusCode::NO_CONTENT,
            content_type: None,
            fields: methods.fields(),
            body: Bytes::new(),
        }
    }

    /// A request that is sent back as JSON.
    pub fn echo(json: Vec<u8>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: Some("application/json"),
            fields: ECHO_FIELDS,
            body: json.into(),
        }
    }

    /// The whole response as HTTP/1.1 writes it; without its body if the request is a HEAD.
    pub fn encode(&self, persistence: Persistence, is_head: bool) -> Vec<u8> {
        let Self { status, content_type, fields, body } = self;
        let body_len = body.len();
        let mut response = Vec::with_capacity(256 + if is_head { 0 } else { body_len });
        let mut put = |parts: &[&str]| {
            for part in parts {
                response.extend_from_slice(part.as_bytes());
            }
        };
        put(&["HTTP/1.1 ", status.as_str(), " ", status.canonical_reason().unwrap_or(""), "\r\n"]);
        if let Some(content_type) = content_type {
            put(&["Content-Type: ", content_type, "\r\n"]);
        }
        //= https://www.rfc-editor.org/rfc/rfc9110#section-8.6
        //# A server MUST NOT send a Content-Length header field in any response
        //# with a status code of 1xx (Informational) or 204 (No Content).
        if *status != StatusCode::NO_CONTENT {
            put(&["Content-Length: ", &body_len.to_string(), "\r\n"]);
        }
        put(&["Connection: ", persistence.connection_option(), "\r\n"]);
        for (name, value) in *fields {
            put(&[name, ": ", value, "\r\n"]);
        }
        put(&["\r\n"]);
        if !is_head {
            response.extend_from_slice(body);
        }
        response
    }
}

impl From<Refusal> for Response {
    fn from(Refusal { status, headers, text }: Refusal) -> Self {
        let body = (text + "\n").into();
        Self { status, content_type: Some(TEXT), fields: headers, body }
    }
}

impl SharedResponse {
    /// Writes a response, for all to share.
    pub fn new(response: &Response) -> Self {
        let encode = |persistence| response.encode(persistence, false).into();
        let (kept_alive, closed): (Bytes, Bytes) =
            (encode(Persistence::KeepAlive), encode(Persistence::Close));
        let body = closed.slice(closed.len() - response.body.len()..);
        Self { response: Response { body, ..*response }, kept_alive, closed }
    }

    /// The response itself.
    pub fn response(&self) -> &Response {
        &self.response
    }

    /// The whole response as HTTP/1.1 writes it; without its body if the request is a HEAD.
    pub fn encode(&self, persistence: Persistence, is_head: bool) -> Bytes {
        let whole = match persistence {
            Persistence::KeepAlive => &self.kept_alive,
            Persistence::Close => &self.closed,
        };
        let body_len = if is_head { self.response.body.len() } else { 0 };
        whole.slice(..whole.len() - body_len)
    }
}

/// The response that refuses a request and ends its connection, with the reason as its body.
pub fn encode_refusal(refusal: &Refusal) -> Vec<u8> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-7.2.2
    //# Certain algorithms require or recommend that the server _Abort the WebSocket Connection_
    //# during the opening handshake. To do so, the server MUST simply _Close the WebSocket
    //# Connection_ (Section 7.1.1).
    Response::from(refusal.clone()).encode(Persistence::Close, false)
}

/// The response to a health check while new connections are wanted, which ends the connection.
pub fn encode_healthy() -> Vec<u8> {
    Response::healthy().encode(Persistence::Close, false)
}

/// Header fields of the page. Browsers give an isolated page a finer clock, and so finer round-trip
/// times.
const PAGE_FIELDS: &[(&str, &str)] = &[
    ("Cache-Control", "no-cache"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Embedder-Policy", "require-corp"),
    ("X-Content-Type-Options", "nosniff"),
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
         connect-src ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
];

/// Header fields of a request that is sent back. It may hold what a proxy has added and what no page
/// of another site is to see, so such a page can neither read it nor load it as anything, and no
/// cache keeps it.
const ECHO_FIELDS: &[(&str, &str)] = &[
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
];

/// The response to a HEAD: the head of the response to a GET, with the length of its body, and no
/// body.
pub fn without_body(mut response: Bytes) -> Bytes {
    let head_end = memmem::find(&response, HEAD_END).map_or(response.len(), |at| at + 4);
    response.truncate(head_end);
    response
}

/// A response that ends its connection.
pub fn encode_response(
    status: StatusCode,
    content_type: &'static str,
    fields: &'static [(&'static str, &'static str)],
    body: Vec<u8>,
) -> Vec<u8> {
    let response = Response { status, content_type: Some(content_type), fields, body: body.into() };
    response.encode(Persistence::Close, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_to_a_head_is_that_to_a_get_without_its_body() {
        let refusal =
            Refusal { status: StatusCode::NOT_FOUND, headers: &[], text: "nothing".to_owned() };
        for response in [Response::page("<page>".to_owned()), refusal.into()] {
            for persistence in [Persistence::KeepAlive, Persistence::Close] {
                let whole = response.encode(persistence, false);
                let text = str::from_utf8(&whole).unwrap();
                let (head, body) = text.split_once("\r\n\r\n").unwrap();
                assert!(head.contains(&format!("Content-Length: {}", body.len())));
                let expected = format!("{head}\r\n\r\n");
                assert_eq!(without_body(whole.clone().into()), expected);
                assert_eq!(response.encode(persistence, true), expected.as_bytes());
                let shared = SharedResponse::new(&response);
                assert_eq!(shared.encode(persistence, true), expected);
                assert_eq!(shared.encode(persistence, false), whole);
            }
        }
    }

    #[test]
    fn response_without_content_has_no_length() {
        let response = Response::options(Methods::Page).encode(Persistence::KeepAlive, false);
        let expected = "HTTP/1.1 204 No Content\r\n\
            Connection: keep-alive\r\n\
            Allow: GET, HEAD, OPTIONS\r\n\r\n";
        assert_eq!(str::from_utf8(&response).unwrap(), expected);
    }

    #[test]
    fn refusal_is_written_with_its_headers_behind_those_of_every_response() {
        let refusal = Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            headers: &[("Retry-After", "5"), ("X-Other", "a, b")],
            text: "come back".to_owned(),
        };
        let response = "HTTP/1.1 503 Service Unavailable\r\n\
            Content-Type: text/plain; charset=utf-8\r\n\
            Content-Length: 10\r\n\
            Connection: close\r\n\
            Retry-After: 5\r\n\
            X-Other: a, b\r\n\r\n\
            come back\n";
        assert_eq!(String::from_utf8(encode_refusal(&refusal)).unwrap(), response);
    }
}
