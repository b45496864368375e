//! Writes the responses of HTTP/1.1 other than a 101: each is written whole and ends its
//! connection.

use bytes::Bytes;
use http::StatusCode;
use memchr::memmem;

use super::refusal::Refusal;

const HEAD_END: &[u8] = b"\r\n\r\n";

/// The response that refuses a request and ends its connection, with the reason as its body.
pub fn encode_refusal(refusal: &Refusal) -> Vec<u8> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-7.2.2
    //# Certain algorithms require or recommend that the server _Abort the WebSocket Connection_
    //# during the opening handshake. To do so, the server MUST simply _Close the WebSocket
    //# Connection_ (Section 7.1.1).
    let Refusal { status, headers, text } = refusal;
    let body = format!("{text}\n");
    encode_response(*status, "text/plain; charset=utf-8", headers, body.as_bytes())
}

/// The response that carries the page and ends its connection.
pub fn encode_page(page: &str) -> Vec<u8> {
    encode_response(StatusCode::OK, "text/html; charset=utf-8", PAGE_HEADERS, page.as_bytes())
}

/// The response to a health check while new connections are wanted.
pub fn encode_healthy() -> Vec<u8> {
    let headers = &[("Cache-Control", "no-store")];
    encode_response(StatusCode::OK, "text/plain; charset=utf-8", headers, b"ok\n")
}

/// Header fields of the page. Browsers give an isolated page a finer clock, and so finer round-trip
/// times.
const PAGE_HEADERS: &[(&str, &str)] = &[
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
    content_type: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Vec<u8> {
    let mut response = format!(
        "HTTP/1.1 {status}\r\n\
         Content-Type: {content_type}\r\n\
         Content-Length: {}\r\n\
         Connection: close\r\n",
        body.len()
    )
    .into_bytes();
    for part in headers.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]) {
        response.extend_from_slice(part.as_bytes());
    }
    response.extend_from_slice(b"\r\n");
    response.extend_from_slice(body);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_to_a_head_is_that_to_a_get_without_its_body() {
        let refusal =
            Refusal { status: StatusCode::NOT_FOUND, headers: &[], text: "nothing".to_owned() };
        for response in [encode_page("<page>"), encode_refusal(&refusal)] {
            let whole = String::from_utf8(response.clone()).unwrap();
            let (head, body) = whole.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())));
            assert_eq!(without_body(response.into()), format!("{head}\r\n\r\n"));
        }
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
