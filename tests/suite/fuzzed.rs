//! What the fuzz targets in `fuzz/` run, and the replay of their corpora.

use std::{
    cell::Cell,
    io::{self, Read},
    sync::{Arc, LazyLock},
};

use bytes::BytesMut;
use futures_executor::block_on;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{CONNECTION, FORWARDED, UPGRADE},
};
use monoio::io::PrefixedReadIo;
use ringecho::{
    config::command_line::parse_file,
    entry::proxy_header::{Decoded, HEADER_LEN_MAX, decode},
    handshake::{Policy, http1::answer, permessage_deflate::negotiate},
    http::{
        BodyError, Framing, HeadError, Persistence, REQUEST_HEAD_LEN_MAX, Refusal, RequestBody,
        RequestRefusal, Response, Route, echo_paths::EchoPaths, encode_refusal, forwarded_client,
        read_request, read_request_head, route, without_body,
    },
    protocol::{
        echo::{Compression, Echo, Rules},
        extensions::{Offer, parse_offers},
    },
    server::takeover::message::{Message, PACKET_LEN_MAX},
    tls::{HANDSHAKE_LEN_MAX, TlsSession, default_provider},
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, ServerName},
    version::{TLS12, TLS13},
};

use crate::oracle::{assert_agrees, judge, transform_with};

/// Bytes of a frame stream's input before the stream: how it is cut, and what is allowed.
const SETTING_LEN: usize = 2;

/// The transformer agrees with the oracle on any bytes, cut anywhere, under any rules.
pub fn frame_stream(input: &[u8]) {
    let Some((&[setting, seed], stream)) = input.split_first_chunk::<SETTING_LEN>() else {
        return;
    };
    let rules = Rules {
        hold: [0, 1, 125, 4096][usize::from(setting & 3)],
        frame_size_max: [u64::MAX, 50][usize::from(setting >> 4 & 1)],
        message_size_max: [u64::MAX, 100][usize::from(setting >> 2 & 1)],
    };
    let compression =
        if setting & 8 == 0 { Compression::None } else { Compression::PermessageDeflate };
    let (replies, next) =
        transform_with(Echo::with_compression(compression), cut(stream, seed), &rules);
    let verdict = judge(stream, &rules, compression);
    assert_agrees(&replies, next, &verdict, &rules);
}

