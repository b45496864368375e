//! The portable path over streams that misbehave, on a worker that does: reads and writes are short,
//! stall, break, or find no memory; the clock jumps; the server stops, waits no longer, or dies. The
//! faults come from a seed; whatever they are, the client gets a prefix of the exact echo, and all of
//! it unless something ended the connection before, which then has that name.
//!
//! The engine is tried in the same ways on a simulated kernel (src/plane/engine/tests.rs).

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::Rc,
    task::Poll,
};

use monoio::{LegacyDriver, RuntimeBuilder};
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng},
};
use ringecho::{
    config::{Echo, Time},
    connection::{
        ConnectionEnd, Control, Demand,
        clock::{Deadlines, Tick},
    },
    metrics::Counters,
    plane::{Bounds, portable::run},
    protocol::{
        echo::Compression,
        frame_header::FrameHeader,
        session::{Goodbye, PING},
    },
};

use crate::{
    frames::{ClientFrame, close, conversation, server_close},
    streams::{Reader, Sink, Source, Writer},
};

/// One in this many operations stalls, and one in ten times as many breaks the stream.
const STALL_ODDS: u32 = 4;
const BREAK_ODDS: u32 = 400;

/// One in this many stalls lasts longer than to the next sweep.
const TICK_ODDS: u32 = 3;

/// On a worker that fails too: one in this many sweeps finds that the clock has jumped, and one in
/// this many stalls sees the server stop, wait no longer, or die.
const JUMP_ODDS: u32 = 10;
const STOP_ODDS: u32 = 200;
const ABANDON_ODDS: u32 = 1000;
const DEATH_ODDS: u32 = 1000;

/// Where the faults come from, shared by both halves of a stream.
#[derive(Clone)]
struct Faults(Rc<State>);

