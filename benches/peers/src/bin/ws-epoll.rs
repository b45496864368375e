//! A WebSocket echo on epoll that does no more than it must: what a message costs a server without
//! a library, and the yardstick for the claim that ringecho is cheaper than any server on epoll.
//! Its loop is [`ringecho_peers::on_epoll`].
//!
//! Replies take the place of the requests in the shared buffer. A reply is four bytes shorter, since
//! it has no masking key, so the first of a read begins four bytes later, with its payload where it
//! was, and each further one moves towards the front, up to the end of the one before. All replies
//! to a read then go out with one write.
//!
//! Unmasking is ringecho's, since nothing faster can be written without `unsafe`: what the two differ
//! in is all the rest.
//!
//! A frame that is not all there is answered as far as it has come. A connection keeps only how much
//! of it is missing and the masking key, or the bytes of a header that is cut.
//!
//! What a server for the world would do, and this one leaves out: it checks neither UTF-8, opcodes,
//! fragments, reserved bits nor the length of control frames, answers any request that has a key,
//! knows no extension, has no limits or deadlines, and never sends a Ping or a Close of its own. A
//! connection whose frames are not masked just ends.

use std::{array, io, ops::Range};

use ringecho::protocol::masking::unmask_to;
use ringecho_peers::on_epoll::{self, Answer, Echo, HEADROOM};

const MASKING_KEY_LEN: usize = 4;
const FRAME_HEADER_LEN_MAX: usize = 14;

const MASK_BIT: u8 = 0x80;
const OPCODE_BITS: u8 = 0x0f;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

// What is kept of a header finds room in front of the next read.
const _: () = assert!(FRAME_HEADER_LEN_MAX <= HEADROOM);

/// What one read leaves for the next.
#[derive(Default)]
struct Frames {
    /// Bytes of payload that are missing of the frame under way.
    missing: u64,
    /// The masking key of that frame, rotated to its next byte.
    masking_key: [u8; MASKING_KEY_LEN],
    /// That frame is a Close frame.
    is_close: bool,
    /// The beginning of a header that is cut, less than the whole.
    cut_header: [u8; FRAME_HEADER_LEN_MAX],
    cut_header_len: usize,
}

impl Echo for Frames {
    const SCHEME: &'static str = "ws";

    fn answer(&mut self, buffer: &mut [u8], received: Range<usize>) -> io::Result<Answer> {
        let Range { start: mut at, end } = received;
        if self.cut_header_len > 0 {
            at = self.restore_header(buffer, at);
        }
        // Replies are written from here on. Where there is no room for it, there is no whole frame.
        let start = if self.missing > 0 { at } else { (at + MASKING_KEY_LEN).min(buffer.len()) };
        let mut to = start;
        if self.missing > 0 {
            let len = self.missing.min((end - at) as u64) as usize;
            unmask_to(buffer, at, to, len, self.masking_key);
            self.has_come(len);
            (at, to) = (at + len, to + len);
        }
        while at < end && !(self.is_close && self.missing == 0) {
            let rest = &buffer[at..end];
            let Some(header_len) = header_len(rest)? else {
                self.keep_header(rest);
                break;
            };
            let Some(key) = rest[..header_len].last_chunk::<MASKING_KEY_LEN>() else {
                unreachable!("a header that is masked ends with the key");
            };
            let (key, reply_header_len) = (*key, header_len - MASKING_KEY_LEN);
            let opcode = rest[0] & OPCODE_BITS;
            let len = match header_len {
                6 => u64::from(rest[1] & !MASK_BIT),
                8 => u64::from(u16::from_be_bytes([rest[2], rest[3]])),
                _ => u64::from_be_bytes(array::from_fn(|byte| rest[2 + byte])),
            };
            let come = len.min((rest.len() - header_len) as u64) as usize;

            let first = if opcode == PING { rest[0] ^ PING ^ PONG } else { rest[0] };
            let second = rest[1] & !MASK_BIT;
            let reply_header = &mut buffer[to..to + reply_header_len];
            (reply_header[0], reply_header[1]) = (first, second);
            match &mut reply_header[2..] {
                [] => {}
                [high, low] => [*high, *low] = (len as u16).to_be_bytes(),
                extended => extended.copy_from_slice(&len.to_be_bytes()),
            }
            (at, to) = (at + header_len, to + reply_header_len);
            unmask_to(buffer, at, to, come, key);
            (at, to) = (at + come, to + come);

            self.is_close = opcode == CLOSE;
            if come as u64 != len {
                (self.missing, self.masking_key) = (len, key);
                self.has_come(come);
            }
        }
        Ok(Answer { reply: start..to, is_last: self.is_close && self.missing == 0 })
    }
}

