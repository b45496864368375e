//! A raw TCP echo on monoio: what the bytes cost when nobody looks at them, see
//! [`ringecho_peers::raw_tcp`].
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
use ringecho_peers::{listen, opening::REQUEST_HEAD_LEN_MAX, raw_tcp::opening_reply};

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
    let mut received = Vec::new();
    let reply = loop {
        let (read, piece) = stream.read(Vec::with_capacity(REQUEST_HEAD_LEN_MAX)).await;
        if read? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(&piece);
        if let Some(reply) = opening_reply(&received)? {
            break reply;
        }
    };
    stream.write_all(reply).await.0?;
    echo(stream).await
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
