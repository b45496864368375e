//! The echo of a floor over HTTP/2: the h2 crate's server, polled without a pause, with streams instead
//! of connections. Of a stream's frames it knows as much as the echo of plain TCP.

use std::{
    future::{Future, poll_fn},
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Builder, SendResponse},
};
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::echo::{CLOSE, Deadline, OPCODE, take_reply};

/// Echoes the streams of one connection until it ends, or the deadline comes.
pub(super) fn echo(stream: TcpStream, deadline: &Deadline) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let mut serving = pin!(serve(Polled(stream)));
    let mut cx = Context::from_waker(Waker::noop());
    let served = deadline.until(|| match serving.as_mut().poll(&mut cx) {
        Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        Poll::Ready(served) => Ok(served),
    });
    match served {
        None => Ok(()),
        // Whoever measures a floor leaves without a word.
        Some(Ok(Err(error))) if error.is_io() => Ok(()),
        Some(served) => served?.map_err(io::Error::other),
    }
}

/// The echo of one stream.
type Echoing = Pin<Box<dyn Future<Output = Result<(), h2::Error>>>>;

async fn serve(stream: Polled) -> Result<(), h2::Error> {
    let mut connection = Builder::new().enable_connect_protocol().handshake(stream).await?;
    let mut streams = Vec::<Echoing>::new();
    poll_fn(|cx| {
        // A stream that failed concerns nobody else.
        streams.retain_mut(|stream| stream.as_mut().poll(cx).is_pending());
        loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    streams.push(Box::pin(echo_stream(request, respond)));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

async fn echo_stream(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut sending = respond.send_response(Response::new(()), false)?;
    let mut body = request.into_body();
    let mut received = Vec::new();
    while let Some(chunk) = poll_fn(|cx| body.poll_data(cx)).await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        received.extend_from_slice(&chunk);
        while let Ok(Some(reply)) = take_reply(&mut received) {
            let is_last = reply[0] & OPCODE == CLOSE;
            sending.send_data(reply.into(), is_last)?;
            if is_last {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A socket that does not block, for who polls it again and again.
struct Polled(TcpStream);

/// What a call of a socket that does not block has come to.
fn polled<T>(outcome: io::Result<T>) -> Poll<io::Result<T>> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
        outcome => Poll::Ready(outcome),
    }
}

impl AsyncRead for Polled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        polled(self.0.read(buffer.initialize_unfilled()).map(|len| buffer.advance(len)))
    }
}

impl AsyncWrite for Polled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        polled(self.0.write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
