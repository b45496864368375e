//! The extended CONNECT that opens a WebSocket (RFC 8441 §5), and what its response has to be.

use std::{future::poll_fn, time::Duration};

use bytes::BytesMut;
use h2::{RecvStream, ext::Protocol};
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{
        AUTHORIZATION, HOST, LOCATION, ORIGIN, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION,
    },
};
use monoio::time::timeout;

use crate::wire::{
    handshake::{HandshakeError, agreement},
    permessage_deflate,
    refusal::{BODY_LEN_MAX, Refusal},
    request::{Field, Request as Http1Request, Subprotocol},
    secrets::Secrets,
    target::Target,
};

/// How long a line of a refusal's body is waited for.
const BODY_WAIT: Duration = Duration::from_millis(250);

/// The request of every stream.
#[derive(Clone, Debug)]
pub(crate) struct ConnectRequest {
    head: Request<()>,
}

/// The `-H 'Host: …'` that cannot be an `:authority`.
#[derive(Debug)]
pub(crate) struct AuthorityError(pub(crate) String);

impl ConnectRequest {
    /// The request for `target`. As in HTTP/1.1, fields that are given replace those that it has
    /// anyhow; Host becomes the `:authority`.
    pub(crate) fn new(
        target: &Target,
        fields: &[Field],
        subprotocols: &[Subprotocol],
        origin: Option<&HeaderValue>,
    ) -> Result<Self, AuthorityError> {
        let host = fields.iter().find(|field| field.name == HOST);
        let host = host.map_or_else(
            || target.host_field().to_owned(),
            |field| String::from_utf8_lossy(field.value.as_bytes()).into_owned(),
        );
        //= https://www.rfc-editor.org/rfc/rfc8441#section-5
        //# The scheme of the target URI ([RFC7230]) MUST be "https" for
        //# "wss"-schemed WebSockets and "http" for "ws"-schemed WebSockets.
        let uri = Uri::builder()
            .scheme(if target.tls() { "https" } else { "http" })
            .authority(&*host)
            .path_and_query(target.path_and_query())
            .build()
            .map_err(|_| AuthorityError(host))?;
        let mut head = Request::new(());
        *head.method_mut() = Method::CONNECT;
        *head.uri_mut() = uri;
        head.extensions_mut().insert(Protocol::from_static("websocket"));
        let headers = head.headers_mut();
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.clone());
        }
        if let Some(Ok(authorization)) = target.authorization().map(str::parse) {
            headers.insert(AUTHORIZATION, authorization);
        }
        if !subprotocols.is_empty() {
            let names: Vec<&str> = subprotocols.iter().map(Subprotocol::as_str).collect();
            let names = names.join(", ").parse().expect("tokens and commas make a value");
            headers.insert(SEC_WEBSOCKET_PROTOCOL, names);
        }
        for field in fields.iter().filter(|field| [ORIGIN, AUTHORIZATION].contains(&field.name)) {
            headers.remove(&field.name);
        }
        for field in fields.iter().filter(|field| field.name != HOST) {
            headers.append(field.name.clone(), field.value.clone());
        }
        Ok(Self { head })
    }

    /// The same, with an offer of permessage-deflate or without.
    pub(crate) fn offering_compression(mut self, compression: bool) -> Self {
        let headers = self.head.headers_mut();
        headers.remove(SEC_WEBSOCKET_EXTENSIONS);
        if compression {
            let offer = HeaderValue::from_static(permessage_deflate::OFFER);
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, offer);
        }
        self
    }

    /// What h2 sends.
    pub(super) fn head(&self) -> Request<()> {
        self.head.clone()
    }
}

/// The stream's body and whether messages may be compressed, if the response opens it. `request` is
/// the one of HTTP/1.1, which says what was offered.
pub(super) async fn check(
    response: Response<RecvStream>,
    request: &Http1Request,
) -> Result<(RecvStream, bool), HandshakeError> {
    let (head, body) = response.into_parts();
    let fields: Vec<httparse::Header<'_>> = head
        .headers
        .iter()
        .map(|(name, value)| httparse::Header { name: name.as_str(), value: value.as_bytes() })
        .collect();
    if head.status == StatusCode::OK {
        return Ok((body, agreement(&fields, request)?));
    }
    let mut said = BytesMut::new();
    // It is refused in any case, with a reason or without.
    let _ = timeout(BODY_WAIT, read_line(body, &mut said)).await;
    // DATA frames are a body as it is: of its fields only the place that it points to counts.
    let location: Vec<httparse::Header<'_>> = fields
        .into_iter()
        .filter(|field| field.name.eq_ignore_ascii_case(LOCATION.as_str()))
        .collect();
    Err(refused(head.status, &location, &said, request.secrets()))
}

fn refused(
    status: StatusCode,
    fields: &[httparse::Header<'_>],
    said: &[u8],
    secrets: &Secrets,
) -> HandshakeError {
    let refusal = Refusal::new(0, status.as_u16(), fields).explain(said, secrets);
    HandshakeError::StreamRefused(refusal)
}

/// Reads the beginning of a body into `said`: up to the end of a line, of the body, or of what is
/// looked at.
async fn read_line(mut body: RecvStream, said: &mut BytesMut) {
    while said.len() < BODY_LEN_MAX && !said.trim_ascii_start().contains(&b'\n') {
        let Some(Ok(chunk)) = poll_fn(|cx| body.poll_data(cx)).await else { return };
        let _ = body.flow_control().release_capacity(chunk.len());
        let len = chunk.len().min(BODY_LEN_MAX - said.len());
        said.extend_from_slice(&chunk[..len]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_that_of_rfc_8441() {
        let target: Target = "wss://me:secret@example.com/chat?x=1".parse().unwrap();
        let fields = ["X-Room: 7".parse().unwrap()];
        let subprotocols = ["chat", "superchat"].map(|name| name.parse().unwrap());
        let origin = HeaderValue::from_static("http://www.example.com");
        let request = ConnectRequest::new(&target, &fields, &subprotocols, Some(&origin));
        let request = request.unwrap().offering_compression(true);
        let head = request.head();
        assert_eq!(head.method(), Method::CONNECT);
        assert_eq!(head.uri().to_string(), "https://example.com/chat?x=1");
        assert_eq!(head.extensions().get::<Protocol>().unwrap().as_str(), "websocket");
        let fields: Vec<(&str, &str)> = head
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(
            fields,
            [
                ("sec-websocket-version", "13"),
                ("origin", "http://www.example.com"),
                ("authorization", "Basic bWU6c2VjcmV0"),
                ("sec-websocket-protocol", "chat, superchat"),
                ("x-room", "7"),
                ("sec-websocket-extensions", permessage_deflate::OFFER),
            ]
        );
    }

    #[test]
    fn fields_replace_those_of_the_same_name_and_host_is_the_authority() {
        let target: Target = "ws://me:secret@localhost:81/".parse().unwrap();
        let fields = ["host: example.com", "authorization: Bearer t", "origin: null"];
        let fields = fields.map(|field| field.parse().unwrap());
        let origin = HeaderValue::from_static("http://x");
        let head = ConnectRequest::new(&target, &fields, &[], Some(&origin)).unwrap().head();
        assert_eq!(head.uri().to_string(), "http://example.com/");
        assert_eq!(head.headers()["authorization"], "Bearer t");
        assert_eq!(head.headers()["origin"], "null");
        assert_eq!(head.headers().len(), 3);

        let fields = ["host: no authority".parse().unwrap()];
        let refused = ConnectRequest::new(&target, &fields, &[], None);
        assert_eq!(refused.unwrap_err().0, "no authority");
    }
}
