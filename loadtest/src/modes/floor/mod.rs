//! The generator's own floor: what it measures of a server that takes as little time as can be.
//!
//! Before a load, one thread of the generator drives an `echo` of this process over loopback TCP,
//! one message or one cycle at a time, and waiting as in the load. The echo is a thread that always
//! polls, so none of the floor is the echo's wake-up, and the two need a CPU each. Whatever a load
//! measures below its floor or close to it says more of the generator than of the server. Where the
//! load goes over HTTP/2 the floor does, by prior knowledge (`http2_echo`).
//!
//! A floor takes some 0.1 s: 20 ms until the first planned instant, then `WARMUP`, `DURATION` and,
//! if something is late, `BACKLOG_GRACE`. Where the two threads fall behind that plan it is no floor
//! but a queue, and a warning says so.

mod echo;
mod http2_echo;

use std::{
    fmt::Display,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::Duration,
};

use self::echo::{Echo, ServeOne};
use super::{
    churn::{self, plan::ChurnPlan, report::CycleFloor},
    run::run,
};
use crate::{
    count::{errors::Cause, latency_report::LatencyReport},
    payload::{EchoKind, PayloadKind, PayloadPlan},
    plan::{Closing, Exchange, Load, Plan, Wait, rate::Rate, threads::ThreadPlan},
    result::progress::Progress,
    text::{
        numbers::grouped,
        warning::{Warning, WarningCode},
    },
    wire::{
        connector::{Connector, Http2, Limits, Wishes},
        http2::request::ConnectRequest,
        stream::{Endpoint, Sources},
    },
};

/// Payload of a message, in bytes: what [`echo`] takes in a frame with a length of 7 bits.
const PAYLOAD_LEN: usize = 64;

/// Messages of a cycle at most, so that a floor has cycles enough.
const MESSAGES_MAX: usize = 16;

const WARMUP: Duration = Duration::from_millis(10);
const DURATION: Duration = Duration::from_millis(70);

/// How long what is late at the end is still sent. More of it would only be measured late.
const BACKLOG_GRACE: Duration = Duration::from_millis(20);

/// How long opening a connection, and each answer, may take.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// Why there are no latencies though nothing went wrong.
const NO_ECHO: &str = "no echo came in time";

/// Messages a second where the load has a rate: as many as leave each of them its time, so that
/// what a busy machine has delayed is soon made up for. Threads that poll have 1,120 measured, of
/// which p99 means something; threads that sleep take a wake-up for each message and each echo.
fn message_rate(wait: Wait) -> f64 {
    match wait {
        Wait::Poll => 16_000.0,
        Wait::Sleep => 2_000.0,
    }
}

/// Cycles a second where the load has a rate. A cycle takes a round trip for each of its `messages`
/// and three more: to connect, for the opening handshake, and to end. These take longer than
/// messages, so fewer of them are planned in a second.
#[expect(clippy::cast_precision_loss, reason = "a cycle has few messages")]
fn cycle_rate(wait: Wait, messages: usize) -> f64 {
    let round_trips = match wait {
        Wait::Poll => 8_000.0,
        Wait::Sleep => 1_600.0,
    };
    round_trips / (3 + messages) as f64
}

/// Measures the floor of a load of messages; a warning says why there is none.
pub fn measure_messages(plan: &Plan, interrupted: &AtomicBool) -> Result<LatencyReport, Warning> {
    with_echo(carrier(&plan.connector), |address| {
        let plan = message_plan(plan, address);
        let report = run(plan, interrupted, &mut Progress::nothing());
        let report = report.map_err(|error| error.to_string())?;
        let pace = report.open_loop.as_ref().map(|open_loop| Pace {
            interval_us: 1e6 / message_rate(open_loop.wait),
            planned: open_loop.planned,
            undone: open_loop.unsent,
            lag_us: open_loop.send_lag_us.map(|lag| lag.p50),
        });
        let (interrupted, errors) = (report.interrupted, report.errors.total);
        Course { interrupted, errors, causes: &report.causes, pace }.check(Exchange::Message)?;
        report.latency_us.ok_or_else(|| NO_ECHO.to_owned())
    })
}

/// Measures the floor of a load of cycles; a warning says why there is none.
pub fn measure_cycles(plan: &ChurnPlan, interrupted: &AtomicBool) -> Result<CycleFloor, Warning> {
    with_echo(carrier(&plan.connector), |address| {
        let plan = cycle_plan(plan, address);
        let messages_per_cycle = plan.messages;
        let report = churn::run(plan, interrupted, &mut Progress::nothing());
        let report = report.map_err(|error| error.to_string())?;
        let pace = report.open_loop.as_ref().map(|open_loop| Pace {
            interval_us: 1e6 / cycle_rate(open_loop.wait, messages_per_cycle),
            planned: open_loop.planned,
            undone: open_loop.unbegun,
            lag_us: open_loop.begin_lag_us.map(|lag| lag.p50),
        });
        let (interrupted, errors) = (report.interrupted, report.errors.total);
        Course { interrupted, errors, causes: &report.causes, pace }.check(Exchange::Cycle)?;
        let both = report.handshake_us.zip(report.cycle_us);
        let (handshake, cycle) = both.ok_or_else(|| NO_ECHO.to_owned())?;
        Ok(CycleFloor { handshake, cycle, messages_per_cycle })
    })
}

