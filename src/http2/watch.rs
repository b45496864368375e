//! Frames that cost the server something and carry nothing: how many a peer may send.
//!
//! The crate `h2` bounds what frames make it keep. What a flood of frames costs that are answered at
//! once, or ignored, is bounded here: each such frame takes from an allowance, which grows with time
//! and with every frame that carries something. Of a frame only its header is looked at, as it passes
//! to `h2`, however the bytes are cut.
//!
//! The invariant: without frames that carry something, a peer can send no more than [`ALLOWANCE_MAX`]
//! at once and [`ALLOWANCE_A_TICK`] in a tick, by [`Watch::price`].

use std::mem;

use crate::{connection::clock::Tick, http::HTTP2_PREFACE};

/// What may be taken at once: 4,000 PING frames, or 200 resets of streams, twice as many as there may
/// be streams by default.
const ALLOWANCE_MAX: u32 = 4000;

/// What is added each tick, about a second.
const ALLOWANCE_A_TICK: u32 = 400;

/// Ticks that a header block may take, from its first frame to its end: nothing else may come between
/// its frames, so nothing else shows whether the peer is there.
const HEADER_BLOCK_TICKS_MAX: u32 = 10;

/// Bytes of a frame's header (RFC 9113 §4.1).
const HEADER_LEN: usize = 9;

// Frame types and flags (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The peer asks for more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    /// Too many frames that carry nothing.
    Frames,
    /// A header block has not ended in time.
    HeaderBlock,
}

/// What a peer has sent, frame by frame.
pub(super) struct Watch<N> {
    now: N,
    /// Bytes of the preface that are still to come.
    preface_left: usize,
    header: [u8; HEADER_LEN],
    header_len: usize,
    payload_left: usize,
    allowance: u32,
    /// When the allowance last grew.
    grown: Tick,
    /// When the header block began that has not ended.
    block_began: Option<Tick>,
    /// The frame that is passing ends it.
    ends_block: bool,
}

impl<N: Fn() -> Tick> Watch<N> {
    /// Of a connection from its preface on; `now` tells the time.
    pub(super) fn new(now: N) -> Self {
        let grown = now();
        Self {
            now,
            preface_left: HTTP2_PREFACE.len(),
            header: [0; HEADER_LEN],
            header_len: 0,
            payload_left: 0,
            allowance: ALLOWANCE_MAX,
            grown,
            block_began: None,
            ends_block: false,
        }
    }

    /// Looks at the next bytes that the peer has sent.
    pub(super) fn look_at(&mut self, mut bytes: &[u8]) -> Result<(), Excess> {
        let now = (self.now)();
        let ticks = now.ticks_since(self.grown);
        if ticks > 0 {
            self.grown = now;
            self.earn(ticks.saturating_mul(ALLOWANCE_A_TICK));
        }
        if self.block_began.is_some_and(|it| now.ticks_since(it) > HEADER_BLOCK_TICKS_MAX) {
            return Err(Excess::HeaderBlock);
        }
        skip(&mut bytes, &mut self.preface_left);
        while !bytes.is_empty() {
            if self.header_len < HEADER_LEN {
                let taken = bytes.len().min(HEADER_LEN - self.header_len);
                self.header[self.header_len..][..taken].copy_from_slice(&bytes[..taken]);
                self.header_len += taken;
                bytes = &bytes[taken..];
                if self.header_len == HEADER_LEN {
                    self.begin_frame(now)?;
                }
            } else {
                skip(&mut bytes, &mut self.payload_left);
            }
            if self.header_len == HEADER_LEN && self.payload_left == 0 {
                self.header_len = 0;
                if mem::take(&mut self.ends_block) {
                    self.block_began = None;
                }
            }
        }
        Ok(())
    }

    fn begin_frame(&mut self, now: Tick) -> Result<(), Excess> {
        let [len_high, len_middle, len_low, kind, flags, ..] = self.header;
        let payload_len = u32::from_be_bytes([0, len_high, len_middle, len_low]) as usize;
        self.payload_left = payload_len;
        if matches!(kind, HEADERS | CONTINUATION) {
            self.block_began = self.block_began.or(Some(now));
            self.ends_block = flags & END_HEADERS != 0;
        }
        match Self::price(kind, flags, payload_len) {
            Price::Earns(amount) => self.earn(amount),
            Price::Costs(amount) => {
                self.allowance = self.allowance.checked_sub(amount).ok_or(Excess::Frames)?;
            }
        }
        Ok(())
    }

