//! The command line in, an exit code out: 0 after a stop, 1 when the server could not start, 2 for a
//! command line that it cannot run with, 70 when it could not go on.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, error::ErrorKind};
use mimalloc::MiMalloc;
use ringecho::{
    cli::{Arguments, LogFormat, LogLevel},
    config::Config,
    server::{RunError, Server, StartError},
    signals::stop_on_signals,
};
use thiserror::Error;
use tracing::{info, level_filters::LevelFilter};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(arguments.log_level, arguments.log_format);
    match run(&arguments.into()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fault::Start(StartError::Config(error))) => {
            Arguments::command().error(ErrorKind::ValueValidation, error).exit()
        }
        Err(fault) => {
            eprintln!("error: {fault}");
            match fault {
                Fault::Start(_) => ExitCode::FAILURE,
                Fault::Run(_) => EXIT_CANNOT_GO_ON.into(),
            }
        }
    }
}

/// `EX_SOFTWARE` of sysexits.h.
const EXIT_CANNOT_GO_ON: u8 = 70;

/// Why the program ends without having been told to.
#[derive(Debug, Error)]
enum Fault {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Run(#[from] RunError),
}

fn run(config: &Config) -> Result<(), Fault> {
    let server = Server::start(config)?;
    stop_on_signals(server.stop_handle()).map_err(StartError::from)?;
    writeln!(io::stdout(), "{}", server.ready_line()).map_err(StartError::from)?;
    let totals = server.run()?;
    info!(
        connections = totals.accepted,
        by_worker = ?totals.accepted_by_worker,
        upgraded = totals.upgraded,
        messages = totals.messages,
        received_bytes = totals.received_bytes,
        late_wake_ups = totals.late_wake_ups,
        ended = ?totals.ended,
        "stopped"
    );
    Ok(())
}

/// Logs to stderr, so that stdout holds only what a script waits for.
fn start_log(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log =
        tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(level).with_ansi(color);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