/// Cuts a stream into pieces whose lengths follow from a seed; 0 leaves it whole.
fn cut(stream: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = stream;
    let mut state = u32::from(seed);
    std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let len = if seed == 0 { rest.len() } else { (state >> 24) as usize % 40 + 1 };
        let (piece, behind) = rest.split_at(len.min(rest.len()));
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Any bytes are a request or a refusal, however they are cut. A request takes no more than its head,
/// and is upgraded only if it asks for it; a response has nothing of what was asked.
pub fn request_head(input: &[u8]) {
    let answered = answer_to(input, 0);
    let seed = input.iter().fold(1, |seed: u8, byte| seed.wrapping_mul(31).wrapping_add(*byte));
    assert_eq!(answer_to(input, seed | 1), answered, "cut by {}", seed | 1);
    let Some(response) = answered else { return };
    let text = str::from_utf8(&response).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    assert!(head.bytes().all(|byte| matches!(byte, b' '..0x7f | b'\r' | b'\n')), "{head}");
    let mut lines = head.split("\r\n");
    let status_line = lines.next().expect("a status line");
    assert!(status_line.starts_with("HTTP/1.1 "), "{head}");
    for line in lines {
        let (name, _) = line.split_once(": ").expect("a header field");
        assert!(RESPONSE_FIELDS.contains(&name), "{head}");
    }
    assert_eq!(status_line.contains(" 101 "), head.contains("Sec-WebSocket-Accept: "));
    // There is no line in it but the reason.
    assert!(body.is_empty() || body.ends_with('\n') && body.lines().count() == 1, "{body}");
}

/// The header fields that a response may have, but for those of the page.
const RESPONSE_FIELDS: [&str; 9] = [
    "Allow",
    "Connection",
    "Content-Length",
    "Content-Type",
    "Sec-WebSocket-Accept",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Version",
    "Upgrade",
];

/// What a worker answers to a request whose bytes arrive cut by a seed, without the page; `None` if no
/// whole head comes. Bytes behind the head are handed on as they came.
fn answer_to(input: &[u8], seed: u8) -> Option<Vec<u8>> {
    let mut reader = PrefixedReadIo::new(&[][..], Pieces(cut(input, seed)));
    let mut request = match block_on(read_request_head(&mut reader, BytesMut::new())) {
        Ok((request, behind)) => {
            // What comes with a later read is left to whoever carries the connection.
            let arrived = &input[..input.len().min(REQUEST_HEAD_LEN_MAX)];
            assert!(seed != 0 || arrived.ends_with(&behind));
            request
        }
        Err(HeadError::PeerLeft) => return None,
        Err(HeadError::Refused { refusal, is_head }) => return Some(refuse(refusal, is_head)),
    };
    let is_head = request.method() == Method::HEAD;
    match route(&request, &EchoPaths::new(&["/ws"]), None) {
        Ok(Route::Echo) => {}
        Ok(Route::Options(methods)) => {
            return Some(Response::options(methods).encode(Persistence::Close, is_head));
        }
        Ok(_) => return Some(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        Err(refusal) => return Some(refuse(refusal, is_head)),
    }
    let asks =
        request.headers().contains_key(UPGRADE) && request.headers().contains_key(CONNECTION);
    let policy = Policy {
        allowed_origins: vec!["https://example.org".parse().unwrap()],
        subprotocols: vec!["echo".to_owned()],
        passes_compression: true,
    };
    match answer(&mut request, &policy) {
        Ok(acceptance) => {
            assert!(asks && !is_head);
            Some(acceptance.response_head)
        }
        Err(refusal) => Some(refuse(refusal, is_head)),
    }
}

/// The response that refuses a request.
fn refuse(reason: impl Into<Refusal>, is_head: bool) -> Vec<u8> {
    let refusal = reason.into();
    assert!(refusal.status.is_client_error() || refusal.status.is_server_error());
    let response = encode_refusal(&refusal);
    if is_head { without_body(response.into()).into() } else { response }
}

/// Any bytes are requests and then a refusal or an end, the same ones however they are cut; no byte
/// belongs to two of them, and none is passed over but an empty line before a head.
pub fn http_requests(input: &[u8]) {
    let whole = requests_in(input, 0);
    let seed = input.iter().fold(1, |seed: u8, byte| seed.wrapping_mul(31).wrapping_add(*byte));
    assert_eq!(requests_in(input, seed | 1), whole, "cut by {}", seed | 1);
}

/// What a request asks for, its body, and how many bytes of the input are behind it.
type Asked = (String, Vec<u8>, usize);

/// The requests in an input that arrives cut by a seed; then the refusal, or `None` where more would
/// have to come.
fn requests_in(input: &[u8], seed: u8) -> (Vec<Asked>, Option<RequestRefusal>) {
    const BODY_LEN_MAX: u64 = 64;
    let rest = Cell::new(input);
    let arriving = Arriving { rest: &rest, state: seed.into() };
    let mut reader = PrefixedReadIo::new(&[][..], arriving);
    let mut received = BytesMut::new();
    let mut requests = Vec::new();
    let refusal = loop {
        let head = block_on(read_request(&mut reader, received, true));
        let (request, behind) = match head {
            Ok(read) => read,
            Err(HeadError::PeerLeft) => break None,
            Err(HeadError::Refused { refusal, .. }) => break Some(refusal),
        };
        received = behind;
        let framing = Framing::of(&request);
        let body = framing.and_then(|framing| RequestBody::new(framing, BODY_LEN_MAX, true));
        let mut body = match body {
            Ok(body) => body,
            Err(refusal) => break Some(refusal),
        };
        let mut outcome = body.take_from(&mut received).map_err(BodyError::Refused);
        while outcome.is_ok() && !body.is_whole() {
            outcome = block_on(body.read_on(&mut reader, &mut received));
        }
        match outcome {
            Ok(()) => {}
            Err(BodyError::PeerLeft) => break None,
            Err(BodyError::Refused(refusal)) => break Some(refusal),
        }
        assert!(body.held_len() <= 2 * BODY_LEN_MAX as usize);
        let data = body.into_data();
        assert!(data.len() as u64 <= BODY_LEN_MAX);
        let behind_len = received.len() + rest.get().len();
        requests.push((format!("{} {}", request.method(), request.uri()), data, behind_len));
    };
    let behind = requests.iter().map(|(.., behind_len)| *behind_len);
    let ends: Vec<usize> = std::iter::once(input.len()).chain(behind).collect();
    assert!(ends.windows(2).all(|pair| pair[0] > pair[1]), "{ends:?}");
    (requests, refusal)
}

/// An input that arrives in pieces, whose lengths follow from a state; 0 leaves it whole. What does not
/// fit a buffer arrives with the next read.
struct Arriving<'a> {
    rest: &'a Cell<&'a [u8]>,
    state: u32,
}

impl Read for Arriving<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.rest.get();
        let mut len = rest.len();
        if self.state != 0 {
            self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) | 1;
            len = (self.state >> 24) as usize % 40 + 1;
        }
        let len = len.min(rest.len()).min(buffer.len());
        let (piece, behind) = rest.split_at(len);
        buffer[..len].copy_from_slice(piece);
        self.rest.set(behind);
        Ok(len)
    }
}

