//! The log: lines on stderr. A thread of its own writes them, so that logging never waits for a
//! reader.
//!
//! Lines wait in a bounded queue. A line that finds no room there, or that cannot be written, is
//! lost; the number of lost lines is logged once the log can be written again. Logging never
//! panics, never blocks and never ends the process: if the reader is gone or stands still, if the
//! disk is full, or if the file exceeds the limit on its size, the program goes on without its log.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::VecDeque,
    env,
    fmt::Display,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    panic::{self, PanicHookInfo},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::write,
};
use signal_hook::consts::SIGXFSZ;
use tracing::{Dispatch, Metadata, dispatcher, error, field, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry, filter::filter_fn, layer::SubscriberExt, registry, reload,
};

use crate::config::{LogFormat, LogLevel};

/// The most bytes of lines that wait to be written.
const QUEUE_LEN_MAX: usize = 1 << 20;

/// How long the program waits at its end for a reader that stands still.
pub(crate) const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// The log of this process, on stderr.
pub struct Log {
    format: LogFormat,
    color: bool,
    queue: Arc<Queue>,
    has_writer: bool,
    level: LevelHandle,
}

/// Sets the least severe level that is logged, from any thread.
#[derive(Clone)]
pub struct LevelHandle(reload::Handle<LevelFilter, Registry>);

/// Lines that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    lines: VecDeque<Vec<u8>>,
    /// The bytes of all `lines`.
    len: usize,
    /// Whether a line that has left the queue is being written.
    is_writing: bool,
    /// The lines lost since the start, and how many of them the log has reported.
    lost: u64,
    lost_reported: u64,
    /// Nothing is put into the queue any more.
    is_over: bool,
}

impl Log {
    /// Logs events and panics of this process from now on. Their lines wait until
    /// [`Log::write_in_background`] or, at the latest, [`Log::finish`] writes them.
    pub fn start(level: LogLevel, format: LogFormat) -> Self {
        let color =
            io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
        let queue = Arc::new(Queue::default());
        let (filter, handle) = reload::Layer::new(level_filter(level));
        let level = LevelHandle(handle);
        let log = Self { format, color, queue, has_writer: false, level };
        // This fails only if the process has a log already, and `ringecho` has none.
        let _ = dispatcher::set_global_default(log.dispatch(filter));
        panic::set_hook(Box::new(log_panic));
        log
    }

    /// Starts the thread that writes the lines.
    pub fn write_in_background(&mut self) -> io::Result<()> {
        // With a handler for SIGXFSZ, a file beyond RLIMIT_FSIZE is a failed write instead of the
        // end of the process.
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        let queue = self.queue.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            loop {
                queue.wait_for_line();
                queue.write_lines(|line| write_line(io::stderr(), line), log_lost_lines);
            }
        })?;
        self.has_writer = true;
        Ok(())
    }

    /// Whether the lines have colors.
    pub fn has_color(&self) -> bool {
        self.color
    }

    /// Sets the level of the log, also once the log has been given away.
    pub fn level_handle(&self) -> LevelHandle {
        self.level.clone()
    }

    /// Logs why the program fails, whatever the level of the log: `text` in a log for people,
    /// `reason` in a log in JSON.
    pub fn fail(&self, text: &str, reason: &impl Display) {
        match self.format {
            LogFormat::Text => self.queue.push(text.as_bytes()),
            LogFormat::Json => {
                let dispatch = self.dispatch(LevelFilter::ERROR);
                dispatcher::with_default(&dispatch, || error!("{reason}"));
            }
        }
    }

    /// Waits until all lines are written, but at most a second if nobody reads them.
    pub fn finish(mut self) {
        // The lines are written from a thread even now, since a write may never return.
        if self.has_writer || self.write_in_background().is_ok() {
            self.queue.wait_until_written(FINISH_TIMEOUT);
        } else {
            self.queue.write_lines(write_line_if_there_is_room, log_lost_lines);
        }
    }

    /// Writes to the queue what the filter lets through.
    fn dispatch(&self, filter: impl Layer<Registry> + Send + Sync) -> Dispatch {
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(self.queue.clone())
            .with_ansi(self.color)
            // Errors of the formatter would be printed on stderr, which may block or panic.
            .log_internal_errors(false);
        let filtered = registry().with(filter).with(filter_fn(is_own));
        match self.format {
            LogFormat::Text => filtered.with(lines).into(),
            LogFormat::Json => filtered.with(lines.json()).into(),
        }
    }
}

impl LevelHandle {
    /// Logs what is at least as severe as this from now on.
    pub fn set(&self, level: LogLevel) {
        // This fails only if the log is gone, and it lives as long as the process.
        let _ = self.0.reload(level_filter(level));
    }
}

