//! The progress line: one line on standard error, rewritten in place, and only on a terminal.

use std::{
    io::{IsTerminal, Write, stderr},
    time::{Duration, Instant},
};

/// How often the line is rewritten.
const INTERVAL: Duration = Duration::from_millis(500);

/// A progress line, which disappears when this is dropped.
#[derive(Debug)]
pub struct Progress {
    on_terminal: bool,
    last_shown: Option<Instant>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { on_terminal: stderr().is_terminal(), last_shown: None }
    }
}

impl Progress {
    /// Shows what `line` says, if it is time to.
    pub(crate) fn show(&mut self, line: impl FnOnce(Duration) -> String) {
        if !self.on_terminal {
            return;
        }
        let now = Instant::now();
        let since_last = self.last_shown.map_or(INTERVAL, |last| now - last);
        if since_last >= INTERVAL {
            self.last_shown = Some(now);
            // Progress that cannot be shown is no reason to stop.
            let _ = write!(stderr(), "\r{}\x1b[K", line(since_last));
        }
    }

    /// Removes the line.
    pub(crate) fn clear(&mut self) {
        if self.last_shown.take().is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
