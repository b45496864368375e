//! Who speaks TLS on a connection, and replies in records.
//!
//! A reply is sealed over the ciphertext that it answers. It usually fits there, since the echo of a
//! frame is four bytes shorter than the frame and its records are as long as they may be. It is longer
//! where a record had been cut: what came of it before has no place in the chunk. The rest of such a
//! reply is sealed into memory of its own.

use crate::tls::{TlsError, TlsSession};

/// Who opens and seals the records of a connection.
#[derive(Default)]
pub enum Security {
    /// Nobody: it is not over TLS.
    #[default]
    None,
    /// The engine, with this session.
    Session(Box<TlsSession>),
    /// The kernel, which has its keys (kTLS).
    Kernel,
}

/// A reply in records, in the order in which they are to be sent.
pub(super) struct Sealed {
    /// Bytes from the start of the place on.
    pub(super) in_place: usize,
    /// What found no room there; usually nothing.
    pub(super) rest: Vec<u8>,
}

/// Seals `prefix` and `echoes` into `place`, behind what the session itself has to say.
#[inline]
pub(super) fn seal_reply(
    tls: &mut TlsSession,
    prefix: &[u8],
    echoes: &[u8],
    place: &mut [u8],
) -> Result<Sealed, TlsError> {
    let mut sealed = Sealed { in_place: 0, rest: Vec::new() };
    for plaintext in [prefix, echoes] {
        if plaintext.is_empty() && !tls.has_output() {
            continue;
        }
        let mut taken = 0;
        // Nothing may stand in place behind what did not fit.
        if sealed.rest.is_empty() {
            let in_place = tls.seal_into(plaintext, &mut place[sealed.in_place..])?;
            sealed.in_place += in_place.len;
            taken = in_place.taken;
        }
        if taken < plaintext.len() || tls.has_output() {
            tls.seal(&plaintext[taken..], &mut sealed.rest)?;
        }
    }
    Ok(sealed)
}

/// A frame of the server's own in a record, behind what the session itself has to say.
pub(super) fn seal_frame(tls: &mut TlsSession, frame: &[u8]) -> Result<Vec<u8>, TlsError> {
    let mut records = Vec::new();
    tls.seal(frame, &mut records)?;
    Ok(records)
}
