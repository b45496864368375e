//! What the peers have in common: the command line `PEER PORT`, the line that says where they
//! listen, and the allocator; the opening handshake of the hand-rolled ones ([`opening`]) and what
//! the raw TCP echoes make of it ([`raw_tcp`]); the loops on epoll ([`on_epoll`]) and on tokio
//! ([`on_tokio`]).
//!
//! Every peer serves 127.0.0.1 from one thread, with `TCP_NODELAY`; the thread is pinned from
//! outside, as ringecho's is when the two are compared. ringecho runs on mimalloc, so its peers do
//! too: it is not the allocator that is to be compared.

pub mod on_epoll;
pub mod on_tokio;
pub mod opening;
pub mod raw_tcp;

use std::{
    env,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use anyhow::Context;
use mimalloc::MiMalloc;
use socket2::SockRef;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Listens on the port that the command line names (0: one that is free), and says so on stdout
/// with the URL that a client of this `scheme` connects to.
///
/// The listener does not block, as event loops want it, and its connections inherit `TCP_NODELAY`.
pub fn listen(scheme: &str) -> anyhow::Result<TcpListener> {
    let port = env::args().nth(1).context("the port is missing; usage: PEER PORT")?;
    let port: u16 = port.parse().with_context(|| format!("{port} is not a port (0-65535)"))?;
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .with_context(|| format!("cannot listen on 127.0.0.1:{port}"))?;
    listener.set_nonblocking(true)?;
    SockRef::from(&listener).set_tcp_nodelay(true)?;
    let path = if scheme.starts_with("ws") { "/" } else { "" };
    println!("listening on {scheme}://{}{path}", listener.local_addr()?);
    Ok(listener)
}