/// How the measurement of a floor went.
#[derive(Clone, Copy, Debug)]
struct Course<'r> {
    interrupted: bool,
    errors: u64,
    /// Of the errors, as far as they have any.
    causes: &'r [Cause],
    /// `None` in a closed loop.
    pace: Option<Pace>,
}

/// How far the plan of an open loop was kept.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// From one planned instant to the next.
    interval_us: f64,
    planned: u64,
    /// What never was sent, or begun.
    undone: u64,
    /// The median of how late the others were; `None` if there were none.
    lag_us: Option<f64>,
}

impl Course<'_> {
    /// Says why what was measured is not the floor, if it is not.
    fn check(&self, exchange: Exchange) -> Result<(), String> {
        if self.interrupted {
            return Err("it was interrupted".to_owned());
        }
        if self.errors > 0 {
            return Err(self
                .causes
                .first()
                .map_or_else(|| NO_ECHO.to_owned(), ToString::to_string));
        }
        let Some(Pace { interval_us, planned, undone, lag_us }) = self.pace else { return Ok(()) };
        let (exchanges, sent) = match exchange {
            Exchange::Message => ("messages", "sent"),
            Exchange::Cycle => ("cycles", "begun"),
        };
        let behind = match lag_us {
            _ if undone > 0 => {
                let (undone, planned) = (grouped(undone), grouped(planned));
                format!("{undone} of its {planned} {exchanges} could not be {sent} in their time")
            }
            Some(lag_us) if lag_us > interval_us => {
                format!("half of its {exchanges} were {sent} {lag_us:.0} us late or later")
            }
            _ => return Ok(()),
        };
        Err(behind + ", so its two threads did not have a CPU each")
    }
}

/// What `measure` finds with an echo that listens at its argument, or the warning that there is no
/// floor.
fn with_echo<F>(
    carrier: Carrier,
    measure: impl FnOnce(SocketAddr) -> Result<F, String>,
) -> Result<F, Warning> {
    let unmeasured = |cause: &dyn Display| {
        let text = format!("the generator's own part of latency could not be measured: {cause}");
        Warning::new(WarningCode::FloorUnmeasured, text)
    };
    if thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1) {
        return Err(unmeasured(&"the one CPU cannot both send and echo"));
    }
    let (echo, address) = Echo::start(carrier.serve_one()).map_err(|it| unmeasured(&it))?;
    let measured = measure(address);
    let echoed = echo.end();
    measured.map_err(|cause| match echoed {
        Ok(()) => unmeasured(&cause),
        Err(error) => unmeasured(&format!("{cause}; its echo ended: {error}")),
    })
}

/// As the load's plan, with one connection to the echo.
fn message_plan(plan: &Plan, address: SocketAddr) -> Plan {
    Plan {
        connector: Arc::new(connector(address, carrier(&plan.connector))),
        connections: 1,
        load: at_rate(&plan.load, message_rate(plan.wait)),
        wait: plan.wait,
        depth: 1,
        payload: PayloadPlan::generated(PayloadKind::Binary, PAYLOAD_LEN),
        fragments: 1,
        echo_kind: EchoKind::Messages,
        reconnect: false,
        start_at: None,
        compression: false,
        warmup: WARMUP,
        duration: DURATION,
        backlog_grace: BACKLOG_GRACE,
        threads: one_thread(&plan.threads),
        server_pid: None,
    }
}

/// As the churn's plan, with one cycle at a time, to the echo.
fn cycle_plan(plan: &ChurnPlan, address: SocketAddr) -> ChurnPlan {
    let connector = connector(address, carrier(&plan.connector));
    let messages = plan.messages.min(MESSAGES_MAX);
    ChurnPlan {
        connector: Arc::new(match plan.closing {
            Closing::Handshake => connector,
            Closing::Abort => connector.resetting(),
        }),
        connections: 1,
        load: at_rate(&plan.load, cycle_rate(plan.wait, messages)),
        wait: plan.wait,
        messages,
        payload: PayloadPlan::generated(PayloadKind::Binary, PAYLOAD_LEN),
        closing: plan.closing,
        answer_timeout: ANSWER_MAX,
        warmup: WARMUP,
        duration: DURATION,
        backlog_grace: BACKLOG_GRACE,
        threads: one_thread(&plan.threads),
        server_pid: None,
    }
}

/// What messages go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    /// A connection of TCP for each WebSocket.
    Tcp,
    /// Streams of HTTP/2, by prior knowledge.
    Http2,
}

impl Carrier {
    /// What the echo does with a connection.
    fn serve_one(self) -> ServeOne {
        match self {
            Self::Tcp => echo::echo,
            Self::Http2 => http2_echo::echo,
        }
    }
}

/// What the load's messages go over.
fn carrier(connector: &Connector) -> Carrier {
    if connector.transports() > 0 { Carrier::Http2 } else { Carrier::Tcp }
}

