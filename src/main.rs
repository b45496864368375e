//! The program `ringecho`: reads the command line, runs a server, and returns an exit code. The
//! allocator, mimalloc, is set here.
//!
//! The exit code is 0 after a stop, 1 if the server could not start, 2 if the command line is
//! wrong, and 70 if the server could not go on.

use std::{io, iter::once, process::ExitCode, thread};

use clap::{CommandFactory, error::ErrorKind};
use ringecho::{
    config::{
        Change, LogFormat, LogLevel,
        command_line::{Arguments, Invocation, Refusal},
    },
    log::{LevelHandle, Log, write_line},
    metrics::Totals,
    server::{
        RunError, Server, StartError, StopHandle, directory_of,
        sandbox::Sandbox,
        signals::{OnHangup, Stopper},
        supervisor::Supervisor,
    },
};
use thiserror::Error;
use tracing::{error, info, warn};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why the program ends without having been stopped.
#[derive(Debug, Error)]
enum Failure {
    /// The server did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The server could not go on.
    #[error(transparent)]
    Run(#[from] RunError),
}

fn main() -> ExitCode {
    let arguments = match Invocation::from_process() {
        Ok(Invocation::Serve(arguments)) => *arguments,
        Ok(Invocation::Say(text)) => return say(&text),
        Err(refusal) => return refuse(&refusal),
    };
    let mut log = Log::start(arguments.logging.log_level, arguments.logging.log_format);
    let code = match run(&mut log, arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            log.fail(&failure.text(log.has_color()), &failure);
            failure.exit_code()
        }
    };
    log.finish();
    code
}

/// Prints what is wrong with the command line, or the help or version that it asks for.
fn refuse(refusal: &Refusal) -> ExitCode {
    if refusal.error.use_stderr() && refusal.log_format == LogFormat::Json {
        let log = Log::start(LogLevel::Off, LogFormat::Json);
        log.fail("", refusal);
        log.finish();
        return ExitCode::from(2);
    }
    refusal.error.exit()
}

/// Prints what the program was called to say.
fn say(text: &str) -> ExitCode {
    match write_line(io::stdout(), text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(log: &mut Log, arguments: Arguments) -> Result<(), Failure> {
    // What the sandbox holds for depends on this order (`server::sandbox`): no thread starts before it
    // begins. Signals and lines of the log wait until then.
    let is_reread = arguments.file.path.is_some() || arguments.config.tls.is_on();
    let signals = Stopper::register(is_reread)?;
    let mut supervisor = Supervisor::from_environment().map_err(StartError::from)?;
    let config = arguments.config.clone();
    let prepared = Server::prepare_on(&config, supervisor.take_sockets())?;
    let mut needs = prepared.needs();
    needs.local_sockets |= supervisor.is_there();
    if let Some(file) = &arguments.file.path {
        needs.readable.push(directory_of(file));
    }
    let sandbox = Sandbox::begin(&arguments.privileges, needs).map_err(StartError::from)?;
    log.write_in_background().map_err(StartError::Thread)?;
    let on_hangup = is_reread.then(|| reread(arguments, log.level_handle()));
    let stopper = signals.listen(on_hangup)?;
    let mut server = prepared.start()?;
    sandbox.finish().map_err(StartError::from)?;
    stopper.attach(server.stop_handle());
    let further_lines = server.further_ready_lines();
    print_ready_lines(once(server.ready_line()).chain(further_lines).collect())?;
    server.report_to(supervisor);
    let result = server.run();
    match &result {
        Ok(totals) => log_totals(totals),
        Err(RunError::WorkerLost { totals, .. }) => log_totals(totals),
    }
    result?;
    Ok(())
}

/// What SIGHUP does if there is a configuration file: reads it again, and has the log and the
/// server take over what may change. A file that is wrong changes nothing.
fn reread(mut arguments: Arguments, level: LevelHandle) -> OnHangup {
    Box::new(move |server: &StopHandle| {
        let read = Arguments::from_process();
        let read = read.and_then(|read| read.check(Arguments::command()).map(|()| read));
        let new = match read {
            Ok(new) => new,
            Err(refusal) => return error!("the configuration stays as it is: {refusal}"),
        };
        let changes = arguments.settings.changes(&new.settings);
        let (taken_over, left): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| change.is_taken_over);
        let text = |changes: Vec<Change>| {
            let texts: Vec<_> = changes.into_iter().map(|change| change.text).collect();
            texts.join("; ")
        };
        level.set(new.logging.log_level);
        if taken_over.is_empty() {
            info!("configuration read again: nothing changed");
        } else {
            info!("configuration read again: {}", text(taken_over));
        }
        if !left.is_empty() {
            warn!("only a restart changes these, which stay as they are: {}", text(left));
        }
        arguments.settings.take_over(&new.settings);
        server.configure(new.config);
    })
}

/// Logs what all workers have counted, whether the server was stopped or gave up.
fn log_totals(totals: &Totals) {
    info!(
        connections = totals.accepted,
        by_worker = ?totals.accepted_by_worker,
        tls_handshakes = totals.tls_handshakes,
        upgraded = totals.upgraded,
        messages = totals.messages,
        received_bytes = totals.received_bytes,
        late_wake_ups = totals.late_wake_ups,
        ended = ?totals.ended,
        refused = ?totals.refused,
        streams = totals.streams,
        streams_ended = ?totals.streams_ended,
        http2_errors = ?totals.http2_errors,
        "stopped"
    );
}

/// Prints on stdout that the server is ready, a line for each address at which it listens. A thread of
/// its own does that, since the server runs even if nobody reads stdout.
fn print_ready_lines(lines: Vec<String>) -> Result<(), StartError> {
    let print = move || {
        let text: String = lines.into_iter().map(|line| line + "\n").collect();
        if let Err(error) = write_line(io::stdout(), text.as_bytes()) {
            warn!(%error, "the ready line could not be written to stdout");
        }
    };
    thread::Builder::new()
        .name("ready-line".to_owned())
        .spawn(print)
        .map_err(StartError::Thread)?;
    Ok(())
}

impl Failure {
    /// The text for people, with colors or without.
    fn text(&self, has_color: bool) -> String {
        let Self::Start(StartError::Config(error)) = self else {
            return format!("error: {self}\n");
        };
        let usage = Arguments::command().error(ErrorKind::ValueValidation, error).render();
        if has_color { usage.ansi().to_string() } else { usage.to_string() }
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Start(StartError::Config(_)) => 2,
            Self::Start(_) => 1,
            // EX_SOFTWARE of sysexits.h.
            Self::Run(_) => 70,
        })
    }
}