    /// What a frame takes from the allowance, or adds.
    ///
    /// A client may answer each DATA frame of an echo with two window updates, and a page of a few
    /// frames with a few more. A stream that is opened only to be reset costs.
    fn price(kind: u8, flags: u8, payload_len: usize) -> Price {
        match kind {
            DATA if payload_len > 0 => Price::Earns(4),
            DATA if flags & END_STREAM != 0 => Price::Costs(0),
            DATA => Price::Costs(5),
            HEADERS => Price::Earns(8),
            RST_STREAM => Price::Costs(28),
            _ => Price::Costs(1),
        }
    }

    fn earn(&mut self, amount: u32) {
        self.allowance = self.allowance.saturating_add(amount).min(ALLOWANCE_MAX);
    }
}

enum Price {
    Earns(u32),
    Costs(u32),
}

/// Goes on behind what is left of something, as far as the bytes reach.
fn skip(bytes: &mut &[u8], left: &mut usize) {
    let skipped = bytes.len().min(*left);
    *bytes = &bytes[skipped..];
    *left -= skipped;
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    fn frame(kind: u8, flags: u8, payload_len: usize) -> Vec<u8> {
        let len = payload_len as u32;
        let mut frame = len.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.resize(HEADER_LEN + payload_len, 0);
        frame
    }

    /// A watch behind the preface, and its time.
    fn watch() -> (Watch<impl Fn() -> Tick>, Rc<Cell<Tick>>) {
        let now = Rc::new(Cell::new(Tick::default()));
        let of_watch = now.clone();
        let mut watch = Watch::new(move || of_watch.get());
        watch.look_at(HTTP2_PREFACE).unwrap();
        (watch, now)
    }

    /// How many of these bytes pass until there are too many.
    fn passed(watch: &mut Watch<impl Fn() -> Tick>, bytes: &[u8]) -> usize {
        (0..100_000).take_while(|_| watch.look_at(bytes).is_ok()).count()
    }

    #[test]
    fn floods_end_when_the_allowance_is_used_up_and_time_renews_it() {
        const PING: u8 = 6;
        let ping = frame(PING, 0, 8);
        for (ticks, expected) in [(0, 0), (1, ALLOWANCE_A_TICK), (100, ALLOWANCE_MAX)] {
            let (mut watch, now) = watch();
            for _ in 0..ALLOWANCE_MAX {
                watch.look_at(&ping).unwrap();
            }
            for _ in 0..ticks {
                now.set(now.get().next());
            }
            assert_eq!(passed(&mut watch, &ping), expected as usize, "{ticks} ticks");
        }
    }

    #[test]
    fn streams_that_are_opened_to_be_reset_use_the_allowance_up() {
        let (mut watch, _) = watch();
        let pair = [frame(HEADERS, END_HEADERS, 30), frame(RST_STREAM, 0, 4)].concat();
        assert_eq!(passed(&mut watch, &pair), 1 + (ALLOWANCE_MAX as usize - 28) / 20);
    }

    /// Two window updates for each frame of an echo, for ever.
    #[test]
    fn frames_that_carry_something_pay_for_those_that_follow_from_them() {
        const WINDOW_UPDATE: u8 = 8;
        let (mut watch, _) = watch();
        let update = frame(WINDOW_UPDATE, 0, 4);
        let exchange = [frame(DATA, 0, 70), update.clone(), update].concat();
        assert_eq!(passed(&mut watch, &exchange), 100_000);
        let last = [frame(DATA, END_STREAM, 0), frame(HEADERS, END_HEADERS, 9)].concat();
        assert_eq!(passed(&mut watch, &last), 100_000);
        assert_eq!(passed(&mut watch, &frame(DATA, 0, 0)), ALLOWANCE_MAX as usize / 5);
    }

    #[test]
    fn header_block_has_to_end_in_time_however_its_bytes_are_cut() {
        let (mut watch, now) = watch();
        let block = [frame(HEADERS, 0, 20), frame(CONTINUATION, END_HEADERS, 20)].concat();
        let pass = |ticks: u32| {
            for _ in 0..ticks {
                now.set(now.get().next());
            }
        };
        // In time, byte by byte, again and again.
        for _ in 0..5 {
            for (at, byte) in block.iter().enumerate() {
                pass(u32::from(at % 6 == 5));
                assert_eq!(watch.look_at(&[*byte]), Ok(()), "byte {at}");
            }
        }
        watch.look_at(&block[..block.len() - 1]).unwrap();
        pass(HEADER_BLOCK_TICKS_MAX + 1);
        assert_eq!(watch.look_at(&block[block.len() - 1..]), Err(Excess::HeaderBlock));
    }
}
