//! The engine as a worker's data plane, and its kernel as the one place where the worker waits.
//!
//! monoio runs the tasks, but never waits. When no task can go on, the engine turns, and waits in its
//! kernel for the first event, be it for a connection of its own or for a task. The invariant: the
//! engine never waits while a task can go on.

mod task_stream;

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    net::TcpStream as StdTcpStream,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    rc::Rc,
    sync::{Arc, Once},
    task::{Context, Waker},
    time::Duration,
};

use monoio::task::JoinHandle;
use tracing::warn;

use self::task_stream::TaskStream;
use super::{
    Bounds, Departure, Plane, SecureStream, Upgraded,
    engine::{Engine, Interest, Kernel, Newcomer, Security, Wait},
};
use crate::{
    connection::{
        ConnectionEnd, Control,
        clock::{Deadlines, Tick},
        let_others_go_on, linger, write_all,
    },
    metrics::{Counters, RefusalReason},
    protocol::{close_code::CloseCode, session::Session},
    pulse::Activity,
    stream::Duplex,
    tls::{
        TlsFault,
        ktls::{self, NotGiven},
    },
};

/// The engine, shared by the tasks that wait in its kernel.
pub(crate) struct OnEngine<K>(Rc<State<K>>);

struct State<K> {
    engine: RefCell<Engine<K>>,
    /// How often any task of the worker's has been polled.
    polls: Cell<u64>,
    counters: Arc<Counters>,
    /// The number of late wake-ups until the last sweep, and a bit for each of the last eight sweeps:
    /// whether one was late.
    late_wake_ups: Cell<(u64, u8)>,
    /// A connection is being adopted; still set if that has panicked.
    is_adopting: Cell<bool>,
}

/// A wait that ends when this is dropped.
struct Waiting<'a, K: Kernel> {
    plane: &'a OnEngine<K>,
    wait: Wait,
}

impl<K> Clone for OnEngine<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Kernel> OnEngine<K> {
    /// An engine of this thread, which counts in `counters`.
    pub(crate) fn new(engine: Engine<K>, counters: Arc<Counters>) -> Self {
        Self(Rc::new(State {
            engine: RefCell::new(engine),
            polls: Cell::new(0),
            counters,
            late_wake_ups: Cell::default(),
            is_adopting: Cell::new(false),
        }))
    }

    async fn ready(&self, descriptor: &impl AsFd, interest: Interest) -> io::Result<()> {
        let wait = self.0.engine.borrow_mut().wait_for(descriptor.as_fd(), interest);
        Waiting { plane: self, wait }.over().await
    }

    /// Waits until no other task can go on by itself.
    async fn others_at_rest(&self) {
        let polls = &self.0.polls;
        loop {
            // monoio's queue of tasks is first in, first out. If no other task has run when this one
            // has its turn again, no other was in the queue.
            let before = polls.get();
            let_others_go_on().await;
            if polls.get() == before {
                return;
            }
        }
    }

    /// Has the engine take a connection over, or closes it.
    async fn give(&self, newcomer: Newcomer, control: &Control) -> Option<ConnectionEnd> {
        self.0.is_adopting.set(true);
        let taken_over = self.0.engine.borrow_mut().take_over(newcomer);
        self.0.is_adopting.set(false);
        let Err(refused) = taken_over else { return None };
        // Boxed, so that the tasks of connections that are taken over have no room for it.
        Some(Box::pin(self.turn_away(refused, control)).await)
    }

    /// Closes a connection for which the engine has no room.
    #[cold]
    async fn turn_away(&self, refused: Newcomer, control: &Control) -> ConnectionEnd {
        let Newcomer { descriptor, security, .. } = refused;
        let mut stream = TaskStream::new(descriptor.into(), self.clone());
        let mut frame = Session::turn_away();
        if let Security::Session(mut tls) = security {
            let mut records = Vec::new();
            if let Err(error) = tls.seal(&frame, &mut records) {
                return ConnectionEnd::TlsFailed(error.fault());
            }
            tls.close(&mut records);
            frame = records;
        }
        let frame_len = frame.len();
        control.note_close_code(Some(CloseCode::TryAgainLater as u16));
        control.closing();
        if let Err(end) = write_all(&mut stream, frame, 0..frame_len, control).await {
            return end;
        }
        let (mut reader, mut writer) = stream.split();
        linger(&mut reader, &mut writer, control).await;
        ConnectionEnd::Refused(RefusalReason::EngineFull)
    }

    /// Warns, once, of a kernel that loses wake-ups again and again.
    fn warn_of_late_wake_ups(&self) {
        static SAID: Once = Once::new();
        let (before, sweeps) = self.0.late_wake_ups.get();
        let now = self.0.counters.late_wake_ups.get();
        let sweeps = sweeps << 1 | u8::from(now > before);
        self.0.late_wake_ups.set((now, sweeps));
        if sweeps.count_ones() >= LATE_SWEEPS_MIN {
            SAID.call_once(|| {
                warn!(
                    "this kernel loses wake-ups, so that messages wait for up to a second; use \
                     --driver epoll, and please report the kernel's version"
                );
            });
        }
    }
}

/// How many of the last eight sweeps have to find a late wake-up before the kernel is suspected. An
/// event may come in the very moment of a sweep, but hardly three times in eight.
const LATE_SWEEPS_MIN: u32 = 3;

impl<K: Kernel> Waiting<'_, K> {
    async fn over(&self) -> io::Result<()> {
        poll_fn(|context| self.plane.0.engine.borrow_mut().poll_wait(self.wait, context)).await
    }
}