fn connector(address: SocketAddr, carrier: Carrier) -> Connector {
    let target = "ws://localhost/".parse().expect("a URL");
    let limits = Limits { connect: ANSWER_MAX, opening: ANSWER_MAX };
    let (sources, wishes) = (Sources::new(Vec::new()), Wishes::default());
    let connector = Connector::new(&target, Endpoint::Tcp(address), sources, None, &wishes, limits);
    match carrier {
        Carrier::Tcp => connector,
        Carrier::Http2 => {
            let request = ConnectRequest::new(&target, &[], &[], None).expect("of a URL");
            connector.over_http2(Http2 { request, transports: 1, connections: 1 })
        }
    }
}

fn at_rate(load: &Load, rate: f64) -> Load {
    match load {
        Load::Closed => Load::Closed,
        Load::Open(_) => Load::Open(Rate::constant(rate)),
    }
}

fn one_thread(threads: &ThreadPlan) -> ThreadPlan {
    ThreadPlan { count: 1, cpus: threads.cpus.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::errors::ErrorKind;

    #[test]
    fn what_was_interrupted_failed_or_fell_behind_is_no_floor() {
        let cause =
            |kind, cause: &str, count| Cause { kind, code: None, cause: cause.to_owned(), count };
        let causes = [
            cause(ErrorKind::Closed, "the connection broke", 2),
            cause(ErrorKind::Timeout, "never opened", 1),
        ];
        let kept = Pace { interval_us: 62.5, planned: 1120, undone: 0, lag_us: Some(62.5) };
        let undone = Pace { undone: 3, ..kept };
        let late = Pace { lag_us: Some(1_200_345.6), ..kept };
        let good = Course { interrupted: false, errors: 0, causes: &[], pace: None };
        let threads = ", so its two threads did not have a CPU each";
        for (course, exchange, fault) in [
            (good, Exchange::Message, None),
            (Course { pace: Some(kept), ..good }, Exchange::Message, None),
            (Course { pace: Some(Pace { lag_us: None, ..kept }), ..good }, Exchange::Cycle, None),
            (
                Course { interrupted: true, errors: 3, causes: &causes, pace: Some(undone) },
                Exchange::Message,
                Some("it was interrupted".to_owned()),
            ),
            (
                Course { errors: 3, causes: &causes, pace: Some(undone), ..good },
                Exchange::Message,
                Some("closed: the connection broke (2x)".to_owned()),
            ),
            (
                Course { errors: 1, ..good },
                Exchange::Cycle,
                Some("no echo came in time".to_owned()),
            ),
            (
                Course { pace: Some(undone), ..good },
                Exchange::Message,
                Some(format!("3 of its 1,120 messages could not be sent in their time{threads}")),
            ),
            (
                Course { pace: Some(late), ..good },
                Exchange::Message,
                Some(format!("half of its messages were sent 1200346 us late or later{threads}")),
            ),
            (
                Course { pace: Some(late), ..good },
                Exchange::Cycle,
                Some(format!("half of its cycles were begun 1200346 us late or later{threads}")),
            ),
        ] {
            assert_eq!(course.check(exchange).err(), fault, "{course:?}");
        }
    }

    #[test]
    fn cycles_of_many_messages_are_planned_further_apart() {
        for (wait, messages, rate) in [
            (Wait::Poll, 1, 2000.0),
            (Wait::Poll, 13, 500.0),
            (Wait::Sleep, 1, 400.0),
            (Wait::Sleep, 13, 100.0),
        ] {
            assert_eq!(cycle_rate(wait, messages).to_bits(), f64::to_bits(rate));
        }
    }

    #[test]
    fn a_floor_of_cycles_is_measured_however_they_end() {
        if thread::available_parallelism().unwrap().get() == 1 {
            return;
        }
        let closings = [Closing::Handshake, Closing::Abort];
        let all = closings.map(|closing| [Carrier::Tcp, Carrier::Http2].map(|it| (closing, it)));
        for (closing, carrier) in all.into_iter().flatten() {
            let never = AtomicBool::new(false);
            let (echo, address) = Echo::start(carrier.serve_one()).unwrap();
            let plan = cycle_plan(
                &ChurnPlan {
                    connector: Arc::new(connector(address, carrier)),
                    connections: 64,
                    load: Load::Closed,
                    wait: Wait::Poll,
                    messages: 1000,
                    payload: PayloadPlan::generated(PayloadKind::Text, 1 << 20),
                    closing,
                    answer_timeout: ANSWER_MAX,
                    warmup: WARMUP,
                    duration: DURATION,
                    backlog_grace: BACKLOG_GRACE,
                    threads: ThreadPlan { count: 3, cpus: Vec::new() },
                    server_pid: None,
                },
                address,
            );
            let report = churn::run(plan, &never, &mut Progress::nothing()).unwrap();
            echo.end().unwrap();
            assert_eq!(report.errors.total, 0, "{closing:?}, {carrier:?}: {report}");
            assert_eq!(report.messages_per_cycle, MESSAGES_MAX);
            assert!(report.cycles_total > 0, "{report}");
        }
    }
}
