//! One takeover's connection between two servers: messages in packets, descriptors beside them.
//!
//! The socket keeps packets apart (`SOCK_SEQPACKET`). Every wait has an end. What is said when is
//! left to `predecessor` and `successor`.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    time::{Duration, Instant},
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sendmsg,
        sockopt::PeerCredentials,
    },
    unistd::geteuid,
};
use socket2::{Socket, Type};
use thiserror::Error;

use super::message::{Message, MessageError, PACKET_LEN_MAX};

/// The most descriptors that the kernel passes with a packet (`SCM_MAX_FD`).
const DESCRIPTORS_MAX: usize = 253;

/// How long a link that is given up may take for its last message.
const LAST_WORD_TIMEOUT: Duration = Duration::from_millis(100);

/// A connection to the other server.
pub(super) struct Link {
    socket: Socket,
    /// When waiting ends.
    deadline: Instant,
}

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) process: i32,
}

/// Why two servers cannot go on with each other.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The other one has ended the connection, or is gone.
    #[error("the other server has gone away")]
    Gone,
    /// The other one says nothing for too long.
    #[error("the other server does not answer in time")]
    Silent,
    /// The other one has called the takeover off.
    #[error("the other server says: {0:?}")]
    Off(String),
    /// The other one runs as a user whose sockets or requests are not to be trusted.
    #[error(
        "the other server runs as user {theirs}, and this one as user {ours}; only a server of the \
         same user, or of root, can be taken over or take over"
    )]
    OtherUser {
        /// Its user.
        theirs: u32,
        /// This program's.
        ours: u32,
    },
    /// The other one says something that is no message, or not the one whose turn it is.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A message comes out of turn.
    #[error("the other server says something else than is expected of it")]
    OutOfTurn,
    /// A descriptor is missing, or is no listening socket, or listens elsewhere than is said.
    #[error("the other server hands over something else than the listening sockets that it names")]
    Descriptors,
    /// The kernel refused a call.
    #[error("{call}: {source}")]
    System {
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

impl LinkError {
    fn naming(call: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| match errno {
            Errno::EAGAIN | Errno::ETIMEDOUT => Self::Silent,
            Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN => Self::Gone,
            errno => Self::System { call, source: errno.into() },
        }
    }
}

impl Link {
    /// The type of a link's socket.
    pub(super) const TYPE: Type = Type::SEQPACKET;

    /// A link over a connected socket. Waiting ends at `deadline`.
    pub(super) fn new(socket: Socket, deadline: Instant) -> Self {
        Self { socket, deadline }
    }

    /// The other end, if its user is this program's or root.
    pub(super) fn trusted_peer(&self) -> Result<Peer, LinkError> {
        let credentials =
            getsockopt(&self.socket, PeerCredentials).map_err(LinkError::naming("getsockopt"))?;
        let (ours, theirs) = (geteuid().as_raw(), credentials.uid());
        if is_trusted(theirs, ours) {
            Ok(Peer { process: credentials.pid() })
        } else {
            Err(LinkError::OtherUser { theirs, ours })
        }
    }

    /// Sends a message, and duplicates of sockets beside it.
    pub(super) fn send(&self, message: &Message, descriptors: &[RawFd]) -> Result<(), LinkError> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control = if descriptors.is_empty() { &[][..] } else { &rights };
        self.limit_wait()?;
        let (packet, flags) = (message.encode(), MsgFlags::MSG_NOSIGNAL);
        retry(|| {
            let slices = [IoSlice::new(&packet)];
            sendmsg::<()>(self.socket.as_raw_fd(), &slices, control, flags, None)
        })
        .map_err(LinkError::naming("sendmsg"))?;
        Ok(())
    }

    /// Sends a last message, even if the deadline is over. Whether it arrives does not matter.
    pub(super) fn tell_once_more(mut self, message: &Message) {
        self.deadline = Instant::now() + LAST_WORD_TIMEOUT;
        let _ = self.send(message, &[]);
    }

    /// Waits for a message. Descriptors beside it are closed by the kernel.
    pub(super) fn receive(&self) -> Result<Message, LinkError> {
        self.receive_into(None).map(|(message, _)| message)
    }

    /// Waits for a message, and takes the descriptors that come with it.
    pub(super) fn receive_with_descriptors(&self) -> Result<(Message, Vec<OwnedFd>), LinkError> {
        self.receive_into(Some(&mut cmsg_space!([RawFd; DESCRIPTORS_MAX])))
    }

    fn receive_into(
        &self,
        mut control: Option<&mut Vec<u8>>,
    ) -> Result<(Message, Vec<OwnedFd>), LinkError> {
        let mut packet = [0; PACKET_LEN_MAX + 1];
        self.limit_wait()?;
        let (len, descriptors) = retry(|| {
            let mut slices = [IoSliceMut::new(&mut packet)];
            let control = control.as_mut().map(|control| &mut control[..]);
            let has_control = control.is_some();
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let received = recvmsg::<()>(self.socket.as_raw_fd(), &mut slices, control, flags)?;
            let descriptors = if has_control { own(received.cmsgs()?) } else { Vec::new() };
            Ok((received.bytes, descriptors))
        })
        .map_err(LinkError::naming("recvmsg"))?;
        if len == 0 {
            return Err(LinkError::Gone);
        }
        match Message::decode(&packet[..len])? {
            Message::Off(reason) => Err(LinkError::Off(reason)),
            message => Ok((message, descriptors)),
        }
    }

    /// Has the next call wait until the deadline at most.
    fn limit_wait(&self) -> Result<(), LinkError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(LinkError::Silent);
        }
        let limits =
            [self.socket.set_read_timeout(Some(left)), self.socket.set_write_timeout(Some(left))];
        let limits: io::Result<Vec<()>> = limits.into_iter().collect();
        limits.map(drop).map_err(|source| LinkError::System { call: "setsockopt", source })
    }
}

