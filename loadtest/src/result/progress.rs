//! What a run shows of itself while it runs, on standard error, and only on a terminal: one line that
//! is rewritten in place, or the whole `Screen`.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use terminal_size::{Width, terminal_size_of};

use super::screen::Screen;
use crate::{
    count::timeline::Second,
    text::stderr::{clear_line, rewrite_line, say},
};

/// How often it is rewritten.
const INTERVAL: Duration = Duration::from_millis(500);

/// Progress, which disappears when this is dropped.
#[derive(Debug)]
pub struct Progress {
    view: View,
    last_shown: Option<Instant>,
}

#[derive(Debug)]
enum View {
    Nothing,
    Line,
    Screen(Box<Screen>),
}

impl Default for Progress {
    /// The line.
    fn default() -> Self {
        let view = if stderr().is_terminal() { View::Line } else { View::Nothing };
        Self { view, last_shown: None }
    }
}

impl Progress {
    /// The whole screen; the line, if the terminal cannot show that.
    pub fn full_screen() -> Self {
        let line = Self::default();
        match line.view {
            View::Line => Screen::enter().map_or(line, |screen| Self {
                view: View::Screen(Box::new(screen)),
                last_shown: None,
            }),
            _ => line,
        }
    }

    /// No progress, wherever standard error goes.
    pub(crate) fn nothing() -> Self {
        Self { view: View::Nothing, last_shown: None }
    }

    /// Shows what `line` says, if it is time to.
    pub(crate) fn show(&mut self, line: impl FnOnce(Duration) -> String) {
        self.show_with(&[], line);
    }

    /// Shows what `line` says and, if there is room, the seconds so far, if it is time to.
    pub(crate) fn show_with(&mut self, seconds: &[Second], line: impl FnOnce(Duration) -> String) {
        if matches!(self.view, View::Nothing) {
            return;
        }
        let now = Instant::now();
        let since_last = self.last_shown.map_or(INTERVAL, |last| now - last);
        if since_last >= INTERVAL {
            self.last_shown = Some(now);
            let line = line(since_last);
            // Progress that cannot be shown is no reason to stop.
            let _ = match &mut self.view {
                View::Nothing => Ok(()),
                View::Line => rewrite_line(fitting(&line)),
                View::Screen(screen) => screen.draw(&line, seconds),
            };
        }
    }

    /// Shows what will stay when the rest is gone, on a line of its own.
    pub(crate) fn note(&mut self, line: &str) {
        self.clear();
        if matches!(self.view, View::Line) {
            say(line);
        }
    }

    /// Removes it.
    pub(crate) fn clear(&mut self) {
        match &self.view {
            View::Line if self.last_shown.take().is_some() => {
                clear_line();
            }
            View::Screen(_) => self.view = View::Nothing,
            _ => {}
        }
    }
}

/// As much of a line as the terminal has room for: on a second one it could not be rewritten. The
/// last column stays free, because some terminals go on to the next line with it.
fn fitting(line: &str) -> &str {
    let width = terminal_size_of(stderr()).map_or(usize::MAX, |(Width(width), _)| width.into());
    let end = line.char_indices().nth(width.saturating_sub(1));
    end.map_or(line, |(end, _)| &line[..end])
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
