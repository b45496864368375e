//! Signals: those that stop a server; SIGHUP, which may have the configuration read again instead;
//! and SIGCHLD, by which PID 1 of a container learns of ended orphans.

use std::{
    process, ptr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use signal_hook::{
    consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use tracing::info;

use crate::{
    host::descriptors::SystemCallError,
    server::{StartError, StopHandle},
};

/// A signal that comes this soon after the first one is a copy of it: a terminal sends Ctrl-C to
/// all foreground processes, and a wrapper among them passes it on.
const RELAYED_WITHIN: Duration = Duration::from_millis(100);

/// Stops a server on SIGINT and SIGTERM, and on SIGHUP if that has no other meaning; a second
/// signal ends the process at once.
pub struct Stopper(Arc<Mutex<Target>>);

/// What SIGHUP does instead of stopping the server. It is called on the thread that hears signals.
pub type OnHangup = Box<dyn FnMut(&StopHandle) + Send>;

/// What the first signal stops.
enum Target {
    /// A server that is being started, and whether a signal to stop has come. Its configuration has
    /// just been read, so that it is not read again.
    Starting {
        is_unwanted: bool,
    },
    Running(StopHandle),
}

/// Signals that are kept until a thread listens for them.
pub struct Registered(Signals);

impl Registered {
    /// Starts the thread that hears the signals, also those that have come already. Without
    /// `on_hangup`, SIGHUP stops the server too.
    pub fn listen(self, on_hangup: Option<OnHangup>) -> Result<Stopper, StartError> {
        let target = Arc::new(Mutex::new(Target::Starting { is_unwanted: false }));
        listen_for_signals(self.0, target.clone(), on_hangup)?;
        Ok(Stopper(target))
    }
}

impl Stopper {
    /// Keeps signals from now on, so that a server has no moment in which it serves and a signal would
    /// end the process. As PID 1 the process also collects orphans, whose entries would otherwise fill
    /// the process table. SIGHUP is heard even where it is ignored, if it `rereads` the configuration.
    pub fn register(rereads: bool) -> Result<Registered, StartError> {
        let signals =
            Signals::new([SIGINT, SIGTERM]).map_err(SystemCallError::naming("sigaction"))?;
        // nohup has a program ignore SIGHUP, so that it outlives its terminal.
        if rereads || !is_ignored(SIGHUP) {
            signals.add_signal(SIGHUP).map_err(SystemCallError::naming("sigaction"))?;
        }
        if process::id() == 1 {
            signals.add_signal(SIGCHLD).map_err(SystemCallError::naming("sigaction"))?;
            collect_orphans();
        }
        Ok(Registered(signals))
    }

    /// Has the signals stop this server, also one that has come already.
    pub fn attach(&self, server: StopHandle) {
        let mut target = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Target::Starting { is_unwanted: true } = *target {
            server.stop();
        }
        *target = Target::Running(server);
    }
}

impl Target {
    fn stop(&mut self) {
        match self {
            Self::Starting { is_unwanted } => *is_unwanted = true,
            Self::Running(server) => server.stop(),
        }
    }
}

fn listen_for_signals(
    mut signals: Signals,
    target: Arc<Mutex<Target>>,
    mut on_hangup: Option<OnHangup>,
) -> Result<(), StartError> {
    let mut stop_signals = StopSignals::default();
    let listen = move || {
        for signal in signals.forever() {
            match (signal, &mut on_hangup) {
                (SIGCHLD, _) => collect_orphans(),
                (SIGHUP, Some(on_hangup)) => {
                    let target = target.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Target::Running(server) = &*target {
                        on_hangup(server);
                    }
                }
                _ => match stop_signals.interpret(Instant::now()) {
                    Meaning::Stop => {
                        info!("stopping; a second signal ends the process at once");
                        target.lock().unwrap_or_else(PoisonError::into_inner).stop();
                    }
                    Meaning::Relayed => {}
                    // Shells report a process that a signal ended by this exit code.
                    Meaning::EndAtOnce => process::exit(128 + signal),
                },
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(StartError::Thread)?;
    Ok(())
}

/// The signals to stop that have come so far.
#[derive(Default)]
struct StopSignals {
    /// When the first signal came.
    first: Option<Instant>,
}

/// What a signal to stop asks for.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Stop,
    /// The signal is a copy of the first one.
    Relayed,
    EndAtOnce,
}

impl StopSignals {
    fn interpret(&mut self, now: Instant) -> Meaning {
        match self.first {
            None => {
                self.first = Some(now);
                Meaning::Stop
            }
            Some(first) if now < first + RELAYED_WITHIN => Meaning::Relayed,
            Some(_) => Meaning::EndAtOnce,
        }
    }
}

/// Whether this process was started with a signal ignored.
#[expect(unsafe_code, reason = "nix tells a signal's action only while it sets another")]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: zeroes are a valid sigaction, which the kernel overwrites; no action is set.
    let (result, action) = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(signal, ptr::null(), &raw mut action), action)
    };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Collects all children that have ended. A server starts none itself: its children are orphans
/// that the kernel gives to PID 1.
fn collect_orphans() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG))
        && status != WaitStatus::StillAlive
    {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{Server, tests::config};

    #[test]
    fn signal_that_comes_while_a_server_starts_stops_it() {
        let stopper = Stopper(Arc::new(Mutex::new(Target::Starting { is_unwanted: false })));
        stopper.0.lock().unwrap().stop();
        let server = Server::start(&config()).unwrap();
        stopper.attach(server.stop_handle());
        assert_eq!(server.run().unwrap().accepted, 0);
    }

    #[test]
    fn signals_that_come_together_are_one_and_a_later_one_ends_the_process() {
        let mut stop_signals = StopSignals::default();
        let first = Instant::now();
        assert_eq!(stop_signals.interpret(first), Meaning::Stop);
        assert_eq!(stop_signals.interpret(first), Meaning::Relayed);
        assert_eq!(stop_signals.interpret(first + RELAYED_WITHIN / 2), Meaning::Relayed);
        assert_eq!(stop_signals.interpret(first + RELAYED_WITHIN), Meaning::EndAtOnce);
    }
}
