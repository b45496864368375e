//! The byte stream under a connection: a TCP or Unix socket, with or without TLS, or a stream of
//! HTTP/2.
//!
//! Sockets of both families are driven as monoio's [`TcpStream`]: what it does with one (receive,
//! send, shut down) is the same for both.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use monoio::{
    io::{OwnedReadHalf, OwnedWriteHalf, Splitable},
    net::TcpStream,
    time::sleep,
};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{
    http2::stream::{StreamReader, StreamWriter},
    in_turn::InTurn,
    tls::{TlsReader, TlsWriter},
};
use crate::text::{shortfall::note, warning::WarningCode};

/// After how long a Unix socket is tried again whose listen queue is full.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(1);

/// The byte stream of an open connection, as its two sides.
pub(crate) enum Stream {
    Plain(OwnedReadHalf<TcpStream>, OwnedWriteHalf<TcpStream>),
    Tls(Box<(TlsReader, TlsWriter)>),
    Http2(Box<(StreamReader, StreamWriter)>),
}

/// A connected socket, with or without TLS, as its two sides.
pub(crate) enum Connected {
    Plain(OwnedReadHalf<TcpStream>, OwnedWriteHalf<TcpStream>),
    Tls(Box<(TlsReader, TlsWriter)>),
}

impl From<Connected> for Stream {
    fn from(connected: Connected) -> Self {
        match connected {
            Connected::Plain(reader, writer) => Self::Plain(reader, writer),
            Connected::Tls(halves) => Self::Tls(halves),
        }
    }
}

/// Where sockets connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An address of TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// What closing a socket does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketClosing {
    /// TCP ends its side of the connection. The local port stays taken for a minute (`TIME_WAIT`),
    /// unless the peer has ended its side before.
    InOrder,
    /// TCP resets the connection, and the local port is free at once.
    Reset,
}

/// Addresses that sockets connect from, in turn; whatever the kernel chooses if there are none.
pub type Sources = InTurn<IpAddr>;

/// Connects a socket.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    sources: &Sources,
    closing: SocketClosing,
) -> io::Result<(OwnedReadHalf<TcpStream>, OwnedWriteHalf<TcpStream>)> {
    let stream = match endpoint {
        Endpoint::Tcp(address) => connect_tcp(*address, sources.next().copied(), closing).await?,
        Endpoint::Unix(path) => {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            connect_socket(&socket, &SockAddr::unix(path)?).await?
        }
    };
    Ok(stream.into_split())
}

async fn connect_tcp(
    address: SocketAddr,
    source: Option<IpAddr>,
    closing: SocketClosing,
) -> io::Result<TcpStream> {
    let stream = if source.is_none() && closing == SocketClosing::InOrder {
        TcpStream::connect_addr(address).await?
    } else {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if closing == SocketClosing::Reset {
            socket.set_linger(Some(Duration::ZERO))?;
        }
        if let Some(source) = source {
            // Otherwise the kernel would choose the port now, when it does not know yet where the
            // connection goes to, and run out of them after 28,000 connections to all addresses.
            let set = setsockopt(&socket, IpBindAddressNoPort, &true).map_err(io::Error::from);
            done_without("IP_BIND_ADDRESS_NO_PORT", "--source may run out of local ports", set);
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        connect_socket(&socket, &address.into()).await?
    };
    // Without it the kernel would hold back small writes while others are unacknowledged.
    done_without("TCP_NODELAY", "small messages may wait for others", stream.set_nodelay(true));
    Ok(stream)
}

/// The cause, and the command that mends it where there is one.
pub(super) fn explain_connect(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => format!(
            "{error}; no local port is left for another connection to this address: \
             sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\""
        ),
        _ if error.raw_os_error() == Some(nix::errno::Errno::EMFILE as i32) => {
            format!("{error}; raise the limit on open files: ulimit -n 1048576")
        }
        _ => error.to_string(),
    }
}

/// Notes that a socket option could not be set, and what that means.
fn done_without(option: &str, consequence: &str, set: io::Result<()>) {
    if let Err(error) = set {
        note(WarningCode::SocketOptionRefused, || {
            format!(
                "{option} cannot be set ({error}), so {consequence}: allow setsockopt in the \
                 container's seccomp profile"
            )
        });
    }
}

/// Connects a socket that monoio has not made.
async fn connect_socket(socket: &Socket, address: &SockAddr) -> io::Result<TcpStream> {
    socket.set_nonblocking(true)?;
    while let Err(error) = socket.connect(address) {
        match error.kind() {
            io::ErrorKind::WouldBlock => sleep(QUEUE_FULL_PAUSE).await,
            _ if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => break,
            _ => return Err(error),
        }
    }
    let stream = TcpStream::from_std(socket.try_clone()?.into())?;
    stream.writable(false).await?;
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    // On epoll monoio needs it to be non-blocking, on io_uring to be not.
    socket.set_nonblocking(monoio::utils::is_legacy())?;
    Ok(stream)
}
