//! The running server's side of a takeover: a thread that waits for a new server, hands the sockets
//! to it, and says so once the new one accepts connections.
//!
//! The invariant: whatever a new server does short of that, the running one goes on. New servers have
//! their turns one after another, each for [`PATIENCE`] at most.

use std::{
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use socket2::Socket;
use tracing::{info, warn};

use super::{
    door::{Behind, Door, knock},
    link::{Link, LinkError},
    message::{Message, SOCKETS_PER_PACKET_MAX, Sockets},
};
use crate::{
    host::descriptors::SystemCallError,
    server::{StartError, sockets::Opened},
};

/// How long a new server may take from its first word until it accepts connections.
pub(in crate::server) const PATIENCE: Duration = Duration::from_secs(30);

/// How often the socket file is looked at while no new server comes. If it is gone, as after a cleaning
/// of /tmp, it is made anew.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// How long the thread waits for an answer of the server's own main thread.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the thread tells the server of a new one.
pub(in crate::server) enum News {
    /// A new server asks for the sockets, which are to be sent there.
    Asks(Sender<Result<HandOver, SystemCallError>>),
    /// The new server accepts connections, so this one is to stop.
    Accepts,
    /// The takeover has failed.
    Failed,
}

/// What is handed over.
pub(in crate::server) struct HandOver {
    /// Duplicates of the sockets.
    pub(in crate::server) sockets: Vec<Opened>,
    /// A service manager has opened them.
    pub(in crate::server) are_supervised: bool,
}

/// The thread that waits for new servers, until this is dropped.
pub(in crate::server) struct Doorkeeper {
    /// Taken out when the thread is to end.
    door: Arc<Mutex<Option<Door>>>,
}

impl Doorkeeper {
    /// Starts to wait behind a door. `tell` returns whether the server still hears.
    pub(in crate::server) fn start(
        door: Door,
        patience: Duration,
        tell: impl Fn(News) -> bool + Send + 'static,
    ) -> Result<Self, StartError> {
        let door = Arc::new(Mutex::new(Some(door)));
        let keeping = Keeping { door: door.clone(), patience, tell };
        let name = "takeover".to_owned();
        let thread = thread::Builder::new().name(name).spawn(move || keeping.keep());
        thread.map_err(StartError::Thread)?;
        Ok(Self { door })
    }
}

impl Drop for Doorkeeper {
    /// Closes the door: new servers find nobody from now on.
    fn drop(&mut self) {
        let door = self.door.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(door) = door {
            door.remove();
            door.shut();
        }
    }
}

struct Keeping<T> {
    door: Arc<Mutex<Option<Door>>>,
    patience: Duration,
    tell: T,
}

impl<T: Fn(News) -> bool> Keeping<T> {
    fn keep(&self) {
        loop {
            let door = self.door();
            let Some(door) = door else { return };
            match door.accept(LOOK_INTERVAL) {
                Ok(Some(socket)) => match self.serve(socket) {
                    Ok(()) => return self.retire(),
                    // The server is stopping.
                    Err(_) if self.door().is_none() => return,
                    Err(error) => {
                        warn!("a takeover failed, and this server goes on: {error}");
                        if !(self.tell)(News::Failed) {
                            return;
                        }
                    }
                },
                Ok(None) => {}
                Err(error) => {
                    if self.door().is_some() {
                        warn!(%error, "no server can take over from this one any more");
                    }
                    return;
                }
            }
            self.keep_in_place(&door);
        }
    }

    fn door(&self) -> Option<Door> {
        let door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        door.as_ref().and_then(|door| door.try_clone().ok())
    }

    /// The door is the new server's by now.
    fn retire(&self) {
        if let Some(door) = self.door.lock().unwrap_or_else(PoisonError::into_inner).take() {
            door.shut();
        }
    }

    /// Makes the socket file anew if it is gone, or if its server is, as after a new server that died.
    fn keep_in_place(&self, door: &Door) {
        let mut place = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        if place.is_none() || door.is_in_place() {
            return;
        }
        let behind = knock(door.path(), Duration::from_millis(100));
        if !matches!(behind, Ok(Behind::Nobody)) {
            return;
        }
        match Door::open(door.path()) {
            Ok(new) => {
                info!(path = %door.path().display(), "the takeover socket was gone; made anew");
                *place = Some(new);
            }
            Err(error) => warn!(%error, "the takeover socket is gone, and cannot be made anew"),
        }
    }

    /// Serves a new server, until it accepts connections.
    fn serve(&self, socket: Socket) -> Result<(), LinkError> {
        let link = Link::new(socket, Instant::now() + self.patience);
        let result = self.hand_over(&link);
        if let Err(error) = &result
            && !matches!(error, LinkError::Gone)
        {
            // A new server that hears this does not go on alone.
            link.tell_once_more(&Message::Off(error.to_string()));
        }
        result
    }

    fn hand_over(&self, link: &Link) -> Result<(), LinkError> {
        let peer = link.trusted_peer()?;
        let Message::Ask = link.receive()? else { return Err(LinkError::OutOfTurn) };
        let (answer, answered) = channel();
        let (true, Ok(handed_over)) =
            ((self.tell)(News::Asks(answer)), answered.recv_timeout(ANSWER_TIMEOUT))
        else {
            // The server is stopping. The new one finds that out by itself, and starts alone.
            return Err(LinkError::Gone);
        };
        let HandOver { sockets, are_supervised } = handed_over
            .map_err(|SystemCallError { call, source }| LinkError::System { call, source })?;
        info!(pid = peer.process, sockets = sockets.len(), "another server is taking over");
        let total = sockets.len() as u16;
        for (at, some) in sockets.chunks(SOCKETS_PER_PACKET_MAX).enumerate() {
            let listens = some.iter().map(|opened| opened.listen.clone()).collect();
            let descriptors: Vec<_> = some.iter().map(|it| it.socket.as_raw_fd()).collect();
            let before = (at * SOCKETS_PER_PACKET_MAX) as u16;
            let message = Sockets { total, before, are_supervised, listens };
            link.send(&Message::Sockets(message), &descriptors)?;
        }
        drop(sockets);
        let Message::Accepting = link.receive()? else { return Err(LinkError::OutOfTurn) };
        link.send(&Message::Yours, &[])?;
        info!(pid = peer.process, "another server has taken over; draining");
        // A server that is stopping already needs no order.
        (self.tell)(News::Accepts);
        Ok(())
    }
}
