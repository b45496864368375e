//! Servers as processes: started on their CPUs, ended by their pids whatever happens.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ringecho_loadtest::count::process_usage;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::server::Server;

/// How long a server may take until it accepts connections.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// How long a server may take to end before it is killed.
const END_WITHIN: Duration = Duration::from_secs(2);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A server that runs. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct RunningServer {
    child: Child,
    port: u16,
    /// Bytes that were in memory before its first connection; `None` until then, or if that could
    /// not be read.
    resident_at_start: Option<u64>,
}

impl RunningServer {
    /// Starts a server, and waits until it accepts connections.
    pub(crate) fn start(server: &Server) -> anyhow::Result<Self> {
        let port = free_port().context("there is no free port")?;
        let words = server.command_for(port);
        let [program, arguments @ ..] = &words[..] else { bail!("its command is empty") };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        // Of a group of its own, a Ctrl-C at the terminal does not reach it.
        command.process_group(0);
        let child = on_cpus(&server.cpus, || command.spawn())?
            .with_context(|| format!("cannot run {program}"))?;
        let mut running = Self { child, port, resident_at_start: None };
        running.wait_until_ready()?;
        Ok(running)
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let deadline = Instant::now() + READY_WITHIN;
        while TcpStream::connect(address).is_err() {
            if let Some(end) = self.end() {
                bail!("it ended before it listened on port {}: {end}", self.port);
            }
            if Instant::now() > deadline {
                bail!("nobody listened on port {} within {READY_WITHIN:?}", self.port);
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Reads what is in memory now, where it has had no connections yet.
    pub(crate) fn read_resident_at_start(&mut self) {
        self.resident_at_start = process_usage::resident(self.pid()).ok();
    }

    /// Bytes that were in memory then; `None` if that could not be read.
    pub(crate) fn resident_at_start(&self) -> Option<u64> {
        self.resident_at_start
    }

    /// How it ended, if it has.
    pub(crate) fn end(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        // Until it has been waited for, its pid is nobody else's.
        if self.end().is_some() {
            return;
        }
        let _ = kill(Pid::from_raw(self.pid().cast_signed()), Signal::SIGTERM);
        let deadline = Instant::now() + END_WITHIN;
        while self.end().is_none() && Instant::now() < deadline {
            thread::sleep(POLL_INTERVAL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of 127.0.0.1 on which nobody listens.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Does something on these CPUs, such as starting a process, which inherits them.
fn on_cpus<T>(cpus: &[usize], action: impl FnOnce() -> T) -> anyhow::Result<T> {
    let this_thread = Pid::from_raw(0);
    let before = sched_getaffinity(this_thread)?;
    let mut wanted = CpuSet::new();
    for cpu in cpus {
        wanted.set(*cpu)?;
    }
    sched_setaffinity(this_thread, &wanted).context("cannot choose the server's CPUs")?;
    let outcome = action();
    sched_setaffinity(this_thread, &before)?;
    Ok(outcome)
}

/// Whether somebody wants the comparison to end, and which process is to be told first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<Mutex<Interruption>>);

#[derive(Debug, Default)]
struct Interruption {
    is_requested: bool,
    /// The generator that runs.
    generator: Option<Pid>,
}

impl Interrupt {
    /// From here on Ctrl-C, SIGTERM and SIGHUP end the running generator early, which then ends the
    /// comparison in order.
    pub(crate) fn catch() -> io::Result<Self> {
        let interrupt = Self::default();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let requested = interrupt.clone();
        thread::spawn(move || {
            for _ in signals.forever() {
                requested.request();
            }
        });
        Ok(interrupt)
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.lock().is_requested
    }

    /// Waits for a generator, which a signal ends early: one that comes now, or came while the
    /// generator was being started. Each is passed on once, for a second one ends it at once.
    pub(crate) fn wait<T>(&self, generator: u32, wait: impl FnOnce() -> T) -> T {
        let mut state = self.lock();
        state.generator = Some(Pid::from_raw(generator.cast_signed()));
        if state.is_requested {
            state.tell_generator();
        }
        drop(state);
        let outcome = wait();
        self.lock().generator = None;
        outcome
    }

    fn request(&self) {
        let mut state = self.lock();
        state.is_requested = true;
        state.tell_generator();
    }

    fn lock(&self) -> MutexGuard<'_, Interruption> {
        self.0.lock().expect("nobody panics who holds it")
    }
}

impl Interruption {
    fn tell_generator(&self) {
        if let Some(generator) = self.generator {
            let _ = kill(generator, Signal::SIGINT);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn generator_is_told_of_a_signal_that_came_before_it_was_known() {
        // A signal that is caught here is not ignored by a child, whoever started the test.
        let interrupt = Interrupt::catch().unwrap();
        let mut child = Command::new("sleep").arg("10").spawn().unwrap();
        interrupt.request();
        let end = interrupt.wait(child.id(), || child.wait()).unwrap();
        assert_eq!(end.signal(), Some(SIGINT));
    }
}
