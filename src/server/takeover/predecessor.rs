//! The new server's side of a takeover: it finds the running one, takes its sockets, and takes its
//! place.

use std::{
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
use crate::{
    config::Listen,
    server::sockets::{Opened, fits, listen_address},
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
    sockets: Vec<Opened>,
    are_supervised: bool,
}

impl Predecessor {
    /// Finds the server that runs at a path, and takes its sockets; `None` if there is none. `listens`
    /// is where they may be, unless a service manager has opened them.
    pub(in crate::server) fn find(
        path: &Path,
        listens: &[Listen],
    ) -> Result<Option<Self>, TakeoverError> {
        let began = Instant::now();
        loop {
            let behind = knock(path, PATIENCE).map_err(TakeoverError::at(path))?;
            let Behind::Server(socket) = behind else { return Ok(None) };
            match Self::meet(Link::new(socket, began + PATIENCE)) {
                Ok(predecessor) => return predecessor.check_addresses(path, listens).map(Some),
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

    fn check_addresses(self, path: &Path, listens: &[Listen]) -> Result<Self, TakeoverError> {
        let mut found = self.sockets.iter().map(|opened| &opened.listen);
        let elsewhere = found.find(|found| !listens.iter().any(|listen| fits(listen, found)));
        match elsewhere.filter(|_| !self.are_supervised) {
            None => Ok(self),
            Some(theirs) => {
                let theirs = theirs.clone();
                let ours: Vec<_> = listens.iter().map(ToString::to_string).collect();
                let ours = ours.join(",");
                let reason = format!("a new server is told to listen on {ours}, not {theirs}");
                // The takeover is off whether or not the other one hears why.
                let _ = self.link.send(&Message::Off(reason), &[]);
                let path = path.display().to_string();
                Err(TakeoverError::Elsewhere { path, theirs, ours })
            }
        }
    }

    /// Takes the sockets, which are the other server's too.
    pub(in crate::server) fn take_sockets(&mut self) -> Vec<Opened> {
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

/// The sockets that come with a message, if they are what it says.
fn identify(message: &Sockets, descriptors: Vec<OwnedFd>) -> Option<Vec<Opened>> {
    if descriptors.len() != message.listens.len() {
        return None;
    }
    let sockets = descriptors.into_iter().zip(&message.listens).map(|(descriptor, listen)| {
        let socket = SockRef::from(&descriptor);
        let is_right = socket.is_listener().is_ok_and(|is_listener| is_listener)
            && socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
            && listen_address(&descriptor) == listen.address;
        is_right.then(|| Opened { socket: descriptor.into(), listen: listen.clone() })
    });
    sockets.collect()
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::*;

    #[test]
    fn sockets_that_are_not_what_is_said_are_not_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connected = std::net::TcpStream::connect(address).unwrap();
        let sockets = |addresses: Vec<SocketAddr>| Sockets {
            total: addresses.len() as u16,
            before: 0,
            are_supervised: false,
            listens: addresses.into_iter().map(Listen::from).collect(),
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
