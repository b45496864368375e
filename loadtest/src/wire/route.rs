//! How a connection gets to the server: straight or through a proxy, and whether it begins with a
//! PROXY protocol header. What is spoken with the server stands in other files.

use std::net::SocketAddr;

use monoio::{
    io::{OwnedReadHalf, OwnedWriteHalf},
    net::TcpStream,
};

use super::{
    halves::WriteHalf,
    in_turn::InTurn,
    opening_error::OpeningError,
    proxy::{Destination, Proxy, ProxyError},
    proxy_header::{ProxyHeaders, ServerAddress},
    stream,
    stream::{Endpoint, SocketClosing, Sources},
};

/// The way that connections go.
#[derive(Debug)]
pub struct Route {
    hop: Hop,
    headers: Option<ProxyHeaders>,
    /// The URL's port.
    port: u16,
    /// Whether `--resolve` says where the server is.
    is_resolved_by_hand: bool,
}

/// Where sockets connect to.
#[derive(Debug)]
enum Hop {
    /// To the server, at each of these in turn.
    Server(InTurn<Endpoint>),
    Proxy(Box<Tunnel>),
}

/// A proxy, and what it is asked for.
#[derive(Debug)]
struct Tunnel {
    proxy: Proxy,
    origin: ProxyOrigin,
    /// Where the proxy is.
    endpoints: InTurn<Endpoint>,
    /// Where it is asked to connect to.
    destinations: InTurn<Destination>,
}

/// Who has named a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyOrigin {
    /// The command line.
    Flag,
    /// This variable.
    Variable(&'static str),
}

impl ProxyOrigin {
    /// As it is called by who sets it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Flag => "--proxy",
            Self::Variable(name) => name,
        }
    }
}

impl From<Endpoint> for Route {
    fn from(endpoint: Endpoint) -> Self {
        let port = match &endpoint {
            Endpoint::Tcp(address) => address.port(),
            Endpoint::Unix(_) => 0,
        };
        Self::to_server(vec![endpoint], port)
    }
}

impl Route {
    /// Straight to the server, at each of `endpoints` in turn, of which there is at least one. The
    /// URL's port is `port`.
    pub fn to_server(endpoints: Vec<Endpoint>, port: u16) -> Self {
        let hop = Hop::Server(InTurn::new(endpoints));
        Self { hop, headers: None, port, is_resolved_by_hand: false }
    }

    /// Through `proxy`, which is at each of `endpoints` in turn, to each of `destinations` in turn; of
    /// both there is at least one.
    pub fn through(
        proxy: Proxy,
        origin: ProxyOrigin,
        endpoints: Vec<Endpoint>,
        destinations: Vec<Destination>,
        port: u16,
    ) -> Self {
        let (endpoints, destinations) = (InTurn::new(endpoints), InTurn::new(destinations));
        let hop = Hop::Proxy(Box::new(Tunnel { proxy, origin, endpoints, destinations }));
        Self { hop, headers: None, port, is_resolved_by_hand: false }
    }

    /// The same, with a PROXY protocol header before everything else that the server is sent.
    #[must_use]
    pub fn announced_by(self, headers: Option<ProxyHeaders>) -> Self {
        Self { headers, ..self }
    }

    /// The same, if `--resolve` has said where the server is.
    #[must_use]
    pub fn resolved_by_hand(self, is_resolved_by_hand: bool) -> Self {
        Self { is_resolved_by_hand, ..self }
    }

    /// Where sockets connect to, the server or a proxy.
    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        match &self.hop {
            Hop::Server(endpoints) => endpoints.items(),
            Hop::Proxy(tunnel) => tunnel.endpoints.items(),
        }
    }

    /// The proxy, and who has named it.
    pub(crate) fn proxy(&self) -> Option<(&Proxy, ProxyOrigin)> {
        match &self.hop {
            Hop::Server(_) => None,
            Hop::Proxy(tunnel) => Some((&tunnel.proxy, tunnel.origin)),
        }
    }

    /// What connections begin with.
    pub(crate) fn headers(&self) -> Option<&ProxyHeaders> {
        self.headers.as_ref()
    }

    /// Where `--resolve` says that the server is; empty if it does not.
    pub(crate) fn addresses_by_hand(&self) -> Vec<SocketAddr> {
        let of_endpoint = |endpoint: &Endpoint| match endpoint {
            Endpoint::Tcp(address) => Some(*address),
            Endpoint::Unix(_) => None,
        };
        let of_destination = |destination: &Destination| match destination {
            Destination::Address(address) => Some(*address),
            Destination::Name(..) => None,
        };
        match &self.hop {
            _ if !self.is_resolved_by_hand => Vec::new(),
            Hop::Server(endpoints) => endpoints.items().iter().filter_map(of_endpoint).collect(),
            Hop::Proxy(tunnel) => {
                tunnel.destinations.items().iter().filter_map(of_destination).collect()
            }
        }
    }

    /// Connects a socket, so that what is written to it next is the server's.
    pub(super) async fn connect(
        &self,
        sources: &Sources,
        closing: SocketClosing,
    ) -> Result<(OwnedReadHalf<TcpStream>, OwnedWriteHalf<TcpStream>), OpeningError> {
        let (halves, server) = match &self.hop {
            Hop::Server(endpoints) => {
                let endpoint = endpoints.next().expect("a route leads somewhere");
                let halves = stream::connect(endpoint, sources, closing).await;
                (halves.map_err(OpeningError::Connect)?, self.address_of(endpoint))
            }
            Hop::Proxy(tunnel) => {
                let destination = tunnel.destinations.next().expect("a tunnel has an end");
                // Boxed, so that it takes no room in the tasks of connections without a proxy.
                let halves = Box::pin(tunnel.connect(destination, sources, closing)).await;
                let fault = |cause| OpeningError::Proxy { url: tunnel.proxy.url().into(), cause };
                let server = match destination {
                    Destination::Address(address) => ServerAddress::Known(*address),
                    Destination::Name(_, port) => ServerAddress::Unknown(*port),
                };
                (halves.map_err(fault)?, server)
            }
        };
        let (read_half, mut write_half) = halves;
        if let Some(headers) = &self.headers {
            // A Unix socket has no address of this kind, and monoio panics where it is asked for it.
            let local = if self.is_to_unix_socket() { None } else { read_half.local_addr().ok() };
            let header = headers.next(local, server);
            let (sent, _) = WriteHalf::write_all(&mut write_half, header).await;
            sent.map_err(OpeningError::ProxyHeader)?;
        }
        Ok((read_half, write_half))
    }

    fn is_to_unix_socket(&self) -> bool {
        matches!(self.endpoints(), [Endpoint::Unix(_), ..])
    }

    fn address_of(&self, endpoint: &Endpoint) -> ServerAddress {
        match endpoint {
            Endpoint::Tcp(address) => ServerAddress::Known(*address),
            Endpoint::Unix(_) => ServerAddress::Unknown(self.port),
        }
    }
}

impl Tunnel {
    async fn connect(
        &self,
        destination: &Destination,
        sources: &Sources,
        closing: SocketClosing,
    ) -> Result<(OwnedReadHalf<TcpStream>, OwnedWriteHalf<TcpStream>), ProxyError> {
        let endpoint = self.endpoints.next().expect("a proxy is somewhere");
        let halves = stream::connect(endpoint, sources, closing).await;
        let (mut read_half, mut write_half) = halves.map_err(ProxyError::Connect)?;
        self.proxy.ask(destination, &mut read_half, &mut write_half).await?;
        Ok((read_half, write_half))
    }
}