impl Frames {
    /// As many bytes more of the frame under way have come.
    fn has_come(&mut self, len: usize) {
        self.missing -= len as u64;
        self.masking_key.rotate_left(len % MASKING_KEY_LEN);
    }

    #[cold]
    fn keep_header(&mut self, beginning: &[u8]) {
        self.cut_header[..beginning.len()].copy_from_slice(beginning);
        self.cut_header_len = beginning.len();
    }

    /// Puts the beginning of a header in front of what has come, and says where it begins.
    #[cold]
    fn restore_header(&mut self, buffer: &mut [u8], at: usize) -> usize {
        let beginning = &self.cut_header[..self.cut_header_len];
        buffer[at - beginning.len()..at].copy_from_slice(beginning);
        at - std::mem::take(&mut self.cut_header_len)
    }
}

/// The length of the frame header that these bytes begin with, in bytes, or `None` if they are less.
fn header_len(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(second) = bytes.get(1) else { return Ok(None) };
    if second & MASK_BIT == 0 {
        return Err(io::Error::other("a frame is not masked"));
    }
    let len = match second & !MASK_BIT {
        126 => 8,
        127 => 14,
        _ => 6,
    };
    Ok((len <= bytes.len()).then_some(len))
}

fn main() -> anyhow::Result<()> {
    on_epoll::serve::<Frames>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// A final frame as a client sends it, with its reply.
    fn frame(opcode: u8, reply_opcode: u8, len: usize) -> (Vec<u8>, Vec<u8>) {
        let payload: Vec<u8> = (0..len).map(|at| (at * 7 + at / 256) as u8).collect();
        let masked = payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key);
        let (code, extended) = match len {
            0..126 => (len as u8, Vec::new()),
            126..65_536 => (126, (len as u16).to_be_bytes().to_vec()),
            _ => (127, (len as u64).to_be_bytes().to_vec()),
        };
        let mut request = vec![0x80 | opcode, MASK_BIT | code];
        request.extend(extended.iter().copied().chain(KEY).chain(masked));
        let reply = [&[0x80 | reply_opcode, code], &extended[..], &payload[..]].concat();
        (request, reply)
    }

    /// The reply to `sent`, in pieces of `piece_len` bytes, and whether the connection has ended.
    fn answer_in_pieces(sent: &[u8], piece_len: usize) -> (Vec<u8>, bool) {
        let (mut frames, mut reply) = (Frames::default(), Vec::new());
        let mut is_last = false;
        for piece in sent.chunks(piece_len) {
            assert!(!is_last, "it ends with the last piece");
            let mut buffer = [&[0xee; HEADROOM][..], piece].concat();
            let end = buffer.len();
            let answer = frames.answer(&mut buffer, HEADROOM..end).unwrap();
            reply.extend_from_slice(&buffer[answer.reply]);
            is_last = answer.is_last;
        }
        (reply, is_last)
    }

    #[test]
    fn frames_are_answered_alike_in_pieces_of_any_length() {
        let all = [
            frame(2, 2, 0),
            frame(1, 1, 1),
            frame(PING, PONG, 5),
            frame(2, 2, 125),
            frame(2, 2, 126),
            frame(PING, PONG, 0),
            frame(2, 2, 1000),
            frame(2, 2, 65_536),
            frame(2, 2, 16),
            frame(CLOSE, CLOSE, 2),
        ];
        let sent: Vec<u8> = all.iter().flat_map(|(request, _)| request.clone()).collect();
        let expected: Vec<u8> = all.iter().flat_map(|(_, reply)| reply.clone()).collect();
        for piece_len in (1..8).chain([15, 127, 4096, 65_536, sent.len()]) {
            let (reply, has_ended) = answer_in_pieces(&sent, piece_len);
            assert!(reply == expected, "in pieces of {piece_len} bytes");
            assert!(has_ended, "in pieces of {piece_len} bytes");
        }
    }

    #[test]
    fn a_frame_without_a_mask_ends_the_connection() {
        let mut buffer = [&[0; HEADROOM][..], &[0x82, 0x01, b'x']].concat();
        let end = buffer.len();
        assert!(Frames::default().answer(&mut buffer, HEADROOM..end).is_err());
    }
}