/// Reads one piece after the other.
struct Pieces<I>(I);

impl<'a, I: Iterator<Item = &'a [u8]>> Read for Pieces<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.0.next().unwrap_or_default();
        // A whole input may be longer than a head can be; what does not fit is not read.
        let len = piece.len().min(buffer.len());
        buffer[..len].copy_from_slice(&piece[..len]);
        Ok(len)
    }
}

/// Offers mean the same when they are written as they were understood, and so does the response.
pub fn extension_offer(input: &[u8]) {
    let Some(offers) = str::from_utf8(input).ok().map(parse_offers).and_then(Result::ok) else {
        return;
    };
    let written: Vec<String> = offers.iter().map(write).collect();
    assert_eq!(parse_offers(&written.join(", ")).as_ref(), Ok(&offers));
    if let Some(agreement) = negotiate(&offers) {
        let response = agreement.to_string();
        assert_eq!(parse_offers(&response).map(|offers| offers.len()), Ok(1));
        assert!(offers.iter().any(|offer| offer.name == "permessage-deflate"));
    }
}

/// Any text is a configuration or a refusal that names a line; what is shown of a configuration is a
/// file that makes the same one.
pub fn config_file(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    match parse_file(text) {
        Ok(parsed) => {
            let shown = parsed.settings.to_string();
            let again = parse_file(&shown).unwrap_or_else(|error| panic!("{shown}: {error}"));
            assert_eq!(again.config, parsed.config, "{shown}");
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.starts_with("FILE"), "{error}");
            assert!(!error.contains(|it: char| it.is_control() && it != '\n'), "{error:?}");
        }
    }
}

/// Any bytes begin with a PROXY header, with none, or with a wrong one, and once that is known, more bytes
/// do not change it. What a header says of its client is bounded and has no control characters.
pub fn proxy_header(input: &[u8]) {
    let mut known = Ok(Decoded::Incomplete);
    // Beyond the longest header nothing is looked at.
    for received_len in 0..=input.len().min(HEADER_LEN_MAX + 1) {
        let now = decode(&input[..received_len]);
        assert!(known == Ok(Decoded::Incomplete) || known == now, "{received_len}");
        if let (Ok(Decoded::Whole { header, len }), Ok(Decoded::Incomplete)) = (&now, &known) {
            assert_eq!(*len, received_len);
            let said = header.announced();
            for text in [said.authority, said.alpn, said.tls, said.unique_id].into_iter().flatten()
            {
                assert!(text.len() <= 256 && !text.contains(char::is_control), "{text:?}");
            }
        }
        known = now;
    }
    let known_len = HEADER_LEN_MAX + 1;
    assert!(input.len() < known_len || known != Ok(Decoded::Incomplete));
}