impl<K: Kernel> Drop for Waiting<'_, K> {
    fn drop(&mut self) {
        self.plane.0.engine.borrow_mut().end_wait(self.wait);
    }
}

impl<K: Kernel> Plane for OnEngine<K> {
    type Stream = TaskStream<K>;
    type Source = OwnedFd;

    fn spawn<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        let state = self.0.clone();
        // monoio moves a task several times before it runs, and some are some KiB long.
        let mut task = Box::pin(task);
        monoio::spawn(async move {
            poll_fn(|context| {
                state.polls.set(state.polls.get() + 1);
                task.as_mut().poll(context)
            })
            .await
        })
    }

    /// Most connections are the engine's before they have waited for anything, and then need no task.
    fn start(&self, mut task: impl Future<Output = ()> + Unpin + 'static) {
        // A task is polled anew once it is spawned, and its waker then replaces this one.
        let mut context = Context::from_waker(Waker::noop());
        if Pin::new(&mut task).poll(&mut context).is_pending() {
            self.spawn(task);
        }
    }

    async fn sleep(&self, duration: Duration) {
        let wait = self.0.engine.borrow_mut().wait_until_passed(duration);
        // A wait that fails ends the engine's turn with an error, and with it the worker.
        let _ = Waiting { plane: self, wait }.over().await;
    }

    /// A stream that has been read from waits for the kernel before it is read again.
    async fn rest(&self) {}

    fn source(&self, descriptor: OwnedFd) -> io::Result<OwnedFd> {
        Ok(descriptor)
    }

    async fn readable(&self, source: &OwnedFd) -> io::Result<()> {
        self.ready(source, Interest::Readable).await
    }

    fn stream(&self, stream: StdTcpStream) -> io::Result<TaskStream<K>> {
        Ok(TaskStream::new(stream, self.clone()))
    }

    async fn carry(
        &self,
        upgraded: Upgraded<TaskStream<K>>,
        _: &Bounds,
        _: &Counters,
        control: &Control,
    ) -> Option<ConnectionEnd> {
        let Upgraded { stream, early, compression, record } = upgraded;
        let descriptor = stream.into_descriptor();
        let security = Security::None;
        self.give(Newcomer { descriptor, compression, early, record, security }, control).await
    }

    async fn carry_secured(
        &self,
        upgraded: Upgraded<SecureStream<TaskStream<K>>>,
        _: &Bounds,
        _: &Counters,
        control: &Control,
    ) -> Option<ConnectionEnd> {
        let Upgraded { stream, mut early, compression, record } = upgraded;
        let (session, unread, reader, writer) = stream.into_parts();
        drop(reader);
        early.extend(unread);
        let descriptor = writer.into_descriptor();
        let security = match ktls::give_away(session, &descriptor) {
            Ok(()) => Security::Kernel,
            Err(NotGiven::Session(session)) => Security::Session(session),
            Err(NotGiven::Lost(error)) => {
                warn!("the kernel has refused the keys of a connection, which is closed: {error}");
                return Some(ConnectionEnd::TlsFailed(TlsFault::Internal));
            }
        };
        self.give(Newcomer { descriptor, compression, early, record, security }, control).await
    }

    fn connection_count(&self) -> usize {
        self.0.engine.borrow().connection_count()
    }

    fn copy_len(&self) -> usize {
        self.0.engine.borrow().copy_len()
    }

    fn sweep(&self, now: Tick, deadlines: &Deadlines) {
        self.0.engine.borrow_mut().sweep(now, deadlines);
        self.warn_of_late_wake_ups();
    }

    fn drain(&self) {
        self.0.engine.borrow_mut().drain();
    }

    fn undrained_count(&self) -> usize {
        self.0.engine.borrow().undrained_count()
    }

    fn drain_some(&self, count: usize) {
        self.0.engine.borrow_mut().drain_some(count);
    }

    fn drain_quiet(&self, quiet: Duration) {
        self.0.engine.borrow_mut().drain_quiet(quiet);
    }

    fn abandon(&self) {
        self.0.engine.borrow_mut().abandon();
    }

    async fn settle(&self, drive: JoinHandle<io::Result<()>>) {
        // The driving task has to end by itself. If it were dropped while it waits for an empty
        // task that it has spawned, the two tasks would keep each other alive.
        let _ = drive.await;
        // One more turn gives the cancellations of ended waits to the kernel. A ring is closed some
        // time after its process or thread, and until then it holds the descriptors that it waits for,
        // such as the listener. A ring that fails here is closed as well.
        let _ = self.0.engine.borrow_mut().turn(false);
    }

    fn let_go(&self) {
        let wakers = self.0.engine.borrow_mut().take_wakers();
        // Dropped when the engine is not borrowed, since tasks that end with them end their waits.
        drop(wakers);
    }

    /// Has the engine turn, and finishes the connections that have left it.
    async fn drive(
        &self,
        is_over: impl Fn() -> bool,
        finish: impl Fn(Departure),
    ) -> io::Result<()> {
        loop {
            self.others_at_rest().await;
            // monoio polls the future that it blocks on only now and then, and nothing might wake it.
            if is_over() {
                return Ok(());
            }
            assert!(!self.0.is_adopting.get(), "the engine panicked while it adopted a connection");
            let mut engine = self.0.engine.borrow_mut();
            engine.run()?;
            let departures = engine.departures();
            drop(engine);
            self.0.counters.pulse.begin(Activity::Tasks);
            departures.into_iter().for_each(&finish);
        }
    }
}
