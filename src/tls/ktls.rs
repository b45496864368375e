//! kTLS: the keys of a session go to the kernel, which from then on opens and seals the records of its
//! socket (`tls.ko`).
//!
//! The kernel knows records of data and nothing else of TLS. A record of another kind makes a plain
//! receive fail with `EIO`, and has to be fetched by itself ([`read_control`]). Invariant: a session
//! gives its keys away only between two records, with nothing left to send.

use std::{
    io::{self, IoSliceMut},
    mem,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{
        ControlMessageOwned, MsgFlags, TlsGetRecordType, getsockopt, recvmsg, setsockopt,
        sockopt::{SocketError, TcpTlsRx, TcpTlsTx, TcpUlp, TlsCryptoInfo},
    },
};
use rustls::{AlertDescription, ConnectionTrafficSecrets, ProtocolVersion, crypto::cipher::Iv};

use super::{TlsFault, TlsSession};

/// A session that has not become the kernel's.
pub enum NotGiven {
    /// The session goes on as it was.
    Session(Box<TlsSession>),
    /// The kernel has refused the keys that the session does not have any more.
    Lost(io::Error),
}

/// A record that is no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRecord {
    /// The peer sends nothing more.
    CloseNotify,
    /// The peer has found a fault, or ends the session.
    Alert(AlertDescription),
    /// The peer has changed its keys, which the kernel has not (RFC 8446 §4.6.3).
    KeyUpdate,
    /// Something else, such as a request to negotiate anew.
    Other,
}

/// An alert's level (RFC 8446 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertLevel {
    /// The session ends in order.
    Warning = 1,
    /// The session has failed.
    Fatal = 2,
}

/// Content types of records (RFC 8446 §5.1) and of a handshake message (§4).
const ALERT: u8 = 21;
const KEY_UPDATE: u8 = 24;

/// Enough for the beginning of a record that is no data.
const CONTROL_LEN_MAX: usize = 256;

/// Whether the kernel speaks TLS on sockets, tried on one of our own.
pub fn probe() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    Ok(setsockopt(&stream, TcpUlp::default(), b"tls")?)
}

/// Gives the keys of a session to the kernel for its socket, if the session is between two records.
pub fn give_away(session: TlsSession, socket: &impl AsFd) -> Result<(), NotGiven> {
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => libc::TLS_1_2_VERSION,
        Some(ProtocolVersion::TLSv1_3) => libc::TLS_1_3_VERSION,
        _ => return Err(NotGiven::Session(session.into())),
    };
    // Until it is given keys, the kernel passes the bytes of such a socket through.
    if !session.may_give_keys_away() || setsockopt(socket, TcpUlp::default(), b"tls").is_err() {
        return Err(NotGiven::Session(session.into()));
    }
    let lost = |error: io::Error| NotGiven::Lost(error);
    let secrets = session.into_secrets().map_err(|error| lost(io::Error::other(error)))?;
    let unknown = || lost(io::Error::other("the kernel does not know the cipher suite"));
    let sending = crypto_info(version, secrets.tx, Direction::Sending).ok_or_else(unknown)?;
    let receiving = crypto_info(version, secrets.rx, Direction::Receiving).ok_or_else(unknown)?;
    setsockopt(socket, TcpTlsTx, &sending).map_err(|errno| lost(errno.into()))?;
    setsockopt(socket, TcpTlsRx, &receiving).map_err(|errno| lost(errno.into()))
}

/// Which way keys are for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Sending,
    Receiving,
}

/// Keys and the number of the next record, as the kernel takes them.
fn crypto_info(
    version: u16,
    (number, secrets): (u64, ConnectionTrafficSecrets),
    direction: Direction,
) -> Option<TlsCryptoInfo> {
    let rec_seq = number.to_be_bytes();
    let info = |cipher_type| libc::tls_crypto_info { version, cipher_type };
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => {
            let (salt, iv) = gcm_nonce(version, &iv, direction)?;
            let key = key.as_ref().try_into().ok()?;
            let info = info(libc::TLS_CIPHER_AES_GCM_128);
            let keys = libc::tls12_crypto_info_aes_gcm_128 { info, iv, key, salt, rec_seq };
            Some(TlsCryptoInfo::Aes128Gcm(keys))
        }
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => {
            let (salt, iv) = gcm_nonce(version, &iv, direction)?;
            let key = key.as_ref().try_into().ok()?;
            let info = info(libc::TLS_CIPHER_AES_GCM_256);
            let keys = libc::tls12_crypto_info_aes_gcm_256 { info, iv, key, salt, rec_seq };
            Some(TlsCryptoInfo::Aes256Gcm(keys))
        }
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
            let keys = libc::tls12_crypto_info_chacha20_poly1305 {
                info: info(libc::TLS_CIPHER_CHACHA20_POLY1305),
                iv: iv.as_ref().try_into().ok()?,
                key: key.as_ref().try_into().ok()?,
                salt: [],
                rec_seq,
            };
            Some(TlsCryptoInfo::Chacha20Poly1305(keys))
        }
        _ => None,
    }
}

/// Bit of a nonce's first byte that no record of rustls' has changed.
const UNUSED_BIT: u8 = 0x80;

/// What every nonce of AES-GCM begins with, and where the rest of it goes on.
///
/// Under TLS 1.2 the rest is any number that has not been used, and stands in the record. rustls
/// takes its starting point with the record's number in it by exclusive or; the kernel takes a starting
/// point and counts. Counted from the same point, the kernel would come upon a nonce that rustls has used
/// for the same key, which gives both away. So it begins where only its 2^63rd record would.
fn gcm_nonce(version: u16, iv: &Iv, direction: Direction) -> Option<([u8; 4], [u8; 8])> {
    let (salt, rest) = iv.as_ref().split_first_chunk::<4>()?;
    let mut rest: [u8; 8] = rest.try_into().ok()?;
    if version == libc::TLS_1_2_VERSION && direction == Direction::Sending {
        rest[0] ^= UNUSED_BIT;
    }
    Some((*salt, rest))
}

