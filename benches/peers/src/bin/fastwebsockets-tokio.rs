//! fastwebsockets on tokio, upgraded by hyper: the echo server that its documentation shows.
//!
//! It goes frame by frame: a frame is read, copied into its reply, and sent before the next one
//! is looked at. Fragments are collected into a message first.

use anyhow::Context;
use fastwebsockets::{FragmentCollector, OpCode, WebSocketError, upgrade};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use ringecho_peers::listen;
use tokio::net::{TcpListener, TcpStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listen("ws")?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = serve(stream).await {
                eprintln!("an opening handshake failed: {error:#}");
            }
        });
    }
}

async fn serve(stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let answer = service_fn(async |mut request| {
        let (response, upgraded) = upgrade::upgrade(&mut request)?;
        tokio::spawn(async move {
            if let Err(error) = tokio::task::unconstrained(echo(upgraded)).await {
                eprintln!("a connection ended early: {error}");
            }
        });
        Ok::<_, WebSocketError>(response)
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
    connection.with_upgrades().await.context("HTTP")
}

async fn echo(upgraded: upgrade::UpgradeFut) -> Result<(), WebSocketError> {
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
