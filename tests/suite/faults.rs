//! The portable path over streams that misbehave: reads and writes that are short, stall, or
//! break. The faults come from a seed; whatever they are, the client gets a prefix of the exact
//! echo, and all of it unless the stream broke.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    rc::Rc,
};

use monoio::{LegacyDriver, RuntimeBuilder};
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng},
};
use ringecho::{
    config::Echo,
    connection::{ConnectionEnd, Control, clock::Tick},
    metrics::Counters,
    plane::{Bounds, portable::run},
    protocol::echo::Compression,
};

use crate::{
    frames::{ClientFrame, close, conversation},
    streams::{Reader, Sink, Source, Writer},
};

/// One in this many operations stalls, and one in ten times as many breaks the stream.
const STALL_ODDS: u32 = 4;
const BREAK_ODDS: u32 = 400;

/// One in this many stalls lasts longer than to the next sweep.
const TICK_ODDS: u32 = 3;

/// Where the faults come from, shared by both halves of a stream.
#[derive(Clone)]
struct Faults {
    rng_and_broken: Rc<RefCell<(TestRng, bool)>>,
    now: Rc<Cell<Tick>>,
}

struct FaultyReader {
    faults: Faults,
    input: VecDeque<u8>,
}

struct FaultyWriter {
    faults: Faults,
    output: Rc<RefCell<Vec<u8>>>,
}

impl Faults {
    fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        Self { rng_and_broken: Rc::new(RefCell::new((rng, false))), now: Rc::default() }
    }

    /// Stalls now and then; says how many of `len` bytes go through, or that the stream broke.
    async fn strike(&self, len: usize) -> io::Result<usize> {
        while self.one_in(STALL_ODDS) {
            if self.one_in(TICK_ODDS) {
                self.now.set(self.now.get().next());
            }
            yield_now().await;
        }
        let mut state = self.rng_and_broken.borrow_mut();
        if state.1 || state.0.random_range(0..BREAK_ODDS) == 0 {
            state.1 = true;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(if len > 1 { state.0.random_range(1..=len) } else { len })
    }

    fn one_in(&self, odds: u32) -> bool {
        self.rng_and_broken.borrow_mut().0.random_range(0..odds) == 0
    }

    fn broken(&self) -> bool {
        self.rng_and_broken.borrow().1
    }
}

impl Source for FaultyReader {
    async fn next_piece(&mut self, len_max: usize) -> io::Result<Vec<u8>> {
        let len = self.faults.strike(self.input.len().min(len_max)).await?;
        Ok(self.input.drain(..len).collect())
    }
}

impl Sink for FaultyWriter {
    async fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.faults.strike(bytes.len()).await?;
        self.output.borrow_mut().extend_from_slice(&bytes[..len]);
        Ok(len)
    }
}

async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if yielded {
            return std::task::Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn echo_is_exact_or_the_end_has_a_name(
        frames in conversation(Compression::None),
        ends_with_close: bool,
        seed: u64,
        receive_buffer in prop::sample::select(vec![4096, 8192, 262_144]),
        unsent_max in prop::sample::select(vec![0, 100, 65_536]),
        early_len: prop::sample::Index,
    ) {
        let mut input: Vec<u8> = frames.iter().flat_map(ClientFrame::encode).collect();
        let mut expected: Vec<u8> = frames.iter().flat_map(ClientFrame::encode_echo).collect();
        if ends_with_close {
            input.extend(close(1000, "done").encode());
            expected.extend(close(1000, "done").encode_echo());
        }
        let rest = input.split_off(early_len.index(input.len().min(8192) + 1));

        let faults = Faults::new(seed);
        let output = Rc::new(RefCell::new(Vec::new()));
        let reader = Reader(FaultyReader { faults: faults.clone(), input: rest.into() });
        let writer = Writer(FaultyWriter { faults: faults.clone(), output: output.clone() });
        // Less may be unsent than any server allows.
        let bounds = Bounds {
            receive_buffer_max: receive_buffer,
            unsent_max,
            ..Bounds::new(&Echo::default())
        };
        let counters = Counters::new(&ConnectionEnd::KINDS);
        let control = Control::new(faults.now.clone(), None);
        // Whoever has used its quota up has a task of monoio's run first.
        let mut runtime = RuntimeBuilder::<LegacyDriver>::new().build().unwrap();
        let compression = Compression::None;
        let end = runtime.block_on(
            run(reader, writer, input, compression, &control, &bounds, &counters)
        );

        let output = output.borrow();
        match end {
            // A closed connection may still break while it lingers: nothing is lost by that.
            ConnectionEnd::ClosedByPeer => {
                prop_assert!(ends_with_close && *output == expected);
            }
            ConnectionEnd::PeerVanished => {
                prop_assert!(!ends_with_close && !faults.broken() && *output == expected);
            }
            ConnectionEnd::Broken(io::ErrorKind::ConnectionReset) => {
                prop_assert!(faults.broken() && expected.starts_with(&output));
            }
            other => prop_assert!(false, "ended as {:?}", other),
        }
    }
}
