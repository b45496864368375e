//! fastwebsockets on tokio, upgraded by hyper: the echo server that its documentation shows.
//!
//! It goes frame by frame: a frame is read, copied into its reply, and sent before the next one
//! is looked at. Fragments are collected into a message first.

use fastwebsockets::{FragmentCollector, OpCode, WebSocketError, upgrade::UpgradeFut};
use ringecho_peers::on_tokio::serve_upgraded;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    serve_upgraded(echo).await
}

async fn echo(upgraded: UpgradeFut) -> Result<(), WebSocketError> {
    let mut websocket = FragmentCollector::new(upgraded.await?);
    loop {
        let frame = websocket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => websocket.write_frame(frame).await?,
            OpCode::Continuation | OpCode::Ping | OpCode::Pong => {}
        }
    }
}