struct State {
    rng: RefCell<TestRng>,
    /// Whether it is not only the stream that fails.
    fails_too: bool,
    now: Rc<Cell<Tick>>,
    deadlines: Deadlines,
    control: Control,
    /// What has happened to the connection.
    broken: Cell<Option<io::ErrorKind>>,
    is_drained: Cell<bool>,
    is_abandoned: Cell<bool>,
    has_died: Cell<bool>,
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
    fn new(seed: u64, fails_too: bool) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let now = Rc::<Cell<Tick>>::default();
        Self(Rc::new(State {
            rng: RefCell::new(rng),
            fails_too,
            control: Control::new(now.clone(), None),
            now,
            deadlines: Deadlines::new(&Time::default()),
            broken: Cell::default(),
            is_drained: Cell::default(),
            is_abandoned: Cell::default(),
            has_died: Cell::default(),
        }))
    }

    /// Stalls now and then; says how many of `len` bytes go through, or that the stream broke.
    async fn strike(&self, len: usize) -> io::Result<usize> {
        let State { rng, broken, .. } = &*self.0;
        while self.one_in(STALL_ODDS) {
            if self.one_in(TICK_ODDS) {
                self.sweep();
            }
            if self.0.fails_too {
                self.stop();
            }
            yield_now().await;
        }
        if broken.get().is_none() && self.one_in(BREAK_ODDS) {
            let has_memory = !self.0.fails_too || self.one_in(2);
            broken.set(Some(if has_memory {
                io::ErrorKind::ConnectionReset
            } else {
                io::ErrorKind::OutOfMemory
            }));
        }
        if let Some(kind) = broken.get() {
            return Err(kind.into());
        }
        Ok(if len > 1 { rng.borrow_mut().random_range(1..=len) } else { len })
    }

    /// The next tick, with its sweep if the worker has one. Where the clock jumps it is many ticks
    /// later, or the same one once more.
    fn sweep(&self) {
        let State { rng, now, control, deadlines, .. } = &*self.0;
        let jumps = self.0.fails_too && self.one_in(JUMP_ODDS);
        let ticks = if jumps { rng.borrow_mut().random_range(0..300) } else { 1 };
        for _ in 0..ticks {
            now.set(now.get().next());
        }
        if self.0.fails_too {
            control.sweep(deadlines);
        }
    }

    /// The server stops, waits no longer, or dies, now and then.
    fn stop(&self) {
        let State { control, is_drained, is_abandoned, has_died, .. } = &*self.0;
        if self.one_in(STOP_ODDS) {
            is_drained.set(true);
            control.demand(Demand::Goodbye(Goodbye::Stopping));
        }
        if self.one_in(ABANDON_ODDS) {
            is_abandoned.set(true);
            control.demand(Demand::End(ConnectionEnd::Abandoned));
        }
        if self.one_in(DEATH_ODDS) {
            has_died.set(true);
        }
    }

    fn one_in(&self, odds: u32) -> bool {
        self.0.rng.borrow_mut().random_range(0..odds) == 0
    }

    /// Runs a connection until it ends, or until its worker dies, which drops it.
    async fn run_or_die(
        &self,
        connection: impl Future<Output = ConnectionEnd>,
    ) -> Option<ConnectionEnd> {
        let mut connection = pin!(connection);
        poll_fn(|context| match connection.as_mut().poll(context) {
            Poll::Ready(end) => Poll::Ready(Some(end)),
            Poll::Pending if self.0.has_died.get() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
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
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What a client has got, without the server's Pings, and whether the goodbye of a stopping server
/// stands behind it. Either may be cut.
fn replies(output: &[u8]) -> (Vec<u8>, bool) {
    let goodbye = server_close(1001, "the server is stopping");
    let (mut replies, mut rest) = (Vec::new(), output);
    while !rest.is_empty() {
        let len = match FrameHeader::decode(rest).expect("a server's frame") {
            Some((header, header_len)) => header_len + header.payload_len as usize,
            None => rest.len(),
        };
        let (frame, behind) = rest.split_at(len.min(rest.len()));
        if behind.is_empty() && goodbye.starts_with(frame) {
            return (replies, frame == goodbye);
        }
        if !PING.starts_with(frame) {
            replies.extend(frame);
        }
        rest = behind;
    }
    (replies, false)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn echo_is_exact_or_the_end_has_a_name(
        frames in conversation(Compression::None),
        ends_with_close: bool,
        seed: u64,
        fails_too: bool,
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

        let faults = Faults::new(seed, fails_too);
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
        let State { control, broken, is_drained, is_abandoned, has_died, .. } = &*faults.0;
        // Whoever has used its quota up has a task of monoio's run first.
        let mut runtime = RuntimeBuilder::<LegacyDriver>::new().build().unwrap();
        let compression = Compression::None;
        let end = runtime.block_on(faults.run_or_die(
            run(reader, writer, input, compression, control, &bounds, &counters)
        ));

        let (got, said_goodbye) = replies(&output.borrow());
        prop_assert!(expected.starts_with(&got), "what arrives is what was sent");
        prop_assert!(!said_goodbye || is_drained.get());
        let is_whole = got == expected;
        match end {
            None => prop_assert!(has_died.get()),
            // A closed connection may still break while it lingers: nothing is lost by that.
            Some(ConnectionEnd::ClosedByPeer) => prop_assert!(ends_with_close && is_whole),
            Some(ConnectionEnd::PeerVanished) => {
                prop_assert!(broken.get().is_none());
                prop_assert!(is_drained.get() || !ends_with_close && is_whole);
            }
            Some(ConnectionEnd::Broken(kind)) => prop_assert_eq!(broken.get(), Some(kind)),
            Some(ConnectionEnd::ClosedByServer) => prop_assert!(ends_with_close && said_goodbye),
            Some(ConnectionEnd::Abandoned) => prop_assert!(is_abandoned.get()),
            Some(
                ConnectionEnd::KeepAliveTimeout
                | ConnectionEnd::CloseTimeout
                | ConnectionEnd::WriteTimeout,
            ) => prop_assert!(fails_too),
            Some(other) => prop_assert!(false, "ended as {:?}", other),
        }
    }
}
