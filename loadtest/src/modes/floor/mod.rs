//! The generator's own floor: what it measures of a server that takes as little time as can be.
//!
//! Before a load, one thread of the generator drives an [`echo`] of this process over loopback TCP,
//! one message or one cycle at a time, and waiting as in the load. The echo is a thread that always
//! polls, so none of the floor is the echo's wake-up, and the two need a CPU each. Whatever a load
//! measures below its floor or close to it says more of the generator than of the server.
//!
//! A floor takes 100 ms: 20 until the first planned instant, then [`WARMUP`] and [`DURATION`].

mod echo;

use std::{
    fmt::Display,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::Duration,
};

use self::echo::Echo;
use super::{
    churn::{self, plan::ChurnPlan, report::CycleFloor},
    run::run,
};
use crate::{
    count::latency_report::LatencyReport,
    payload::{EchoKind, PayloadKind, PayloadPlan},
    plan::{Load, Plan, Wait, threads::ThreadPlan},
    result::progress::Progress,
    text::warning::{Warning, WarningCode},
    wire::{
        connector::{Connector, Limits, Wishes},
        stream::{Endpoint, Sources},
    },
};

/// Payload of a message, in bytes: what [`echo`] takes in a frame with a length of 7 bits.
const PAYLOAD_LEN: usize = 64;

/// Messages of a cycle at most, so that a floor has cycles enough.
const MESSAGES_MAX: usize = 16;

const WARMUP: Duration = Duration::from_millis(10);
const DURATION: Duration = Duration::from_millis(70);

/// How long opening a connection, and each answer, may take.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// Messages a second where the load has a rate: as many as leave each of them its time, so that
/// what a busy machine has delayed is soon made up for. Threads that poll have 1,120 measured, of
/// which p99 means something; threads that sleep take a wake-up for each message and each echo.
fn message_rate(wait: Wait) -> &'static str {
    match wait {
        Wait::Poll => "16k",
        Wait::Sleep => "2k",
    }
}

/// Cycles a second where the load has a rate: a cycle takes several round trips, and as many
/// wake-ups.
fn cycle_rate(wait: Wait) -> &'static str {
    match wait {
        Wait::Poll => "2k",
        Wait::Sleep => "400",
    }
}

/// Measures the floor of a load of messages; a warning says why there is none.
pub fn of_messages(plan: &Plan, interrupted: &AtomicBool) -> Result<LatencyReport, Warning> {
    beside_echo(|address| {
        let plan = message_plan(plan, address);
        let report = run(plan, interrupted, &mut Progress::default());
        Ok(report.map_err(|error| error.to_string())?.latency_us)
    })
}

/// Measures the floor of a load of cycles; a warning says why there is none.
pub fn of_cycles(plan: &ChurnPlan, interrupted: &AtomicBool) -> Result<CycleFloor, Warning> {
    beside_echo(|address| {
        let plan = cycle_plan(plan, address);
        let report = churn::run(plan, interrupted, &mut Progress::default());
        let report = report.map_err(|error| error.to_string())?;
        let both = report.handshake_us.zip(report.cycle_us);
        Ok(both.map(|(handshake, cycle)| CycleFloor { handshake, cycle }))
    })
}

/// What `measure` finds with an echo that listens at its argument. `None` is an echo that did not
/// answer.
fn beside_echo<F>(
    measure: impl FnOnce(SocketAddr) -> Result<Option<F>, String>,
) -> Result<F, Warning> {
    let unmeasured = |cause: &dyn Display| {
        let text = format!("the generator's own part of latency could not be measured: {cause}");
        Warning::new(WarningCode::FloorUnmeasured, text)
    };
    if thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1) {
        return Err(unmeasured(&"the one CPU cannot both send and echo"));
    }
    let (echo, address) = Echo::start().map_err(|it| unmeasured(&it))?;
    let measured = measure(address);
    let echoed = echo.end();
    match (measured.map_err(|it| unmeasured(&it))?, echoed) {
        (Some(floor), _) => Ok(floor),
        (None, Err(error)) => Err(unmeasured(&error)),
        (None, Ok(())) => Err(unmeasured(&"no echo came in time")),
    }
}

/// As the load's plan, with one connection to the echo.
fn message_plan(plan: &Plan, address: SocketAddr) -> Plan {
    Plan {
        connector: Arc::new(connector(address)),
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
        threads: one_thread(&plan.threads),
        server_pid: None,
    }
}

/// As the churn's plan, with one cycle at a time, to the echo.
fn cycle_plan(plan: &ChurnPlan, address: SocketAddr) -> ChurnPlan {
    let connector = connector(address);
    ChurnPlan {
        connector: Arc::new(match plan.closing {
            churn::plan::Closing::Handshake => connector,
            churn::plan::Closing::Abort => connector.resetting(),
        }),
        connections: 1,
        load: at_rate(&plan.load, cycle_rate(plan.wait)),
        wait: plan.wait,
        messages: plan.messages.min(MESSAGES_MAX),
        payload: PayloadPlan::generated(PayloadKind::Binary, PAYLOAD_LEN),
        closing: plan.closing,
        answer_timeout: ANSWER_MAX,
        warmup: WARMUP,
        duration: DURATION,
        threads: one_thread(&plan.threads),
        server_pid: None,
    }
}

fn connector(address: SocketAddr) -> Connector {
    let target = "ws://localhost/".parse().expect("a URL");
    let limits = Limits { connect: ANSWER_MAX, opening: ANSWER_MAX };
    let (sources, wishes) = (Sources::new(Vec::new()), Wishes::default());
    Connector::new(&target, Endpoint::Tcp(address), sources, None, &wishes, limits)
}

fn at_rate(load: &Load, rate: &str) -> Load {
    match load {
        Load::Closed => Load::Closed,
        Load::Open(_) => Load::Open(rate.parse().expect("a rate")),
    }
}

fn one_thread(threads: &ThreadPlan) -> ThreadPlan {
    ThreadPlan { count: 1, cpus: threads.cpus.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_of_cycles_is_measured_however_they_end() {
        if thread::available_parallelism().unwrap().get() == 1 {
            return;
        }
        for closing in [churn::plan::Closing::Handshake, churn::plan::Closing::Abort] {
            let never = AtomicBool::new(false);
            let (_, address) = Echo::start().unwrap();
            let plan = cycle_plan(
                &ChurnPlan {
                    connector: Arc::new(connector(address)),
                    connections: 64,
                    load: Load::Closed,
                    wait: Wait::Poll,
                    messages: 1000,
                    payload: PayloadPlan::generated(PayloadKind::Text, 1 << 20),
                    closing,
                    answer_timeout: ANSWER_MAX,
                    warmup: WARMUP,
                    duration: DURATION,
                    threads: ThreadPlan { count: 3, cpus: Vec::new() },
                    server_pid: None,
                },
                address,
            );
            let report = churn::run(plan, &never, &mut Progress::default()).unwrap();
            assert_eq!(report.errors.total, 0, "{closing:?}: {report}");
            assert_eq!(report.messages_per_cycle, MESSAGES_MAX);
            assert!(report.cycles_total > 0, "{report}");
        }
    }
}
