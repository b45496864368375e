//! tokio-tungstenite on tokio: the echo server that its repository shows.
//!
//! Messages are forwarded from the stream's half to the sink's, which writes what it has
//! collected once no further message is at hand.

use futures_util::{StreamExt, TryStreamExt, future};
use ringecho_peers::on_tokio;
use tokio::net::TcpStream;
use tokio_tungstenite::{accept_async, tungstenite};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    on_tokio::serve(echo).await
}

async fn echo(stream: TcpStream) -> Result<(), tungstenite::Error> {
    let (replies, messages) = accept_async(stream).await?.split();
    messages
        .try_filter(|message| future::ready(message.is_text() || message.is_binary()))
        .forward(replies)
        .await
}
