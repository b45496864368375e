//! The new server's side of a takeover: it finds the running one, takes its sockets, and takes its
//! place.

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use socket2::{SockRef, Type};
use tracing::{info, warn};

use super::{
    TakeoverError,
    door::{Behind, Door, knock},
    link::{Link, LinkError, Peer},
    message::{Message, Sockets},
};

/// How long a new server waits for the running one in all. The running one may have to wait for
/// another new one first.
const PATIENCE: Duration = Duration::from_secs(45);

/// How long a running server that goes away is looked for again: it may have been taken over just
/// now, or have stopped.
const SEARCH: Duration = Duration::from_secs(1);
const SEARCH_PAUSE: Duration = Duration::from_millis(10);

/// A running server that is to be taken over.
pub(in crate::server) struct Predecessor {
    link: Link,
    peer: Peer,
    sockets: Vec<TcpListener>,
    are_supervised: bool,
}

impl Predecessor {
    /// Finds the server that runs at a path, and takes its sockets; `None` if there is none. `listen`
    /// is where they should be, unless a service manager has opened them.
    pub(in crate::server) fn find(
        path: &Path,
        listen: SocketAddr,
    ) -> Result<Option<Self>, TakeoverError> {
        let began = Instant::now();
        loop {
            let behind = knock(path, PATIENCE).map_err(TakeoverError::at(path))?;
            let Behind::Server(socket) = behind else { return Ok(None) };
            match Self::meet(Link::new(socket, began + PATIENCE)) {
                Ok(predecessor) => return predecessor.check_addresses(path, listen).map(Some),
                Err(LinkError::Gone) if began.elapsed() < SEARCH => thread::sleep(SEARCH_PAUSE),
                Err(error) => return Err(TakeoverError::with(path)(error)),
            }
        }
    }

    fn meet(link: Link) -> Result<Self, LinkError> {
        let peer = link.trusted_peer()?;
        link.send(&Message::Ask, &[])?;
        let mut sockets = Vec::new();
        let mut total = None;
        loop {
            let (message, descriptors) = link.receive_with_descriptors()?;
            let Message::Sockets(message) = message else { return Err(LinkError::OutOfTurn) };
            let is_next = message.before as usize == sockets.len();
            if !is_next || *total.get_or_insert(message.total) != message.total {
                return Err(LinkError::OutOfTurn);
            }
            sockets.extend(identify(&message, descriptors).ok_or(LinkError::Descriptors)?);
            if sockets.len() == message.total as usize {
                let are_supervised = message.are_supervised;
                return Ok(Self { link, peer, sockets, are_supervised });
            }
        }
    }

    fn check_addresses(self, path: &Path, listen: SocketAddr) -> Result<Self, TakeoverError> {
        let mut addresses = self.sockets.iter().filter_map(|socket| socket.local_addr().ok());
        let elsewhere = addresses.find(|address| !fits(listen, *address));
        match elsewhere.filter(|_| !self.are_supervised) {
            None => Ok(self),
            Some(theirs) => {
                let reason = format!("a new server is told to listen on {listen}, not {theirs}");
                // The takeover is off whether or not the other one hears why.
                let _ = self.link.send(&Message::Off(reason), &[]);
                let path = path.display().to_string();
                Err(TakeoverError::Elsewhere { path, theirs, ours: listen })
            }
        }
    }

    /// Takes the sockets, which are the other server's too.
    pub(in crate::server) fn take_sockets(&mut self) -> Vec<TcpListener> {
        std::mem::take(&mut self.sockets)
    }

    /// Whether a service manager has opened the sockets.
    pub(in crate::server) fn are_supervised(&self) -> bool {
        self.are_supervised
    }

    /// Takes the other server's place, since this one accepts connections by now. On an error the
    /// other one goes on.
    pub(in crate::server) fn succeed(self, path: &Path) -> Result<Door, TakeoverError> {
        let Self { link, peer, .. } = self;
        let door = Door::open(path).map_err(TakeoverError::at(path))?;
        // What the other one has said before it went away is heard even if it cannot be told any more.
        let told = link.send(&Message::Accepting, &[]);
        let said = match told {
            Ok(()) | Err(LinkError::Gone) => link.receive(),
            Err(error) => Err(error),
        };
        match said {
            Ok(Message::Yours) => info!(pid = peer.process, "took over from another server"),
            Err(LinkError::Gone) => {
                warn!(pid = peer.process, "the server that was to be taken over is gone; going on");
            }
            other => {
                door.remove();
                let error = other.err().unwrap_or(LinkError::OutOfTurn);
                return Err(TakeoverError::with(path)(error));
            }
        }
        Ok(door)
    }
}

/// Whether a server that is told to listen at `listen` may take a socket that listens at `address`.
/// Port 0 is any port.
fn fits(listen: SocketAddr, address: SocketAddr) -> bool {
    listen.ip() == address.ip() && [0, address.port()].contains(&listen.port())
}

/// The sockets that come with a message, if they are what it says.
fn identify(message: &Sockets, descriptors: Vec<OwnedFd>) -> Option<Vec<TcpListener>> {
    if descriptors.len() != message.addresses.len() {
        return None;
    }
    let sockets = descriptors.into_iter().zip(&message.addresses).map(|(descriptor, address)| {
        let socket = SockRef::from(&descriptor);
        let is_right = socket.is_listener().is_ok_and(|is_listener| is_listener)
            && socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
            && socket.local_addr().is_ok_and(|local| local.as_socket() == Some(*address));
        is_right.then(|| TcpListener::from(descriptor))
    });
    sockets.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_fits_that_is_the_same_or_has_any_port() {
        for (listen, address, expected) in [
            ("127.0.0.1:9001", "127.0.0.1:9001", true),
            ("127.0.0.1:0", "127.0.0.1:9001", true),
            ("127.0.0.1:9002", "127.0.0.1:9001", false),
            ("0.0.0.0:9001", "127.0.0.1:9001", false),
            ("0.0.0.0:0", "127.0.0.1:9001", false),
            ("[::1]:9001", "127.0.0.1:9001", false),
        ] {
            let (listen, address) = (listen.parse().unwrap(), address.parse().unwrap());
            assert_eq!(fits(listen, address), expected, "{listen} {address}");
        }
    }

    #[test]
    fn sockets_that_are_not_what_is_said_are_not_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connected = std::net::TcpStream::connect(address).unwrap();
        let sockets = |addresses: Vec<SocketAddr>| Sockets {
            total: addresses.len() as u16,
            before: 0,
            are_supervised: false,
            addresses,
        };
        let twin = || OwnedFd::from(listener.try_clone().unwrap());
        assert!(identify(&sockets(vec![address]), vec![twin()]).is_some());
        let elsewhere = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(identify(&sockets(vec![elsewhere]), vec![twin()]).is_none());
        assert!(identify(&sockets(vec![address; 2]), vec![twin()]).is_none());
        assert!(identify(&sockets(vec![address]), vec![twin(), twin()]).is_none());
        let own = connected.local_addr().unwrap();
        assert!(identify(&sockets(vec![own]), vec![connected.into()]).is_none());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(identify(&sockets(vec![address]), vec![file.into()]).is_none());
    }
}