/// Whether a server of the user `ours` goes on with one of the user `theirs`.
fn is_trusted(theirs: u32, ours: u32) -> bool {
    theirs == ours || theirs == 0
}

/// Calls again whenever a signal interrupts.
fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// The descriptors among the control messages that have just been received.
#[expect(unsafe_code, reason = "the kernel passes descriptors as numbers")]
fn own(messages: impl Iterator<Item = ControlMessageOwned>) -> Vec<OwnedFd> {
    let rights = messages.filter_map(|message| match message {
        ControlMessageOwned::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    // SAFETY: the kernel has opened these descriptors for this process with the message that was just
    // received, and nobody else knows of them yet.
    rights.flatten().map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;

    use socket2::Domain;

    use super::*;

    fn pair(patience: Duration) -> (Link, Link) {
        let (one, other) = Socket::pair(Domain::UNIX, Link::TYPE, None).unwrap();
        let deadline = Instant::now() + patience;
        (Link::new(one, deadline), Link::new(other, deadline))
    }

    const PATIENCE: Duration = Duration::from_mins(1);

    #[test]
    fn sockets_come_with_their_message_and_are_the_same() {
        let (one, other) = pair(PATIENCE);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        one.send(&Message::Ask, &[listener.as_raw_fd()]).unwrap();
        let (message, mut descriptors) = other.receive_with_descriptors().unwrap();
        assert_eq!((message, descriptors.len()), (Message::Ask, 1));
        let twin = TcpListener::from(descriptors.remove(0));
        assert_eq!(twin.local_addr().unwrap(), listener.local_addr().unwrap());
    }

    #[test]
    fn descriptors_that_nobody_asked_for_are_closed() {
        let (one, other) = pair(PATIENCE);
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let listener = TcpListener::from(OwnedFd::from(File::from(writer)));
        one.send(&Message::Accepting, &[listener.as_raw_fd()]).unwrap();
        drop(listener);
        assert_eq!(other.receive().unwrap(), Message::Accepting);
        // Nobody has the writing end any more.
        assert_eq!(nix::unistd::read(&reader, &mut [0]).unwrap(), 0);
    }

    #[test]
    fn peer_that_leaves_is_silent_or_calls_off_is_told_apart() {
        let (one, other) = pair(PATIENCE);
        drop(one);
        assert!(matches!(other.receive(), Err(LinkError::Gone)));
        assert!(matches!(other.send(&Message::Ask, &[]), Err(LinkError::Gone)));

        let (_one, other) = pair(Duration::from_millis(10));
        assert!(matches!(other.receive(), Err(LinkError::Silent)));

        let (one, other) = pair(PATIENCE);
        one.send(&Message::Off("a reason".to_owned()), &[]).unwrap();
        let off = other.receive().unwrap_err();
        assert_eq!(off.to_string(), "the other server says: \"a reason\"");
    }

    #[test]
    fn nonsense_is_refused_whatever_its_length() {
        for len in [1, 16, PACKET_LEN_MAX, 2 * PACKET_LEN_MAX] {
            let (one, other) = pair(PATIENCE);
            one.socket.send(&vec![b'x'; len]).unwrap();
            assert!(matches!(other.receive(), Err(LinkError::Message(MessageError::Foreign))));
        }
    }

    #[test]
    fn peer_is_trusted_if_it_is_of_the_same_user_or_of_root() {
        let (one, _other) = pair(PATIENCE);
        let peer = one.trusted_peer().unwrap();
        assert_eq!(peer.process, std::process::id().cast_signed());
        for (theirs, ours, expected) in
            [(0, 0, true), (7, 7, true), (0, 7, true), (7, 0, false), (8, 7, false)]
        {
            assert_eq!(is_trusted(theirs, ours), expected, "{theirs} {ours}");
        }
    }
}