/// Whether the event is the program's own. The crate `h2` warns of what peers do, who must not write the
/// log, and tells of each frame.
fn is_own(event: &Metadata<'_>) -> bool {
    event.target().split("::").next() != Some("h2")
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Logs a panic, in place of Rust's own hook, which would wait for a reader of stderr.
fn log_panic(panic: &PanicHookInfo) {
    let thread = thread::current();
    let backtrace = Backtrace::capture();
    let is_captured = backtrace.status() == BacktraceStatus::Captured;
    error!(
        thread = thread.name(),
        location = panic.location().map(field::display),
        backtrace = is_captured.then(|| field::display(backtrace)),
        "panicked: {}",
        panic.payload_as_str().unwrap_or("no message")
    );
}

fn log_lost_lines(lost: u64) {
    error!(lost, "lines of the log were lost: stderr was not read, or could not be written to");
}

impl Queue {
    pub(crate) fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.len + line.len() > QUEUE_LEN_MAX {
            state.lost += 1;
            return;
        }
        state.len += line.len();
        state.lines.push_back(line.to_vec());
        self.changed.notify_all();
    }

    /// Takes the next line; it counts as being written until the next call.
    fn pop(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let line = state.lines.pop_front();
        state.len -= line.as_ref().map_or(0, Vec::len);
        state.is_writing = line.is_some();
        self.changed.notify_all();
        line
    }

    /// Writes the lines of the queue, then has it reported how many lines were lost.
    pub(crate) fn write_lines(
        &self,
        mut write: impl FnMut(&[u8]) -> nix::Result<()>,
        report: impl Fn(u64),
    ) {
        while let Some(line) = self.pop() {
            match write(&line) {
                Ok(()) => self.report_lost_lines(&report),
                Err(_) => self.lock().lost += 1,
            }
        }
    }

    fn report_lost_lines(&self, report: impl Fn(u64)) {
        let mut state = self.lock();
        if state.lost == state.lost_reported || !state.lines.is_empty() {
            return;
        }
        let lost = state.lost;
        state.lost_reported = lost;
        // The report may be a line too, and takes the lock.
        drop(state);
        report(lost);
    }

    /// Waits for a line, or for the end of the queue; returns whether there is a line.
    pub(crate) fn wait_for_line(&self) -> bool {
        let state = self.lock();
        let is_idle = |state: &mut QueueState| state.lines.is_empty() && !state.is_over;
        let state = self.changed.wait_while(state, is_idle);
        !state.unwrap_or_else(PoisonError::into_inner).lines.is_empty()
    }

    /// Ends the queue, when nothing is put into it any more.
    pub(crate) fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    /// The lines that have been lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lock().lost
    }

    pub(crate) fn wait_until_written(&self, timeout: Duration) {
        let state = self.lock();
        let is_busy = |state: &mut QueueState| state.is_writing || !state.lines.is_empty();
        drop(self.changed.wait_timeout_while(state, timeout, is_busy));
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each call has a whole line, since the formatter writes whole lines.
impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a whole line, however long that takes. Rust's own streams are not used: others would wait
/// for their locks, and they report success if the descriptor is not open for writing.
pub fn write_line(stream: impl AsFd, mut line: &[u8]) -> nix::Result<()> {
    let stream = stream.as_fd();
    while !line.is_empty() {
        match write(stream, line) {
            Ok(written) => line = &line[written..],
            Err(Errno::EINTR) => {}
            // Another program that shares the terminal or pipe has made it nonblocking.
            Err(Errno::EAGAIN) => {
                poll(&mut [PollFd::new(stream, PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Writes a line from a process that can start no thread, if stderr takes it within a second. Such a
/// stream takes at least a page, which is more than the line of a failure.
fn write_line_if_there_is_room(line: &[u8]) -> nix::Result<()> {
    let stderr = io::stderr();
    let timeout = PollTimeout::try_from(FINISH_TIMEOUT).unwrap_or(PollTimeout::ZERO);
    match poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], timeout)? {
        0 => Err(Errno::ETIMEDOUT),
        _ => write_line(stderr, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Log {
        let queue = Arc::new(Queue::default());
        let level = LevelHandle(reload::Layer::new(LevelFilter::ERROR).1);
        Log { format: LogFormat::Text, color: false, queue, has_writer: false, level }
    }

    /// The lines that are written from the log's queue; every write fails unless `can_write`.
    fn written(log: &Log, can_write: bool) -> Vec<String> {
        let mut written = Vec::new();
        dispatcher::with_default(&log.dispatch(LevelFilter::ERROR), || {
            let write = |line: &[u8]| {
                if !can_write {
                    return Err(Errno::ENOSPC);
                }
                written.push(String::from_utf8(line.to_vec()).unwrap());
                Ok(())
            };
            log.queue.write_lines(write, log_lost_lines);
        });
        written
    }

    #[test]
    fn lost_lines_are_counted_once_when_the_log_can_be_written_again() {
        let log = log();
        for line in [&b"first\n"[..], b"second\n"] {
            log.queue.push(line);
        }
        assert!(written(&log, false).is_empty());
        log.queue.push(b"third\n");
        let said = written(&log, true);
        assert_eq!((said.len(), &*said[0]), (2, "third\n"));
        assert!(said[1].contains("lines of the log were lost") && said[1].contains("lost=2"));
        log.queue.push(b"fourth\n");
        assert_eq!(written(&log, true), ["fourth\n"]);
    }

    #[test]
    fn lines_of_the_crate_h2_are_left_out() {
        let log = log();
        dispatcher::with_default(&log.dispatch(LevelFilter::WARN), || {
            tracing::warn!(target: "h2::proto::ping_pong", "of a peer's frame");
            tracing::warn!(target: "h2", "of a peer's frame");
            tracing::warn!(target: "ringecho::http2", "our own");
        });
        let said = written(&log, true);
        assert!(said.len() == 1 && said[0].contains("our own"), "{said:?}");
    }

    #[test]
    fn queue_takes_no_more_than_its_bound() {
        let log = log();
        let line = vec![b'.'; QUEUE_LEN_MAX / 4];
        for _ in 0..6 {
            log.queue.push(&line);
        }
        assert_eq!(log.queue.lock().len, QUEUE_LEN_MAX);
        let said = written(&log, true);
        assert_eq!(said.len(), 5);
        assert!(said[4].contains("lost=2"), "{}", said[4]);
        assert_eq!(log.queue.lock().len, 0);
    }
}
