//! Servers of a stock WebSocket library, a thread for each connection.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};
use tungstenite::{
    Bytes, Message, WebSocket,
    handshake::derive_accept_key,
    protocol::{Role, WebSocketConfig},
};

/// A server on an ephemeral port, for as long as the test binary runs.
pub(crate) struct Server {
    address: SocketAddr,
    received: Arc<AtomicU64>,
}

impl Server {
    /// A server that handles each TCP connection with `handle`.
    pub(crate) fn of_tcp(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::listen("127.0.0.1:0", Arc::default(), handle)
    }

    /// The same, at an address.
    pub(crate) fn of_tcp_at(
        address: &str,
        handle: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Self {
        Self::listen(address, Arc::default(), handle)
    }

    fn listen(
        address: &str,
        received: Arc<AtomicU64>,
        handle: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let handle = Arc::new(handle);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, handle) = (stream.unwrap(), Arc::clone(&handle));
                stream.set_nodelay(true).unwrap();
                thread::spawn(move || handle(stream));
            }
        });
        Self { address, received }
    }

    /// A server that handles each WebSocket with `handle`.
    pub(crate) fn of_websockets(
        handle: impl Fn(WebSocket<TcpStream>) + Send + Sync + 'static,
    ) -> Self {
        Self::of_tcp(move |stream| {
            if let Ok(websocket) = tungstenite::accept_with_config(stream, Some(config())) {
                handle(websocket);
            }
        })
    }

    /// A server that answers message number `n` of a connection with `answer(n, message)`.
    pub(crate) fn answering(
        answer: impl Fn(u64, Message) -> Vec<Message> + Send + Sync + 'static,
    ) -> Self {
        Self::answering_at("127.0.0.1:0", answer)
    }

    /// The same, at an address.
    pub(crate) fn answering_at(
        address: &str,
        answer: impl Fn(u64, Message) -> Vec<Message> + Send + Sync + 'static,
    ) -> Self {
        let received = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&received);
        Self::listen(address, received, move |stream| {
            let Ok(mut websocket) = tungstenite::accept_with_config(stream, Some(config())) else {
                return;
            };
            let mut number = 0;
            while let Ok(message) = websocket.read() {
                if message.is_text() || message.is_binary() {
                    counter.fetch_add(1, SeqCst);
                    for answer in answer(number, message) {
                        if websocket.send(answer).is_err() {
                            return;
                        }
                    }
                    number += 1;
                }
            }
        })
    }

    /// A server that echoes every message.
    pub(crate) fn honest() -> Self {
        Self::answering(|_, message| vec![message])
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The start of a command line for this server: its URL and a run that is short.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}/echo", self.address)
    }

    /// Messages that the server has received.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(SeqCst)
    }
}

/// An authority, and a server that it has certified for `localhost`.
pub(crate) fn tls_server() -> (String, Server) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &authority).unwrap();

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let tls = Arc::new(tls);
    let server = Server::of_tcp_at("127.0.0.1:0", move |stream| {
        let session = ServerConnection::new(Arc::clone(&tls)).unwrap();
        let stream = StreamOwned::new(session, stream);
        if let Ok(websocket) = tungstenite::accept_with_config(stream, Some(config())) {
            echo(websocket);
        }
    });
    (authority.pem(), server)
}

/// Echoes messages until the client ends the connection.
pub(crate) fn echo<S: Read + Write>(mut websocket: WebSocket<S>) {
    while let Ok(message) = websocket.read() {
        if (message.is_text() || message.is_binary()) && websocket.send(message).is_err() {
            return;
        }
    }
}

pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(None).max_frame_size(None)
}

/// Reads an opening handshake's request, and returns the response that accepts it.
pub(crate) fn accepting_response(stream: &mut TcpStream) -> Vec<u8> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        request.extend_from_slice(&byte);
    }
    let request = String::from_utf8(request).unwrap();
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\n\
         connection: Upgrade\r\n\
         upgrade: websocket\r\n\
         sec-websocket-accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    )
    .into_bytes()
}

/// Writes `bytes` after an opening handshake, in one segment with its response, and goes on as a
/// WebSocket.
pub(crate) fn accept_with_early_bytes(mut stream: TcpStream, bytes: &[u8]) -> WebSocket<TcpStream> {
    let mut response = accepting_response(&mut stream);
    response.extend_from_slice(bytes);
    stream.write_all(&response).unwrap();
    WebSocket::from_raw_socket(stream, Role::Server, Some(config()))
}

/// A message with the same payload but for the bits `flip` of byte `at`.
pub(crate) fn corrupted(message: Message, at: usize, flip: u8) -> Message {
    let mut payload = message.into_data().to_vec();
    payload[at] ^= flip;
    Message::Binary(Bytes::from(payload))
}