/// Whatever is in the fields in which proxies name clients, what the nearest proxy has written behind it
/// is believed.
pub fn forwarded(input: &[u8]) {
    let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let mut lines = input.split(|byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for (line, name) in lines.by_ref().take(6).zip([FORWARDED, X_FORWARDED_FOR].into_iter().cycle())
    {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    forwarded_client(&headers, &trusted);
    let own = HeaderValue::from_static("192.0.2.1");
    headers.append(X_FORWARDED_FOR, own);
    headers.append(FORWARDED, HeaderValue::from_static("for=\"192.0.2.1:7\""));
    let client = forwarded_client(&headers, &trusted).expect("both fields agree");
    assert_eq!((client.ip.to_string(), client.port), ("192.0.2.1".to_owned(), Some(7)));
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Bytes that are a message of a takeover are those that the message is written as.
pub fn takeover_message(input: &[u8]) {
    if let Ok(message) = Message::decode(input) {
        assert!(input.len() <= PACKET_LEN_MAX);
        assert_eq!(message.encode(), input);
    }
}

/// The configurations of both sides of a session, by version: TLS 1.2, TLS 1.3.
static TLS_SIDES: LazyLock<[(Arc<ServerConfig>, Arc<ClientConfig>); 2]> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    [&TLS12, &TLS13].map(|version| {
        let provider = Arc::new(default_provider());
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        (Arc::new(server), Arc::new(client))
    })
});

/// Any bytes are taken or refused by either side of a TLS session, before and after its handshake and
/// however they are cut, and as a message they arrive as they were sent. What is kept is bounded.
pub fn tls_records(input: &[u8]) {
    let Some((&[setting, seed], bytes)) = input.split_first_chunk::<SETTING_LEN>() else {
        return;
    };
    let (server, client) = &TLS_SIDES[usize::from(setting & 1)];
    let mut server = TlsSession::server(server.clone()).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = TlsSession::client(client.clone(), name).unwrap();
    if setting & 2 != 0 {
        while client.has_output() || server.has_output() {
            assert_eq!(pass_tls(&mut client, &mut server, seed), b"");
            assert_eq!(pass_tls(&mut server, &mut client, seed), b"");
        }
        assert!(!server.is_handshaking() && !client.is_handshaking());
        client.seal(bytes, &mut Vec::new()).unwrap();
        let mut ciphertext = Vec::new();
        server.seal(bytes, &mut ciphertext).unwrap();
        assert_eq!(open_tls(&mut client, &ciphertext, seed).as_deref(), Some(bytes));
    }
    let session = if setting & 4 == 0 { &mut server } else { &mut client };
    // Nobody has encrypted them, so they are no message.
    assert!(open_tls(session, bytes, seed).is_none_or(|plaintext| plaintext.is_empty()));
    assert!(session.held_len() <= HANDSHAKE_LEN_MAX + 2 * bytes.len() + (16 << 10));
    session.close(&mut Vec::new());
}

/// Sends what one side has to say to the other.
fn pass_tls(from: &mut TlsSession, to: &mut TlsSession, seed: u8) -> Vec<u8> {
    let mut ciphertext = Vec::new();
    from.take_output(&mut ciphertext);
    open_tls(to, &ciphertext, seed).expect("a handshake goes on")
}

/// The plaintext of bytes that arrive cut by a seed; `None` if they are refused.
fn open_tls(session: &mut TlsSession, bytes: &[u8], seed: u8) -> Option<Vec<u8>> {
    let mut plaintext = Vec::new();
    for piece in cut(bytes, seed) {
        session.open(&mut piece.to_vec(), &mut plaintext).ok()?;
    }
    Some(plaintext)
}

fn write(offer: &Offer) -> String {
    let parameters = offer.parameters.iter().map(|parameter| match &parameter.value {
        Some(value) => format!("; {}=\"{value}\"", parameter.name),
        None => format!("; {}", parameter.name),
    });
    offer.name.to_owned() + &parameters.collect::<String>()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn replay(target: &str, run: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let inputs: Vec<_> = fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap()).collect();
        assert!(!inputs.is_empty(), "{target} has no corpus");
        for input in inputs {
            println!("{}", input.path().display());
            run(&fs::read(input.path()).unwrap());
        }
    }

    #[test]
    fn corpus_of_frame_streams_is_replayed() {
        replay("frame_stream", frame_stream);
    }

    #[test]
    fn corpus_of_request_heads_is_replayed() {
        replay("request_head", request_head);
    }

    #[test]
    fn corpus_of_http_requests_is_replayed() {
        replay("http_requests", http_requests);
    }

    #[test]
    fn corpus_of_configuration_files_is_replayed() {
        replay("config_file", config_file);
    }

    #[test]
    fn corpus_of_extension_offers_is_replayed() {
        replay("extension_offer", extension_offer);
    }

    #[test]
    fn corpus_of_tls_records_is_replayed() {
        replay("tls_records", tls_records);
    }

    #[test]
    fn corpus_of_proxy_headers_is_replayed() {
        replay("proxy_header", proxy_header);
    }

    #[test]
    fn corpus_of_forwarded_fields_is_replayed() {
        replay("forwarded", forwarded);
    }

    #[test]
    fn corpus_of_takeover_messages_is_replayed() {
        replay("takeover_message", takeover_message);
    }
}
