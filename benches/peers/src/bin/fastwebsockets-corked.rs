//! fastwebsockets on tokio, upgraded by hyper, whose replies to one read are sent with one write.
//!
//! fastwebsockets writes each frame at once and has no setting that changes that, so the stream
//! below it ([`Corked`]) holds writes back until the next read: fastwebsockets reads when it has
//! answered every frame that it has. How much one read takes is its own choice.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use fastwebsockets::{
    FragmentCollector, OpCode, Role, WebSocket, WebSocketError, upgrade::UpgradeFut,
};
use ringecho_peers::on_tokio::serve_upgraded;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    serve_upgraded(echo).await
}

async fn echo(upgraded: UpgradeFut) -> Result<(), WebSocketError> {
    let stream = Corked { stream: upgraded.await?.into_inner(), held: Vec::new() };
    let mut websocket = FragmentCollector::new(WebSocket::after_handshake(stream, Role::Server));
    loop {
        let frame = websocket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(websocket.into_inner().flush().await?),
            OpCode::Text | OpCode::Binary => websocket.write_frame(frame).await?,
            OpCode::Continuation | OpCode::Ping | OpCode::Pong => {}
        }
    }
}

/// A stream that holds what is written until the next read, or until it is [`HELD_LEN_MAX`] long.
struct Corked<S> {
    stream: S,
    held: Vec<u8>,
}

/// A write that would make it longer is not held: then a system call is cheaper than a copy.
const HELD_LEN_MAX: usize = 64 << 10;

impl<S: AsyncWrite + Unpin> Corked<S> {
    fn write_held(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(context, &self.held))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(self.held.drain(..written)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.write_held(context))?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        if self.held.len() + len > HELD_LEN_MAX {
            ready!(self.write_held(context))?;
            return Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        }
        for piece in pieces {
            self.held.extend_from_slice(piece);
        }
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_held(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_held(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
