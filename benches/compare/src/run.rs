//! The comparison itself: all servers up, one case after the other, rounds in which they take
//! turns.

use std::{
    process::ExitStatus,
    thread,
    time::{Duration, Instant},
};

use crate::{
    generator,
    host::Host,
    plan::{Case, Plan, turns},
    process::{Interrupt, RunningServer},
    results::{Results, Runs},
    server::Programs,
    table,
};

/// How long servers get for what they still do when they accept connections already, such as making
/// their buffers, until their memory without connections is read.
const SETTLING: Duration = Duration::from_millis(500);

/// Carries a plan out, and prints the table of each case as soon as it is measured. A server that
/// fails does not keep the others from being measured.
pub(crate) fn run(plan: Plan, host: Host, programs: &Programs, interrupt: &Interrupt) -> Results {
    println!("{host}");
    let mut servers: Vec<Result<RunningServer, String>> = Vec::new();
    for server in &plan.servers {
        servers.push(
            RunningServer::start(server)
                .map_err(|error| format!("it cannot be started: {error:#}")),
        );
    }
    thread::sleep(SETTLING);
    for running in servers.iter_mut().flatten() {
        running.read_resident_at_start();
    }
    let mut results = Results { host, plan, cases: Vec::new(), is_interrupted: false };
    let started = Instant::now();
    let all = results.plan.cases.len();
    for case in 0..all {
        if interrupt.is_requested() {
            break;
        }
        eprintln!("[{}/{all}] {}{}", case + 1, results.plan.cases[case], left(started, case, all));
        let runs =
            run_case(&results.plan, &results.plan.cases[case], &mut servers, programs, interrupt);
        results.cases.push(runs);
        print!("\n{}", table::text(&results, case));
    }
    results.is_interrupted = interrupt.is_requested();
    results.plan.cases.truncate(results.cases.len());
    results
}

/// The rounds of one case. A server that fails has no further ones, and if it ended, no further
/// cases.
fn run_case(
    plan: &Plan,
    case: &Case,
    servers: &mut [Result<RunningServer, String>],
    programs: &Programs,
    interrupt: &Interrupt,
) -> Vec<Runs> {
    let mut runs: Vec<Runs> = vec![Runs::default(); servers.len()];
    for round in 0..plan.rounds {
        for at in turns(round, servers.len()) {
            let (server, runs) = (&plan.servers[at], &mut runs[at]);
            if interrupt.is_requested() || runs.failure.is_some() {
                runs.rounds.push(None);
                continue;
            }
            let outcome = servers[at].as_mut().map_err(|failure| failure.clone());
            let outcome = outcome.and_then(|running| {
                generator::drive(programs, plan, case, server, running, interrupt)
                    .map_err(|error| describe(&error, running.end()))
            });
            if interrupt.is_requested() {
                // It was cut short.
                runs.rounds.push(None);
                continue;
            }
            runs.rounds.push(outcome.as_ref().ok().copied());
            if let Err(failure) = outcome {
                eprintln!("error: {} in {case}: {failure}", server.name);
                if servers[at].as_mut().is_ok_and(|running| running.end().is_some()) {
                    servers[at] = Err(failure.clone());
                }
                runs.failure = Some(failure);
            }
        }
    }
    runs
}

fn describe(error: &anyhow::Error, end: Option<ExitStatus>) -> String {
    match end {
        Some(end) => format!("{error:#}; the server ended: {end}"),
        None => format!("{error:#}"),
    }
}

/// How long the rest will take, from how long it took so far.
fn left(started: Instant, done: usize, all: usize) -> String {
    if done == 0 {
        return String::new();
    }
    let left = started.elapsed() / done as u32 * (all - done) as u32;
    let seconds = Duration::from_secs(left.as_secs());
    format!(", about {} left", humantime::format_duration(seconds))
}
