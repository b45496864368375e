//! The request of the opening handshake (RFC 6455 §4.1): all of it but the key, composed once for
//! all connections.

use std::str::FromStr;

use http::{
    HeaderName, HeaderValue,
    header::{
        AUTHORIZATION, CONNECTION, COOKIE, HOST, ORIGIN, PROXY_AUTHORIZATION, SEC_WEBSOCKET_ACCEPT,
        SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
        UPGRADE,
    },
};

use super::{permessage_deflate, secrets::Secrets, target::Target};

/// Fields without which a request would be no opening handshake, or another one than the generator
/// believes.
const RESERVED: [HeaderName; 6] = [
    CONNECTION,
    UPGRADE,
    SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION,
];

/// A header field of the request, as `NAME: VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub(super) name: HeaderName,
    pub(super) value: HeaderValue,
}

impl Field {
    /// Whether it is for one server alone: who is redirected to another one does not send it there.
    pub(crate) fn is_for_one_server(&self) -> bool {
        [AUTHORIZATION, COOKIE, HOST, PROXY_AUTHORIZATION].contains(&self.name)
    }
}

impl FromStr for Field {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) =
            text.split_once(':').ok_or("expected NAME: VALUE, and the colon is missing")?;
        let name: HeaderName =
            name.parse().map_err(|_| format!("{name:?} cannot be the name of a header field"))?;
        if name == SEC_WEBSOCKET_PROTOCOL {
            return Err("subprotocols are asked for with --subprotocol".to_owned());
        }
        if RESERVED.contains(&name) {
            return Err(format!("{name} belongs to the opening handshake itself"));
        }
        let value =
            value.trim().parse().map_err(|_| "the value has a control character".to_owned())?;
        Ok(Self { name, value })
    }
}

/// A subprotocol that the client offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subprotocol(String);

impl Subprotocol {
    /// Its name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Subprotocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Both are tokens (RFC 9110 §5.6.2).
        match HeaderName::from_str(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err("expected a name without spaces or separators".to_owned()),
        }
    }
}

/// The request but for its key.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Up to the value of the last field, which is the key's.
    front: Vec<u8>,
    subprotocols: Vec<Subprotocol>,
    compression: bool,
    secrets: Secrets,
}

impl Request {
    /// The request for `target`. Of `fields`, those that it has anyhow replace its own.
    pub(crate) fn new(
        target: &Target,
        fields: &[Field],
        subprotocols: &[Subprotocol],
        origin: Option<&HeaderValue>,
    ) -> Self {
        let is_given = |name: &HeaderName| fields.iter().any(|field| field.name == name);
        let mut front = format!("GET {} HTTP/1.1\r\n", target.path_and_query()).into_bytes();
        let mut append = |name: &str, value: &[u8]| {
            front.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        };
        if !is_given(&HOST) {
            append("Host", target.host_field().as_bytes());
        }
        append("Upgrade", b"websocket");
        append("Connection", b"Upgrade");
        append("Sec-WebSocket-Version", b"13");
        if let Some(origin) = origin.filter(|_| !is_given(&ORIGIN)) {
            append("Origin", origin.as_bytes());
        }
        if let Some(value) = target.authorization().filter(|_| !is_given(&AUTHORIZATION)) {
            append("Authorization", value.as_bytes());
        }
        if !subprotocols.is_empty() {
            let names: Vec<&str> = subprotocols.iter().map(Subprotocol::as_str).collect();
            append("Sec-WebSocket-Protocol", names.join(", ").as_bytes());
        }
        for Field { name, value } in fields {
            append(name.as_str(), value.as_bytes());
        }
        front.extend_from_slice(b"Sec-WebSocket-Key: ");
        let secrets = target.secrets().clone();
        Self { front, subprotocols: subprotocols.to_vec(), compression: false, secrets }
    }

    /// The same request, with an offer of permessage-deflate or without.
    pub(crate) fn offering_compression(self, compression: bool) -> Self {
        Self { compression, ..self }
    }

    /// The request with a key.
    pub(crate) fn with_key(&self, key: &str) -> Vec<u8> {
        let mut head = [&self.front, key.as_bytes(), b"\r\n"].concat();
        if self.compression {
            let field = ["Sec-WebSocket-Extensions: ", permessage_deflate::OFFER, "\r\n"].concat();
            head.extend_from_slice(field.as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// What it tells the server and nobody else.
    pub(crate) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Whether it offers permessage-deflate.
    pub(crate) fn offers_compression(&self) -> bool {
        self.compression
    }

    /// Whether it offers a subprotocol.
    pub(crate) fn offers(&self, subprotocol: &[u8]) -> bool {
        self.subprotocols.iter().any(|offered| offered.as_str().as_bytes() == subprotocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_that_of_the_standard() {
        let target: Target = "ws://[::1]:9000/chat?x=1".parse().unwrap();
        let request = Request::new(&target, &[], &[], None).with_key("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(
            String::from_utf8(request).unwrap(),
            "GET /chat?x=1 HTTP/1.1\r\n\
             Host: [::1]:9000\r\n\
             Upgrade: websocket\r\n\
             Connection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
    }

    #[test]
    fn a_value_cannot_end_its_line() {
        for value in ["7\nHost: x", "7\r\n", "\0"] {
            let refused = format!("X-Room: {value}.").parse::<Field>();
            assert_eq!(refused, Err("the value has a control character".to_owned()), "{value:?}");
        }
    }

    #[test]
    fn fields_are_added_and_replace_those_of_the_same_name() {
        let target: Target = "ws://me:secret@localhost/".parse().unwrap();
        let fields = ["X-Room: 7", "host:example.com", "x-room: 8", "authorization: Bearer t"];
        let fields = fields.map(|field| field.parse().unwrap());
        let subprotocols = ["chat", "superchat"].map(|name| name.parse().unwrap());
        let origin = HeaderValue::from_static("https://example.com");
        let request = Request::new(&target, &fields, &subprotocols, Some(&origin));
        assert_eq!(
            String::from_utf8(request.with_key("k")).unwrap(),
            "GET / HTTP/1.1\r\n\
             Upgrade: websocket\r\n\
             Connection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\n\
             Origin: https://example.com\r\n\
             Sec-WebSocket-Protocol: chat, superchat\r\n\
             x-room: 7\r\n\
             host: example.com\r\n\
             x-room: 8\r\n\
             authorization: Bearer t\r\n\
             Sec-WebSocket-Key: k\r\n\r\n"
        );
        assert!(request.offers(b"superchat") && !request.offers(b"super"));
    }
}
