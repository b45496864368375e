//! tokio-tungstenite on tokio: the echo server that its repository shows.
//!
//! Messages are forwarded from the stream's half to the sink's, which writes what it has
//! collected once no further message is at hand.

use futures_util::{StreamExt, TryStreamExt, future};
use ringecho_peers::listen;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{accept_async, tungstenite};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listen("ws")?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = serve(stream).await {
                eprintln!("a connection ended early: {error}");
            }
        });
    }
}

async fn serve(stream: TcpStream) -> Result<(), tungstenite::Error> {
    stream.set_nodelay(true)?;
    let (replies, messages) = accept_async(stream).await?.split();
    messages
        .try_filter(|message| future::ready(message.is_text() || message.is_binary()))
        .forward(replies)
        .await
}
