//! A server of WebSocket connections over HTTP/2 (RFC 8441): the `h2` crate's server on tokio, with a
//! naive echo of frames that shares no code with the generator.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use h2::{
    Reason, RecvStream, SendStream,
    ext::Protocol,
    server::{Builder, SendResponse},
};
use http::{HeaderMap, Method, Request, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime,
    task::{LocalSet, spawn_local},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tungstenite::Bytes;

/// What a server does.
#[derive(Clone, Debug)]
pub(crate) struct Conduct {
    /// Whether its SETTINGS enable extended CONNECT.
    pub(crate) connect_protocol: bool,
    /// Streams that it allows on a connection at once.
    pub(crate) streams_max: Option<u32>,
    /// What it answers requests with.
    pub(crate) status: u16,
    /// What it says with another status than 200.
    pub(crate) body: &'static str,
    /// What becomes of a stream when a message has come.
    pub(crate) fate: Fate,
}

/// What becomes of a stream when its first message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Echo,
    /// Every echo has another first byte.
    Corrupt,
    /// The stream is reset.
    Reset(Reason),
    /// The connection is ended by GOAWAY, once this many messages have come.
    GoAway(u64),
    /// After the Close frame the server's side is not ended.
    NeverEnd,
}

impl Default for Conduct {
    fn default() -> Self {
        Self { connect_protocol: true, streams_max: None, status: 200, body: "", fate: Fate::Echo }
    }
}

/// A server on an ephemeral port, for as long as the test binary runs.
pub(crate) struct Http2Server {
    address: SocketAddr,
    seen: Arc<Seen>,
}

/// What a server has seen.
#[derive(Debug, Default)]
struct Seen {
    connections: AtomicU64,
    streams: AtomicU64,
    messages: AtomicU64,
    /// Streams that the client reset.
    resets: AtomicU64,
    /// The header fields of the first request, its authority and its path.
    request: Mutex<Option<(HeaderMap, String)>>,
}

impl Http2Server {
    /// A server by prior knowledge.
    pub(crate) fn start(conduct: Conduct) -> Self {
        Self::start_on(conduct, None)
    }

    /// A server behind TLS, whose configuration offers what it does by ALPN.
    pub(crate) fn start_with_tls(conduct: Conduct, tls: ServerConfig) -> Self {
        Self::start_on(conduct, Some(tls))
    }

    fn start_on(conduct: Conduct, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let noted = Arc::clone(&seen);
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, accept(listener, conduct, tls, noted));
        });
        Self { address, seen }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/echo", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections of TCP.
    pub(crate) fn connections(&self) -> u64 {
        self.seen.connections.load(SeqCst)
    }

    pub(crate) fn streams(&self) -> u64 {
        self.seen.streams.load(SeqCst)
    }

    /// Messages that were received.
    pub(crate) fn messages(&self) -> u64 {
        self.seen.messages.load(SeqCst)
    }

    /// Streams that the client reset.
    pub(crate) fn resets(&self) -> u64 {
        self.seen.resets.load(SeqCst)
    }

    /// The header fields of the first request, and its URI.
    pub(crate) fn request(&self) -> (HeaderMap, String) {
        self.seen.request.lock().unwrap().clone().unwrap()
    }
}

