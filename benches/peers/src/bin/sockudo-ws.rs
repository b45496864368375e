//! sockudo-ws on tokio: the echo loop that its documentation shows for batches.
//!
//! Replies are queued, and written when the messages of one read are used up.

use futures_util::{SinkExt, StreamExt};
use ringecho_peers::on_tokio;
use sockudo_ws::{Config, Message, Role, WebSocketStream, handshake::server_handshake};
use tokio::net::TcpStream;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    on_tokio::serve(echo).await
}

async fn echo(mut stream: TcpStream) -> sockudo_ws::Result<()> {
    let opening = server_handshake(&mut stream).await?;
    let mut websocket = WebSocketStream::from_raw_with_leftover(
        stream,
        Role::Server,
        Config::default(),
        opening.leftover,
    );
    while let Some(message) = websocket.next().await {
        match message? {
            message @ (Message::Text(_) | Message::Binary(_)) => websocket.feed(message).await?,
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
    Ok(())
}
