//! What a worker asks of a connection is done, however much its peer sends and takes: over streams
//! that are never anything but ready, as epoll's are beside a peer at full speed.

use std::{cell::Cell, io, rc::Rc};

use monoio::{LegacyDriver, RuntimeBuilder};
use ringecho::{
    config::Echo,
    connection::{ConnectionEnd, Control, Demand, linger, write_all},
    metrics::Counters,
    plane::{Bounds, portable::run},
    protocol::{echo::Compression, session::Goodbye},
};

use crate::{
    frames::{binary, server_close},
    streams::{Reader, Sink, Source, Writer},
};

/// What a stopping server demands.
const STOP: Demand = Demand::Goodbye(Goodbye::Stopping);

/// A peer that sends this many frames, so that a test ends whatever the connection does.
const FRAMES: usize = 1000;

/// So many that others have their turn several times.
const FRAME_LEN: usize = 4000;

/// One frame at each read, at once.
struct Streaming {
    frame: Vec<u8>,
    left: Rc<Cell<usize>>,
}

/// Takes at once as many of so many bytes as the function says.
struct Taking<F>(F);

impl Streaming {
    fn new() -> (Reader<Self>, Rc<Cell<usize>>) {
        let left = Rc::new(Cell::new(FRAMES));
        let frame = binary(vec![7; FRAME_LEN]).encode();
        (Reader(Self { frame, left: left.clone() }), left)
    }
}

impl Source for Streaming {
    async fn next_piece(&mut self, len_max: usize) -> io::Result<Vec<u8>> {
        let Some(left) = self.left.get().checked_sub(1) else { return Ok(Vec::new()) };
        self.left.set(left);
        assert!(len_max >= self.frame.len(), "a frame fits");
        Ok(self.frame.clone())
    }
}

impl<F: FnMut(usize) -> usize> Sink for Taking<F> {
    async fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.0(bytes.len()))
    }
}

fn control() -> Rc<Control> {
    Rc::new(Control::new(Rc::default(), None))
}

fn on_a_worker<T>(connection: impl Future<Output = T>) -> T {
    RuntimeBuilder::<LegacyDriver>::new().build().unwrap().block_on(connection)
}

/// Has the worker demand something as soon as the connection lets it go on.
fn demand_soon(control: &Rc<Control>, demand: Demand) {
    let control = control.clone();
    monoio::spawn(async move { control.demand(demand) });
}

/// How a connection ends whose peer streams while the worker demands something, and whether a
/// Close frame was sent.
fn end_beside(demand: Demand) -> (ConnectionEnd, bool) {
    on_a_worker(async {
        let control = control();
        demand_soon(&control, demand);
        let counters = Counters::new(&ConnectionEnd::KINDS);
        let bounds = Bounds::new(&Echo::default());
        let (reader, _) = Streaming::new();
        let goodbye_len = server_close(1001, "the server is stopping").len();
        let mut is_closed = false;
        let writer = Writer(Taking(|len| {
            is_closed |= len == goodbye_len;
            len
        }));
        let compression = Compression::None;
        let end = run(reader, writer, Vec::new(), compression, &control, &bounds, &counters).await;
        (end, is_closed)
    })
}

#[test]
fn peer_that_streams_is_ended_when_the_worker_says_so() {
    let end = ConnectionEnd::Abandoned;
    assert_eq!(end_beside(Demand::End(end)), (end, false));
}

#[test]
fn peer_that_streams_is_sent_the_close_of_a_stopping_server() {
    assert_eq!(end_beside(STOP), (ConnectionEnd::PeerVanished, true));
}

#[test]
fn peer_that_streams_behind_the_end_lets_others_go_on_and_is_ended_by_them() {
    on_a_worker(async {
        let control = control();
        demand_soon(&control, Demand::End(ConnectionEnd::CloseTimeout));
        let (mut reader, left) = Streaming::new();
        linger(&mut reader, &mut Writer(Taking(|len| len)), &control).await;
        assert!(left.get() > FRAMES / 2, "{} of {FRAMES} frames are left", left.get());
    });
}

#[test]
fn reply_that_is_taken_piece_by_piece_is_ended_in_the_middle() {
    on_a_worker(async {
        let control = control();
        let mut taken = 0;
        let mut writer = Writer(Taking(|_| {
            taken += 1;
            if taken == 5 {
                control.demand(Demand::End(ConnectionEnd::Abandoned));
            }
            1
        }));
        let end = write_all(&mut writer, vec![7; 100], 0..100, &control).await;
        assert_eq!(end, Err(ConnectionEnd::Abandoned));
        assert_eq!(taken, 5);
    });
}

#[test]
fn response_that_is_not_taken_in_time_ends_with_the_time_for_the_handshake() {
    on_a_worker(async {
        let control = control();
        control.demand(Demand::TimeOut);
        let mut writer = Writer(Taking(|len| len));
        let end = write_all(&mut writer, vec![7; 100], 0..100, &control).await;
        assert_eq!(end, Err(ConnectionEnd::HandshakeTimeout));
    });
}

/// A connection looks at what is demanded of it only when it has its turn.
#[test]
fn closing_yields_to_nothing_but_an_end() {
    on_a_worker(async {
        let control = control();
        for demand in [Demand::Ping, STOP, Demand::TimeOut, Demand::Ping] {
            control.demand(demand);
        }
        assert_eq!(control.demanded().await, STOP);

        // A stop is not lost behind a goodbye that a message may call off.
        let [idle, too_old] = [Goodbye::Idle, Goodbye::LifetimeOver].map(Demand::Goodbye);
        for demand in [idle, too_old, idle, STOP, idle, Demand::Ping, too_old] {
            control.demand(demand);
        }
        assert_eq!(control.demanded().await, STOP);

        let end = Demand::End(ConnectionEnd::Abandoned);
        let late = Demand::End(ConnectionEnd::KeepAliveTimeout);
        for demand in [STOP, end, STOP, late] {
            control.demand(demand);
        }
        assert_eq!(control.demanded().await, end);
    });
}
