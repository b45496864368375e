//! A client of HTTP/2, the crate `h2` on tokio, that says and expects bytes on its streams.
//!
//! It reads and writes only while one of its methods waits for something.

use std::{
    future::Future,
    io::{self, Write},
    net::{SocketAddr, TcpStream as StdTcpStream},
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{Builder, SendRequest},
    ext::Protocol,
};
use http::{Method, Request, StatusCode, response::Parts};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime::{self, Runtime},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::peer::{PATIENCE, TestServer};

/// A connection.
pub struct Client {
    runtime: Rc<Runtime>,
    requests: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// A stream after its opening handshake, or a request's stream.
pub struct Stream {
    runtime: Rc<Runtime>,
    pub sent: SendStream<Bytes>,
    pub received: RecvStream,
    /// What has been received and not been expected yet.
    early: Vec<u8>,
}

/// An extended CONNECT that opens a WebSocket at `/ws`.
pub fn connect_request() -> Request<()> {
    Request::builder()
        .method(Method::CONNECT)
        .uri("http://localhost/ws")
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap()
}

pub fn get(path: &str) -> Request<()> {
    Request::get(format!("http://localhost{path}")).body(()).unwrap()
}

fn patiently<T>(runtime: &Runtime, future: impl Future<Output = T>) -> T {
    runtime.block_on(async { timeout(PATIENCE, future).await.expect("it comes in time") })
}

impl Client {
    pub fn connect(server: &TestServer) -> Self {
        Self::connect_with(server.address, &Builder::new())
    }

    pub fn connect_with(address: SocketAddr, builder: &Builder) -> Self {
        let stream = StdTcpStream::connect(address).expect("the server accepts");
        Self::over(stream, builder, async |stream| Ok(stream))
    }

    /// A connection over a socket on which these bytes are sent first.
    pub fn behind(mut stream: StdTcpStream, bytes: &[u8]) -> Self {
        stream.write_all(bytes).expect("the server takes it");
        Self::over(stream, &Builder::new(), async |stream| Ok(stream))
    }

    /// A connection over TLS, on which HTTP/2 is agreed on (ALPN).
    pub fn connect_securely(address: SocketAddr, config: &ClientConfig) -> Self {
        let mut config = config.clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let stream = StdTcpStream::connect(address).expect("the server accepts");
        Self::over(stream, &Builder::new(), async |stream| {
            let name = ServerName::try_from("localhost").unwrap();
            let stream = connector.connect(name, stream).await?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            Ok(stream)
        })
    }

    fn over<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        stream: StdTcpStream,
        builder: &Builder,
        secure: impl AsyncFnOnce(TcpStream) -> io::Result<S>,
    ) -> Self {
        let runtime = Rc::new(runtime::Builder::new_current_thread().enable_all().build().unwrap());
        let (requests, connection) = patiently(&runtime, async {
            stream.set_nonblocking(true).unwrap();
            let stream = TcpStream::from_std(stream).unwrap();
            stream.set_nodelay(true).unwrap();
            let stream = secure(stream).await.expect("a handshake");
            let (requests, connection) = builder.handshake(stream).await.expect("a connection");
            (requests, tokio::spawn(connection))
        });
        Self { runtime, requests, connection }
    }

    /// Waits until the server's settings have come.
    pub fn wait_for_settings(&mut self) {
        let Self { runtime, requests, .. } = self;
        patiently(runtime, async {
            while !requests.is_extended_connect_protocol_enabled() {
                *requests = requests.clone().ready().await.expect("a connection");
                tokio::task::yield_now().await;
            }
        });
    }

    /// The response to a request whose stream goes on.
    pub fn request(&mut self, request: Request<()>) -> Result<(Parts, Stream), h2::Error> {
        self.begin(request, None)
    }

    /// The response to a request that is whole with this body, or whose stream goes on.
    fn begin(
        &mut self,
        request: Request<()>,
        body: Option<&[u8]>,
    ) -> Result<(Parts, Stream), h2::Error> {
        self.wait_for_settings();
        let Self { runtime, requests, .. } = self;
        patiently(runtime, async {
            let mut ready = requests.clone().ready().await?;
            let is_bare = body.is_some_and(<[u8]>::is_empty);
            let (response, mut sent) = ready.send_request(request, is_bare)?;
            if let Some(body) = body.filter(|body| !body.is_empty()) {
                sent.send_data(Bytes::copy_from_slice(body), true)?;
            }
            let (head, received) = response.await?.into_parts();
            let runtime = runtime.clone();
            Ok((head, Stream { runtime, sent, received, early: Vec::new() }))
        })
    }