/// What a failure of a socket is. On one over kTLS it is [`InvalidData`](io::ErrorKind::InvalidData) where
/// a record is none of the session's, which whoever calls first is told, even if it is a send.
pub fn kind_of(errno: Errno) -> io::ErrorKind {
    match errno {
        Errno::EBADMSG => io::ErrorKind::InvalidData,
        other => io::Error::from(other).kind(),
    }
}

/// Takes the record that made a receive fail. An error is that of the receive:
/// [`InvalidData`](io::ErrorKind::InvalidData) if a record is none of the session's.
pub fn read_control(socket: &impl AsRawFd) -> io::Result<ControlRecord> {
    let mut bytes = [0; CONTROL_LEN_MAX];
    let mut pieces = [IoSliceMut::new(&mut bytes)];
    let mut space = cmsg_space!(TlsGetRecordType);
    let flags = MsgFlags::MSG_DONTWAIT;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut pieces, Some(&mut space), flags);
    let received = received.map_err(kind_of)?;
    let len = received.bytes;
    let kind = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::TlsGetRecordType(kind) => Some(kind),
        _ => None,
    });
    Ok(match (kind, &bytes[..len]) {
        (Some(TlsGetRecordType::Alert), [_, 0, ..]) => ControlRecord::CloseNotify,
        (Some(TlsGetRecordType::Alert), [_, description, ..]) => {
            ControlRecord::Alert((*description).into())
        }
        (Some(TlsGetRecordType::Handshake), [KEY_UPDATE, ..]) => ControlRecord::KeyUpdate,
        _ => ControlRecord::Other,
    })
}

/// Which fault of TLS a record is, and which alert answers it; `None` for the peer's end in order.
pub fn fault_of(record: ControlRecord) -> Option<(TlsFault, Option<AlertDescription>)> {
    match record {
        ControlRecord::CloseNotify => None,
        ControlRecord::Alert(alert) => Some((TlsFault::RefusedByPeer(alert), None)),
        ControlRecord::KeyUpdate => {
            Some((TlsFault::KeysChanged, Some(AlertDescription::InternalError)))
        }
        ControlRecord::Other => {
            Some((TlsFault::Misbehaved, Some(AlertDescription::UnexpectedMessage)))
        }
    }
}

/// Sends an alert behind what has been sent, if the socket takes it at once.
#[expect(unsafe_code, reason = "nix has no control message for a record's type")]
pub fn send_alert(
    socket: &(impl AsFd + AsRawFd),
    level: AlertLevel,
    description: AlertDescription,
) -> io::Result<()> {
    // A record that was not decrypted leaves an error on the socket, with which the send would fail.
    let _ = getsockopt(socket, SocketError);
    let mut alert = [level as u8, u8::from(description)];
    let mut piece = libc::iovec { iov_base: alert.as_mut_ptr().cast(), iov_len: alert.len() };
    // As long and as aligned as a control message of one byte may want it.
    let mut control = [0_u64; 4];
    // SAFETY: a header consists of numbers and addresses, for which zeros are values.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: this adds numbers.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(1) } as usize;
    assert!(message.msg_controllen <= size_of_val(&control));
    // SAFETY: the first control message and its byte lie within `control`, which is long enough and
    // aligned for them, as asserted; all that the header points to outlives the call.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_TLS;
        (*header).cmsg_type = libc::TLS_SET_RECORD_TYPE;
        (*header).cmsg_len = libc::CMSG_LEN(1) as usize;
        *libc::CMSG_DATA(header) = ALERT;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        libc::sendmsg(socket.as_raw_fd(), &raw const message, flags)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::cipher::AeadKey;

    use super::*;

    const IV: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

    fn info(version: u16, direction: Direction) -> libc::tls12_crypto_info_aes_gcm_256 {
        let secrets =
            ConnectionTrafficSecrets::Aes256Gcm { key: AeadKey::from([7; 32]), iv: Iv::copy(&IV) };
        match crypto_info(version, (258, secrets), direction) {
            Some(TlsCryptoInfo::Aes256Gcm(info)) => info,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_are_given_as_the_kernel_takes_them() {
        let info = info(libc::TLS_1_3_VERSION, Direction::Sending);
        assert_eq!(info.info.version, libc::TLS_1_3_VERSION);
        assert_eq!(info.info.cipher_type, libc::TLS_CIPHER_AES_GCM_256);
        assert_eq!((info.salt, info.iv), ([1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11, 12]));
        assert_eq!((info.key, info.rec_seq), ([7; 32], [0, 0, 0, 0, 0, 0, 1, 2]));
    }

    /// The nonces of rustls' records so far, which the kernel's must not be, whatever it counts to.
    #[test]
    fn kernel_uses_no_nonce_that_has_been_used_under_tls_1_2() {
        let start = u64::from_be_bytes(info(libc::TLS_1_2_VERSION, Direction::Sending).iv);
        let base = u64::from_be_bytes(IV[4..].try_into().unwrap());
        let used: Vec<u64> = (0..258).map(|number| base ^ number).collect();
        for record in 0..100_000 {
            assert!(!used.contains(&start.wrapping_add(record)), "record {record}");
        }
        let received = info(libc::TLS_1_2_VERSION, Direction::Receiving);
        assert_eq!(u64::from_be_bytes(received.iv), base, "records say their nonces");
    }
}
