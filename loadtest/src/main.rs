//! The command line in, an exit code out.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use clap::Parser;
use mimalloc::MiMalloc;
use ringecho_loadtest::{
    cli::{Cli, Command, RunArgs},
    progress::Progress,
    report::Report,
    run::run,
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// A value of a flag turned out to be wrong after the command line was parsed.
const EXIT_USAGE: u8 = 2;

/// As a shell reports a program that a second Ctrl-C ended.
const EXIT_INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command() {
        Command::Run(args) => run_load(&args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Fault::Usage(error)) => {
            eprintln!("error: {error}");
            EXIT_USAGE.into()
        }
        Err(Fault::Failed(error)) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why the program came to no result.
enum Fault {
    /// A flag's value is wrong.
    Usage(String),
    /// Something else.
    Failed(String),
}

/// Runs a load, and says whether every message was echoed correctly.
fn run_load(args: &RunArgs) -> Result<bool, Fault> {
    let plan = args.plan().map_err(|error| Fault::Usage(error.to_string()))?;
    if let Some(warning) = args.connections.prepare_process() {
        eprintln!("warning: {warning}");
    }
    let interrupted = interrupt_flag()?;
    let report = run(plan, &interrupted, &mut Progress::default())
        .map_err(|error| Fault::Failed(error.to_string()))?;
    publish(&report, args.output.json.as_deref()).map_err(Fault::Failed)
}

/// A flag that the first Ctrl-C sets. The second one ends the program.
fn interrupt_flag() -> Result<Arc<AtomicBool>, Fault> {
    let cannot = |error| Fault::Failed(format!("cannot handle signals: {error}"));
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset and does nothing but set it.
        flag::register_conditional_shutdown(signal, EXIT_INTERRUPTED, Arc::clone(&interrupted))
            .map_err(cannot)?;
        flag::register(signal, Arc::clone(&interrupted)).map_err(cannot)?;
    }
    Ok(interrupted)
}

/// Puts the report where it belongs, and says whether the run succeeded.
fn publish(report: &Report, json_path: Option<&Path>) -> Result<bool, String> {
    let json_on_stdout = json_path == Some(Path::new("-"));
    if let Some(path) = json_path {
        let mut json = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        json.push('\n');
        if json_on_stdout {
            print(&json)?;
        } else {
            fs::write(path, json)
                .map_err(|error| format!("cannot write --json {}: {error}", path.display()))?;
        }
    }
    if !json_on_stdout && report.connections.opened > 0 {
        print(&report.to_string())?;
    }
    for warning in report.warnings() {
        eprintln!("warning: {warning}");
    }
    Ok(report.is_success())
}

fn print(text: &str) -> Result<(), String> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| format!("cannot write to standard output: {error}"))
}
