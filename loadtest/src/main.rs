//! The command line in, an exit code out.

use std::{
    fs,
    io::{self, ErrorKind, Write},
    path::Path,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use ringecho_loadtest::{
    cli::{
        ChurnArgs, Cli, Command, CompareArgs, ConnectionArgs, IdleArgs, MergeArgs, OutputArgs,
        PlanError, RecordingArgs, RunArgs, STDOUT, SearchArgs,
    },
    drive::threads::ThreadError,
    modes::{
        churn, compare, floor, idle,
        merge::{MergeError, MergedReport},
        run::{RunError, run},
        search,
    },
    result::{
        check::Check,
        export::{self, Exported},
        progress::Progress,
    },
    text::{
        shortfall,
        stderr::{say, warn},
        warning::Warning,
    },
};
use serde::Serialize;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};
use thiserror::Error;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A value of a flag turned out to be wrong after the command line was parsed.
const EXIT_USAGE: u8 = 2;

/// A condition of `--fail-if` holds.
const EXIT_CONDITION: u8 = 3;

/// As a shell reports a program that a second Ctrl-C ended.
const EXIT_INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    let cli = match Cli::from_process() {
        Ok(cli) => cli,
        Err(error) => return explain_usage(&error),
    };
    let outcome = match cli.command() {
        Command::Run(args) => run_load(&args),
        Command::Idle(args) => hold_idle(&args),
        Command::Churn(args) => churn_connections(&args),
        Command::Compare(args) => compare_servers(&args),
        Command::Search(args) => search_rate(&args),
        Command::Merge(args) => merge(&args),
    };
    match outcome {
        Ok(Ending::Success) => ExitCode::SUCCESS,
        Ok(Ending::Failure) => ExitCode::FAILURE,
        Ok(Ending::ConditionHolds) => EXIT_CONDITION.into(),
        Err(fault) => {
            warn(&shortfall::noted());
            say(format_args!("error: {fault}"));
            match fault {
                Fault::Usage(PlanError::Redirect(_) | PlanError::Follow(_)) => ExitCode::FAILURE,
                Fault::Usage(_) => EXIT_USAGE.into(),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Says what is wrong with the command line, or prints the help that it asks for.
fn explain_usage(error: &clap::Error) -> ExitCode {
    let printed = written_to_stdout(error.print().and_then(|()| io::stdout().flush()));
    match printed {
        Err(fault) if !error.use_stderr() => {
            say(format_args!("error: {fault}"));
            ExitCode::FAILURE
        }
        _ if error.use_stderr() => EXIT_USAGE.into(),
        _ => ExitCode::SUCCESS,
    }
}

/// What the result is like.
enum Ending {
    Success,
    /// Something went wrong.
    Failure,
    /// A condition of `--fail-if` holds or cannot be checked, whatever else went wrong.
    ConditionHolds,
}

impl Ending {
    fn of(is_success: bool, checks: &[Check]) -> Self {
        match is_success {
            _ if checks.iter().any(Check::has_failed) => Self::ConditionHolds,
            true => Self::Success,
            false => Self::Failure,
        }
    }
}

/// Why the program came to no result.
#[derive(Debug, Error)]
enum Fault {
    /// A flag's value is wrong.
    #[error(transparent)]
    Usage(#[from] PlanError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Thread(#[from] ThreadError),
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// The system refused something else.
    #[error("{0}")]
    Failed(String),
}

/// Runs a load, and says whether every message was echoed correctly.
fn run_load(args: &RunArgs) -> Result<Ending, Fault> {
    let (baseline, conditions) = (args.baseline()?, args.conditions()?);
    let plan = args.plan()?;
    let (too_few, interrupted) = prepare(&args.traffic.connections, 1)?;
    let floor = floor::measure_messages(&plan, &interrupted);
    let mut progress = if args.full_screen { Progress::full_screen() } else { Progress::default() };
    let mut report = run(plan, &interrupted, &mut progress)?;
    report.add_floor(floor);
    report.conclude(baseline, &conditions);
    let unsaid = add_shortfall(&mut report.warnings, &too_few);
    let text = (report.connections.opened > 0).then(|| report.to_string());
    deliver(&report, text, &args.recording, &args.output, &unsaid)?;
    Ok(Ending::of(report.is_success(), &report.checks))
}

/// Holds idle connections, and says whether all were there until the end.
fn hold_idle(args: &IdleArgs) -> Result<Ending, Fault> {
    let plan = args.plan()?;
    let (too_few, interrupted) = prepare(&args.connections, 1)?;
    let mut report = idle::run(plan, &interrupted, &mut Progress::default())?;
    let unsaid = add_shortfall(&mut report.warnings, &too_few);
    publish(&report, Some(report.to_string()), args.output.json.as_deref())?;
    warn(&unsaid);
    Ok(Ending::of(report.is_success(), &[]))
}

/// Opens and closes connections over and over, and says whether every cycle went as it should.
fn churn_connections(args: &ChurnArgs) -> Result<Ending, Fault> {
    let conditions = args.conditions()?;
    let plan = args.plan()?;
    let (too_few, interrupted) = prepare(&args.cycles.connections, churn::DESCRIPTORS_EACH)?;
    let floor = floor::measure_cycles(&plan, &interrupted);
    let mut report = churn::run(plan, &interrupted, &mut Progress::default())?;
    report.add_floor(floor);
    report.conclude(&conditions);
    let unsaid = add_shortfall(&mut report.warnings, &too_few);
    deliver(&report, Some(report.to_string()), &args.recording, &args.output, &unsaid)?;
    Ok(Ending::of(report.is_success(), &report.checks))
}

/// Compares two servers, and says whether everything went as it should.
fn compare_servers(args: &CompareArgs) -> Result<Ending, Fault> {
    let plan = args.plan()?;
    let (connections, descriptors_each) = args.connections();
    let (too_few, interrupted) = prepare(connections, descriptors_each)?;
    let floor = plan.runs[0].floor(&interrupted);
    let mut report = compare::run(&plan, &interrupted, &mut Progress::default())?;
    report.add_floor(floor);
    let doubts = [&*report.each_run.warnings, &shortfall::noted()].concat();
    report.each_run.warnings = [&*too_few, &doubts].concat();
    publish(&report, Some(report.to_string()), args.output().json.as_deref())?;
    warn(&doubts);
    warn(&report.warnings());
    Ok(Ending::of(report.is_success(), &report.checks))
}

/// Searches the highest rate under a target, and says whether it was found.
fn search_rate(args: &SearchArgs) -> Result<Ending, Fault> {
    let plan = args.plan()?;
    let (connections, descriptors_each) = args.connections();
    let (too_few, interrupted) = prepare(connections, descriptors_each)?;
    let floor = plan.run.floor(&interrupted);
    let mut report = search::run(&plan, &interrupted, &mut Progress::default())?;
    report.add_floor(floor);
    let doubts = [&*report.each_run.warnings, &shortfall::noted()].concat();
    report.each_run.warnings = [&*too_few, &doubts].concat();
    publish(&report, Some(report.to_string()), args.output().json.as_deref())?;
    warn(&doubts);
    warn(report.warnings());
    Ok(Ending::of(report.is_success(), &[]))
}

/// Merges runs, and says whether every message of every run was echoed correctly.
fn merge(args: &MergeArgs) -> Result<Ending, Fault> {
    let report = MergedReport::read(&args.logs)?;
    let written = report.write(&args.histograms.files()).map_err(Fault::Failed);
    let published = publish(&report, Some(report.to_string()), args.output.json.as_deref());
    warn(&report.warnings);
    written.and(published)?;
    Ok(Ending::of(report.is_success(), &[]))
}

/// Prepares the process for connections with up to so many descriptors each: says what it has too
/// little of, and returns that with the flag that says that somebody wants it to end.
fn prepare(
    connections: &ConnectionArgs,
    descriptors_each: usize,
) -> Result<(Vec<Warning>, Arc<AtomicBool>), Fault> {
    let too_few = connections.prepare_process(descriptors_each);
    warn(&too_few);
    Ok((too_few, interrupt_flag()?))
}

/// A flag that the first Ctrl-C sets, or a terminal that goes away. The next Ctrl-C ends the program.
fn interrupt_flag() -> Result<Arc<AtomicBool>, Fault> {
    let cannot = |error| Fault::Failed(format!("cannot handle signals: {error}"));
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset and does nothing but set it.
        flag::register_conditional_shutdown(signal, EXIT_INTERRUPTED, Arc::clone(&interrupted))
            .map_err(cannot)?;
        flag::register(signal, Arc::clone(&interrupted)).map_err(cannot)?;
    }
    // The kernel and the shell may both say that the terminal is gone, so a second time means no more.
    if !is_ignored(SIGHUP) {
        flag::register(SIGHUP, Arc::clone(&interrupted)).map_err(cannot)?;
    }
    Ok(interrupted)
}

/// Whether whoever started the program has it ignore `signal`, as nohup does.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Adds to a result's warnings what the system has refused, and `too_few`, which has been said;
/// returns the warnings that have not been said yet.
fn add_shortfall(warnings: &mut Vec<Warning>, too_few: &[Warning]) -> Vec<Warning> {
    let unsaid = [&**warnings, &shortfall::noted()].concat();
    *warnings = [&*unsaid, too_few].concat();
    unsaid
}

/// Puts a result, and what was measured, where they belong, and says what casts doubt on them. A file
/// that cannot be written keeps no other result away.
fn deliver(
    report: &impl Exported,
    text: Option<String>,
    recording: &RecordingArgs,
    output: &OutputArgs,
    doubts: &[Warning],
) -> Result<(), Fault> {
    let exported = export::write(report, &recording.files()).map_err(Fault::Failed);
    let published = publish(report, text, output.json.as_deref());
    warn(doubts);
    exported.and(published)
}

/// Puts a result where it belongs: as JSON, or as `text`, if there is anything to say.
fn publish(
    report: &impl Serialize,
    text: Option<String>,
    json_path: Option<&Path>,
) -> Result<(), Fault> {
    let text = text.unwrap_or_default();
    let Some(path) = json_path else {
        return print(&text);
    };
    let json = serde_json::to_string_pretty(report);
    let json = json.map_err(|error| Fault::Failed(error.to_string()))? + "\n";
    if path == Path::new(STDOUT) {
        return print(&json);
    }
    let written = fs::write(path, json)
        .map_err(|error| Fault::Failed(format!("cannot write --json {}: {error}", path.display())));
    let printed = print(&text);
    written.and(printed)
}

/// Prints to standard output. That its reader has had enough, as `head` may have, is no fault.
fn print(text: &str) -> Result<(), Fault> {
    let mut stdout = io::stdout().lock();
    written_to_stdout(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

fn written_to_stdout(written: io::Result<()>) -> Result<(), Fault> {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Fault::Failed(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
