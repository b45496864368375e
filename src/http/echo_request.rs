//! The echo of plain requests: a request as JSON, so that what a client has sent can be compared with
//! what has arrived behind proxies.
//!
//! Nothing is left out and nothing is made nicer: header fields keep their order and, over HTTP/1.1,
//! the case of their names; bytes that are no UTF-8 are base64, which their type tells. The response
//! is never a document that a browser would run ([`Response::echo`](super::Response::echo)). Reading
//! the body is left to whoever answers; who the client is, and what TLS it speaks, is told by them.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{Request, Version};
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{echo_paths::normalize, head::HeadText};

/// Where plain requests are sent back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpEcho {
    /// In its normal form.
    path: String,
    /// The longest body that is sent back, in bytes.
    pub body_len_max: u64,
}

impl HttpEcho {
    /// At this path, with bodies of at most so many bytes.
    pub fn new(path: &str, body_len_max: u64) -> Self {
        Self { path: normalize(path).into_owned(), body_len_max }
    }

    /// Whether it is at `path`, however that is escaped.
    pub fn is_at(&self, path: &str) -> bool {
        normalize(path) == self.path
    }
}

/// Who sent a request.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Client {
    /// The client's address, as far as it is known.
    pub peer: Option<String>,
    /// The address of the proxy that announced this client.
    pub via: Option<String>,
    /// What was agreed on with whoever is at the other end of this connection, if it is TLS.
    pub tls: Option<Tls>,
}

/// The TLS of a connection that a request came on.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tls {
    /// Such as `TLSv1.3`.
    pub version: Option<String>,
    /// The cipher suite.
    pub cipher: Option<String>,
    /// The name that the client asked for.
    pub sni: Option<String>,
    /// The protocol that was agreed on.
    pub alpn: Option<String>,
    /// The name in the client's certificate, if it was asked for one.
    pub client_name: Option<String>,
}

/// A request as it is sent back: the members of the JSON object, in their order.
#[derive(Serialize)]
struct EchoedRequest<'a> {
    method: &'a str,
    target: Text<'a>,
    path: &'a str,
    query: Option<&'a str>,
    version: &'static str,
    headers: Vec<(&'a str, Text<'a>)>,
    body_length: usize,
    body: Text<'a>,
    #[serde(flatten)]
    client: &'a Client,
}

/// Bytes that are a string if they are UTF-8, and else an object with their base64.
struct Text<'a>(&'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = str::from_utf8(self.0) {
            return serializer.serialize_str(text);
        }
        let mut object = serializer.serialize_map(Some(1))?;
        object.serialize_entry("base64", &BASE64_STANDARD.encode(self.0))?;
        object.end()
    }
}

/// A request as JSON, with an end of line. Its head is taken as it arrived if its
/// [`HeadText`] was kept, and else from the decoded fields, which are then in the order of the first of
/// each name.
pub fn encode_request(request: &Request<()>, body: &[u8], client: &Client) -> Vec<u8> {
    let uri = request.uri();
    let encode = |target: &[u8], headers: Vec<(&str, Text<'_>)>| {
        let echoed = EchoedRequest {
            method: request.method().as_str(),
            target: Text(target),
            path: uri.path(),
            query: uri.query(),
            version: version_name(request.version()),
            headers,
            body_length: body.len(),
            body: Text(body),
            client,
        };
        let mut json = serde_json::to_vec_pretty(&echoed)
            .unwrap_or_else(|_| unreachable!("all of its names are strings"));
        json.push(b'\n');
        json
    };
    let as_it_came = request.extensions().get::<HeadText>().and_then(|head| {
        head.parse(|target, fields| {
            let fields = fields.iter().map(|field| (field.name, Text(field.value)));
            encode(target.as_bytes(), fields.collect())
        })
    });
    as_it_came.unwrap_or_else(|| {
        let fields = request.headers().iter();
        let fields = fields.map(|(name, value)| (name.as_str(), Text(value.as_bytes())));
        encode(uri.to_string().as_bytes(), fields.collect())
    })
}

fn version_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use futures_executor::block_on;
    use serde_json::{Value, json};

    use super::*;
    use crate::http::read_request;

    fn encode(head: &[u8], body: &[u8], keeps_text: bool, client: &Client) -> Value {
        let read = block_on(read_request(&mut &head[..], BytesMut::new(), keeps_text));
        let encoded = encode_request(&read.unwrap().0, body, client);
        assert!(encoded.ends_with(b"}\n"));
        serde_json::from_slice(&encoded).unwrap()
    }

    #[test]
    fn request_is_sent_back_as_it_came() {
        let head = b"POST /http?a=%20&b HTTP/1.1\r\nHost: a\r\nX-One: 1\r\ncookie: \xff\r\nX-one: \
            \xc3\xa4\r\nEmpty:\r\n\r\n";
        let client = Client { peer: Some("192.0.2.1:80".to_owned()), ..Client::default() };
        let headers = json!([
            ["Host", "a"],
            ["X-One", "1"],
            ["cookie", {"base64": "/w=="}],
            ["X-one", "\u{e4}"],
            ["Empty", ""]
        ]);
        let expected = json!({
            "method": "POST", "target": "/http?a=%20&b", "path": "/http", "query": "a=%20&b",
            "version": "HTTP/1.1", "headers": headers, "body_length": 5, "body": "hello",
            "peer": "192.0.2.1:80", "via": null, "tls": null
        });
        assert_eq!(encode(head, b"hello", true, &client), expected);
        let decoded = encode(head, b"\xff\0", false, &client);
        let grouped = json!([
            ["host", "a"],
            ["x-one", "1"],
            ["x-one", "\u{e4}"],
            ["cookie", {"base64": "/w=="}],
            ["empty", ""]
        ]);
        assert_eq!(decoded["headers"], grouped);
        assert_eq!(
            (&decoded["body"], &decoded["body_length"]),
            (&json!({"base64": "/wA="}), &json!(2))
        );
    }

    #[test]
    fn target_is_sent_back_in_the_form_that_it_had() {
        for (target, path) in [("http://a:80/http?x", "/http"), ("/ht%74p", "/ht%74p"), ("*", "*")]
        {
            let head = format!("GET {target} HTTP/1.0\r\n\r\n");
            let echoed = encode(head.as_bytes(), b"", true, &Client::default());
            assert_eq!((&echoed["target"], &echoed["path"]), (&json!(target), &json!(path)));
            assert_eq!(echoed["version"], "HTTP/1.0");
        }
    }

    #[test]
    fn echo_is_found_at_its_path_however_that_is_escaped() {
        let echo = HttpEcho::new("/http%7e", 1);
        assert!(echo.is_at("/http~") && echo.is_at("/%68ttp%7E"));
        assert!(!echo.is_at("/http~/") && !echo.is_at("/"));
    }
}