    /// The response to a request without a body, and its body.
    pub fn ask(&mut self, request: Request<()>) -> (Parts, String) {
        self.ask_with(request, b"")
    }

    /// The response to a request with this body, and its body.
    pub fn ask_with(&mut self, request: Request<()>, body: &[u8]) -> (Parts, String) {
        let (head, mut stream) = self.begin(request, Some(body)).expect("a response");
        (head, String::from_utf8(stream.read_to_end()).unwrap())
    }

    /// A WebSocket on a stream of its own.
    pub fn open(&mut self) -> Stream {
        let (head, stream) = self.request(connect_request()).expect("a response");
        assert_eq!(head.status, StatusCode::OK, "{head:?}");
        stream
    }

    /// Has the connection go on for a while.
    pub fn go_on(&mut self) {
        self.runtime.block_on(async {
            for _ in 0..10 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        });
    }

    /// The most streams at a time that the server allows.
    pub fn max_streams(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Drops the connection, whatever is under way.
    pub fn abandon(self) -> SendRequest<Bytes> {
        let Self { runtime, requests, connection } = self;
        runtime.block_on(async {
            connection.abort();
            let _ = connection.await;
        });
        requests
    }

    /// Waits for the end of the connection, of which the server or the peer has said why.
    pub fn ended(self) -> Result<(), h2::Error> {
        let Self { runtime, requests, connection } = self;
        let end = patiently(&runtime, connection).unwrap();
        drop(requests);
        end
    }

    /// Ends the connection in order, as soon as its streams have ended.
    pub fn leave(self) {
        let Self { runtime, requests, connection } = self;
        drop(requests);
        patiently(&runtime, connection).unwrap().expect("an orderly end");
    }
}

impl Stream {
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.sent.send_data(Bytes::copy_from_slice(bytes.as_ref()), false).expect("it is open");
    }

    /// Ends this side.
    pub fn end(&mut self) {
        self.sent.send_data(Bytes::new(), true).expect("it is open");
    }

    pub fn reset(&mut self) {
        self.sent.send_reset(Reason::CANCEL);
    }

    /// More bytes; none at the end.
    fn read(&mut self) -> Result<Bytes, h2::Error> {
        let Self { runtime, received, .. } = self;
        let bytes = patiently(runtime, received.data()).transpose()?.unwrap_or_default();
        let _ = received.flow_control().release_capacity(bytes.len());
        Ok(bytes)
    }

    /// Reads exactly `expected`.
    #[track_caller]
    pub fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        while self.early.len() < expected.len() {
            let bytes = self.read().expect("bytes");
            assert!(!bytes.is_empty() || !self.received.is_end_stream(), "an end");
            self.early.extend_from_slice(&bytes);
        }
        let left = self.early.split_off(expected.len());
        let received = std::mem::replace(&mut self.early, left);
        assert!(
            received == expected,
            "received {}",
            received[..received.len().min(80)].escape_ascii()
        );
    }

    /// Everything until the server's end.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.early);
        while !self.received.is_end_stream() {
            bytes.extend_from_slice(&self.read().expect("an orderly end"));
        }
        bytes
    }

    /// The server ends its side, and nothing comes before.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let rest = self.read_to_end();
        assert!(rest.is_empty(), "received {}", rest.escape_ascii());
    }

    /// The server resets the stream, with this reason, or the connection.
    #[track_caller]
    pub fn expect_reset(&mut self) -> Option<Reason> {
        loop {
            match self.read() {
                Ok(bytes) if bytes.is_empty() && self.received.is_end_stream() => {
                    panic!("an orderly end")
                }
                Ok(_) => {}
                Err(error) => return error.reason(),
            }
        }
    }

    /// Sends as much as the server takes, of `bytes` again and again, and reads nothing. Returns how many
    /// times they were sent whole.
    pub fn send_until_blocked(&mut self, bytes: &[u8]) -> usize {
        let Self { runtime, sent, .. } = self;
        let mut count = 0;
        patiently(runtime, async {
            loop {
                sent.reserve_capacity(bytes.len());
                while sent.capacity() < bytes.len() {
                    let more = std::future::poll_fn(|context| sent.poll_capacity(context));
                    match timeout(std::time::Duration::from_millis(2500), more).await {
                        Ok(capacity) => _ = capacity.expect("it is open").expect("it is open"),
                        Err(_) => return,
                    }
                }
                sent.send_data(Bytes::copy_from_slice(bytes), false).expect("it is open");
                count += 1;
            }
        });
        sent.reserve_capacity(0);
        count
    }
}
