//! Everything that the program writes to standard error, but for the full screen: lines that stay, and
//! the line of progress, which is rewritten in place. That one of them cannot be written (the disk is
//! full, its reader has gone or stands still) changes nothing about the result.

use std::{
    fmt::Display,
    io::{self, Write},
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use nix::poll::{PollFd, PollFlags, poll};

/// How long a reader of standard error is waited for, in milliseconds.
const READER_TIMEOUT_MS: u16 = 1000;

/// Writes a line that stays. After a reader that stands still has been waited for once, nothing more
/// is said.
pub fn say(line: impl Display) {
    static STANDS_STILL: AtomicBool = AtomicBool::new(false);
    let stderr = io::stderr();
    let is_writable = !STANDS_STILL.load(Relaxed)
        && poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], READER_TIMEOUT_MS) != Ok(0);
    if is_writable {
        let _ = writeln!(&stderr, "{line}");
    } else {
        STANDS_STILL.store(true, Relaxed);
    }
}

/// Writes a line for each warning.
pub fn warn(warnings: &[impl Display]) {
    for warning in warnings {
        say(format_args!("warning: {warning}"));
    }
}

/// Writes the line of progress over the one before.
pub(crate) fn rewrite_line(line: &str) -> io::Result<()> {
    write!(io::stderr(), "\r{line}\x1b[K")
}

/// Removes the line of progress.
pub(crate) fn clear_line() {
    let _ = rewrite_line("");
}