async fn accept(
    listener: TcpListener,
    conduct: Conduct,
    tls: Option<ServerConfig>,
    seen: Arc<Seen>,
) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let tls = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        seen.connections.fetch_add(1, SeqCst);
        let (conduct, tls, seen) = (conduct.clone(), tls.clone(), Arc::clone(&seen));
        spawn_local(async move {
            // A client may leave at any time.
            let _ = match tls {
                None => serve(stream, conduct, seen).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, conduct, seen).await,
                    Err(_) => Ok(()),
                },
            };
        });
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    conduct: Conduct,
    seen: Arc<Seen>,
) -> Result<(), h2::Error> {
    let mut builder = Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    if conduct.connect_protocol {
        builder.enable_connect_protocol();
    }
    if let Some(max) = conduct.streams_max {
        builder.max_concurrent_streams(max);
    }
    let mut connection = builder.handshake::<_, Bytes>(stream).await?;
    loop {
        let ends =
            matches!(conduct.fate, Fate::GoAway(after) if seen.messages.load(SeqCst) >= after);
        // GOAWAY waits for a stream that is not over; the next one is refused by it.
        let accepted = tokio::time::timeout(Duration::from_millis(5), connection.accept()).await;
        if ends {
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            seen.messages.store(0, SeqCst);
        }
        let (request, respond) = match accepted {
            Ok(Some(accepted)) => accepted?,
            Ok(None) => return Ok(()),
            Err(_) => continue,
        };
        let (conduct, seen) = (conduct.clone(), Arc::clone(&seen));
        spawn_local(async move {
            if answer(request, respond, &conduct, &seen)
                .await
                .is_err_and(|error| error.is_reset() && error.is_remote())
            {
                seen.resets.fetch_add(1, SeqCst);
            }
        });
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    conduct: &Conduct,
    seen: &Seen,
) -> Result<(), h2::Error> {
    seen.streams.fetch_add(1, SeqCst);
    assert_eq!(request.method(), Method::CONNECT);
    assert_eq!(request.extensions().get::<Protocol>().unwrap().as_str(), "websocket");
    seen.request
        .lock()
        .unwrap()
        .get_or_insert_with(|| (request.headers().clone(), request.uri().to_string()));
    let mut response = Response::builder().status(conduct.status);
    if (300..400).contains(&conduct.status) {
        response = response.header("location", "https://elsewhere.example/?token=secret");
    }
    if conduct.status == 200
        && let Some(offered) = request.headers().get("sec-websocket-protocol")
    {
        let granted = offered.to_str().unwrap().rsplit(", ").next().unwrap();
        response = response.header("sec-websocket-protocol", granted);
    }
    let mut sending = respond.send_response(response.body(()).unwrap(), false)?;
    if conduct.status != 200 {
        return sending.send_data(conduct.body.into(), true);
    }
    echo(request.into_body(), sending, conduct.fate, seen).await
}

/// Echoes the frames of a stream as they come: FIN and opcode stay, the masking key goes.
async fn echo(
    mut body: RecvStream,
    mut sending: SendStream<Bytes>,
    fate: Fate,
    seen: &Seen,
) -> Result<(), h2::Error> {
    let mut received = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        received.extend_from_slice(&chunk);
        let mut replies = Vec::new();
        let mut is_over = false;
        while let Some((first, mut payload)) = take_frame(&mut received) {
            let (opcode, is_last) = (first & 0x0f, first & 0x80 != 0);
            if opcode < 8 && is_last {
                seen.messages.fetch_add(1, SeqCst);
                match fate {
                    Fate::Reset(reason) => {
                        sending.send_reset(reason);
                        return Ok(());
                    }
                    Fate::Corrupt => payload[0] ^= 1,
                    Fate::Echo | Fate::GoAway(_) | Fate::NeverEnd => {}
                }
            }
            is_over |= opcode == 8;
            let first = if opcode == 9 { 0x8a } else { first };
            replies.push(first);
            match payload.len() {
                len @ ..126 => replies.push(len as u8),
                len @ ..65_536 => {
                    replies.push(126);
                    replies.extend((len as u16).to_be_bytes());
                }
                len => {
                    replies.push(127);
                    replies.extend((len as u64).to_be_bytes());
                }
            }
            replies.append(&mut payload);
        }
        if is_over && fate == Fate::NeverEnd {
            sending.send_data(replies.into(), false)?;
            // The stream is held until the client leaves.
            while body.data().await.transpose()?.is_some() {}
            return Ok(());
        }
        if !replies.is_empty() {
            sending.send_data(replies.into(), is_over)?;
        }
        if is_over {
            // The client's end, or its reset.
            while body.data().await.transpose()?.is_some() {}
            return Ok(());
        }
    }
    Ok(())
}

/// Takes the first frame out of `received`: its first byte and its unmasked payload.
fn take_frame(received: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let &[first, second, ..] = &**received else { return None };
    assert!(second & 0x80 != 0, "frames of clients are masked");
    let number = |bytes: &[u8]| bytes.iter().fold(0, |value, byte| value << 8 | usize::from(*byte));
    let (len, begin) = match second & 0x7f {
        126 => (number(received.get(2..4)?), 4),
        127 => (number(received.get(2..10)?), 10),
        len => (usize::from(len), 2),
    };
    let frame_len = begin + 4 + len;
    if received.len() < frame_len {
        return None;
    }
    let frame: Vec<u8> = received.drain(..frame_len).collect();
    let (key, payload) = frame[begin..].split_at(4);
    let payload = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    Some((first, payload))
}
