//! What the peers on tokio have in common: a task for each connection, and for those on
//! fastwebsockets the upgrade through hyper.

use std::fmt::Display;

use anyhow::Context;
use fastwebsockets::{WebSocketError, upgrade};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::listen;

/// Serves each connection in a task of its own.
pub async fn serve<F, E>(connection: impl Fn(TcpStream) -> F) -> anyhow::Result<()>
where
    F: Future<Output = Result<(), E>> + 'static + Send,
    E: Display + 'static,
{
    let listener = TcpListener::from_std(listen("ws")?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let connection = connection(stream);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection ended early: {error:#}");
            }
        });
    }
}

/// Serves each connection that hyper and fastwebsockets upgrade, as the documentation of
/// fastwebsockets shows.
pub async fn serve_upgraded<F>(
    echo: impl Fn(upgrade::UpgradeFut) -> F + Copy + Send + Sync + 'static,
) -> anyhow::Result<()>
where
    F: Future<Output = Result<(), WebSocketError>> + 'static + Send,
{
    serve(move |stream| async move {
        let answer = service_fn(async |mut request| {
            let (response, upgraded) = upgrade::upgrade(&mut request)?;
            let echo = echo(upgraded);
            tokio::spawn(async move {
                if let Err(error) = tokio::task::unconstrained(echo).await {
                    eprintln!("a connection ended early: {error}");
                }
            });
            Ok::<_, WebSocketError>(response)
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
        connection.with_upgrades().await.context("an opening handshake failed")
    })
    .await
}
