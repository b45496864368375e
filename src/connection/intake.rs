//! How much of what it was sent a peer has taken, as TCP tells.
//!
//! A socket's buffer holds megabytes, so a send to a peer that reads slowly but steadily may stand
//! still for minutes. The acknowledgements tell such a peer from one that does not read.

use std::{mem, os::fd::AsRawFd, time::Duration};

/// What the peer of a connection has taken, and when it last said anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intake {
    /// Bytes that the peer has acknowledged since the connection began, modulo 2^32.
    pub acknowledged: u32,
    /// The peer has not acknowledged everything that it was sent.
    pub is_behind: bool,
    /// The time since the peer's last segment, if that had no data. From a peer that is not behind,
    /// such a segment announces room, so its program has read something.
    pub silence: Option<Duration>,
}

/// The intake of a connection's peer; `None` if this is no TCP connection.
pub fn intake(connection: &impl AsRawFd) -> Option<Intake> {
    let info = tcp_info(connection)?;
    Some(Intake {
        acknowledged: info.tcpi_bytes_acked as u32,
        is_behind: is_behind(&info),
        silence: (info.tcpi_last_ack_recv < info.tcpi_last_data_recv)
            .then(|| Duration::from_millis(info.tcpi_last_ack_recv.into())),
    })
}

/// Whether the peer of a connection has sent nothing for so long, and has acknowledged all that it was
/// sent. Bytes that have arrived and are not read yet count as sent. What is no TCP connection is
/// quiet.
pub fn is_quiet(connection: &impl AsRawFd, quiet: Duration) -> bool {
    tcp_info(connection).is_none_or(|info| {
        !is_behind(&info) && Duration::from_millis(info.tcpi_last_data_recv.into()) >= quiet
    })
}

/// Whether the peer has not acknowledged everything that it was sent.
fn is_behind(info: &libc::tcp_info) -> bool {
    info.tcpi_unacked > 0 || info.tcpi_notsent_bytes > 0
}

/// What the kernel says of a connection; `None` if this is no TCP connection.
#[expect(unsafe_code, reason = "no crate in use knows this socket option")]
pub(crate) fn tcp_info(connection: &impl AsRawFd) -> Option<libc::tcp_info> {
    // SAFETY: the structure consists of numbers, for which zeros are a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut info_len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, and how many to `info_len`.
    let result = unsafe {
        libc::getsockopt(
            connection.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut info_len,
        )
    };
    (result == 0).then_some(info)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        os::unix::net::UnixStream,
        thread,
    };

    use super::*;

    #[test]
    fn what_a_peer_takes_is_seen_and_what_it_leaves_as_well() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut connection, _) = listener.accept().unwrap();
        connection.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(len) = connection.write(&[0; 1 << 14]) {
            sent += len;
        }
        let before = intake(&connection).unwrap();
        assert!(before.is_behind);

        peer.read_exact(&mut vec![0; sent]).unwrap();
        let after = loop {
            match intake(&connection).unwrap() {
                after if after.is_behind => thread::yield_now(),
                after => break after,
            }
        };
        assert!(after.acknowledged > before.acknowledged);
        assert!(after.acknowledged as usize >= sent);
    }

    /// An hour is longer than the test, so nothing depends on its speed.
    #[test]
    fn peer_is_quiet_that_neither_sends_nor_owes() {
        const HOUR: Duration = Duration::from_hours(1);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut connection, _) = listener.accept().unwrap();
        assert!(is_quiet(&connection, Duration::ZERO) && !is_quiet(&connection, HOUR));
        peer.write_all(b"a").unwrap();
        while !is_quiet(&connection, Duration::from_millis(20)) {
            thread::yield_now();
        }
        connection.set_nonblocking(true).unwrap();
        while connection.write(&[0; 1 << 14]).is_ok() {}
        assert!(!is_quiet(&connection, Duration::ZERO), "the peer has not taken all");
    }

    #[test]
    fn connection_without_tcp_has_no_intake_and_is_quiet() {
        let (connection, _peer) = UnixStream::pair().unwrap();
        assert_eq!(intake(&connection), None);
        assert!(is_quiet(&connection, Duration::MAX));
    }
}
