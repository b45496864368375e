//! A raw TCP echo on monoio: what the bytes cost when nobody looks at them.
//!
//! It is the physical limit that WebSocket echo servers are compared with, so a WebSocket load
//! generator must be able to drive it: the opening handshake is answered as RFC 6455 §4.2.2 says.
//! Every byte behind the request head then comes back **untouched**. A client that expects an
//! echo in the sense of the RFC finds its own frames instead: with the MASK bit set, four bytes
//! longer, and the payload still masked. It must have been told to accept that.
//!
//! It reads and writes as ringecho's portable path does: one buffer for each connection, which
//! starts at 4 KiB and doubles, up to 256 KiB, whenever a read has filled it. It runs on
//! `io_uring` or not at all, since a silent change to epoll would change what is compared, with
//! the ring flags that ringecho sets on Linux 6.1 and later.

use std::io;

use anyhow::Context;
use io_uring_monoio::IoUring;
use monoio::{
    IoUringDriver, RuntimeBuilder,
    io::{AsyncReadRent, AsyncWriteRentExt},
    net::{TcpListener, TcpStream},
};
use ringecho_peers::listen;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const BUFFER_LEN_MIN: usize = 4 << 10;
const BUFFER_LEN_MAX: usize = 256 << 10;

fn main() -> anyhow::Result<()> {
    let mut flags = IoUring::builder();
    flags.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
        .uring_builder(flags)
        .build()
        .context("this kernel offers no io_uring, or not its deferred task running")?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listen("tcp")?)?;
        loop {
            let (stream, _) = listener.accept().await?;
            monoio::spawn(async move {
                if let Err(error) = serve(stream).await {
                    eprintln!("a connection ended early: {error}");
                }
            });
        }
    })
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (request_head, behind) = read_request_head(&mut stream).await?;
    let key = websocket_key(&request_head)
        .ok_or_else(|| io::Error::other("the request head has no Sec-WebSocket-Key"))?;
    let mut reply = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    )
    .into_bytes();
    reply.extend_from_slice(&behind);
    stream.write_all(reply).await.0?;
    echo(stream).await
}

/// The request head up to its empty line, and the bytes that came behind it.
async fn read_request_head(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut received = Vec::new();
    while received.len() < BUFFER_LEN_MIN {
        let (read, piece) = stream.read(Vec::with_capacity(BUFFER_LEN_MIN)).await;
        if read? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(&piece);
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let behind = received.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&received).into_owned(), behind));
        }
    }
    Err(io::Error::other("the request head is longer than 4 KiB"))
}

fn websocket_key(request_head: &str) -> Option<&str> {
    let mut fields = request_head.lines().filter_map(|line| line.split_once(':'));
    let (_, key) = fields.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))?;
    Some(key.trim())
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_LEN_MIN);
    loop {
        let (read, filled) = stream.read(buffer).await;
        if read? == 0 {
            return Ok(());
        }
        let (written, emptied) = stream.write_all(filled).await;
        let buffer_len = emptied.capacity();
        let was_filled = written? == buffer_len;
        buffer = if was_filled && buffer_len < BUFFER_LEN_MAX {
            Vec::with_capacity(2 * buffer_len)
        } else {
            emptied
        };
    }
}
