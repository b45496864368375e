//! The full-screen view, on a pseudoterminal: what it shows, and that the terminal is as it was
//! afterwards. Blanks are jumped over, not shown, so texts are looked for as single words.

use std::{
    fs::File,
    io::Read,
    process::{ExitStatus, Stdio},
};

use nix::{
    pty::{Winsize, openpty},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{invocation::program, servers::Server};

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const SHOW_CURSOR: &str = "\x1b[?25h";
/// What every colour begins with.
const FOREGROUND: &str = "\x1b[38;5;";

/// Runs the program on a terminal of its own, ends it by a Ctrl-C once it shows `until`, and returns
/// all that it showed.
fn run_on_terminal(arguments: &str, no_color: &str, until: Option<&str>) -> (ExitStatus, String) {
    let server = Server::honest();
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(Some(&size), None).unwrap();
    let mut child = program(&format!("{} -c 2 --full-screen {arguments}", server.url()))
        .env("NO_COLOR", no_color)
        .stdout(Stdio::null())
        .stderr(terminal.slave)
        .spawn()
        .unwrap();
    let mut shown = Vec::new();
    let mut until = until;
    let mut terminal = File::from(terminal.master);
    let mut chunk = [0; 4096];
    // Reading a terminal that nobody has open any longer is an error.
    while let Ok(len) = terminal.read(&mut chunk) {
        shown.extend_from_slice(&chunk[..len]);
        if until.is_some_and(|text| String::from_utf8_lossy(&shown).contains(text)) {
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
            until = None;
        }
    }
    (child.wait().unwrap(), String::from_utf8(shown).unwrap())
}

#[track_caller]
fn assert_restored(shown: &str) {
    assert_eq!((shown.matches(ENTER).count(), shown.matches(LEAVE).count()), (1, 1), "{shown:?}");
    let (_, after) = shown.rsplit_once(LEAVE).unwrap();
    assert!(after.contains(SHOW_CURSOR), "{shown:?}");
    assert!(!after.contains("errors/s"), "{shown:?}");
}

#[test]
fn a_run_shows_its_plots_and_restores_the_terminal() {
    let (status, shown) = run_on_terminal("--warmup 0s --duration 2500ms", "", None);
    assert!(status.success(), "{shown:?}");
    for text in ["messages/s", "latency", "errors/s", FOREGROUND] {
        assert!(shown.contains(text), "{text:?} is not in {shown:?}");
    }
    assert_restored(&shown);
}

#[test]
fn an_interrupted_run_restores_the_terminal_and_shows_no_colors_if_none_are_wanted() {
    let (_, shown) = run_on_terminal("--warmup 0s --duration 1h", "1", Some("errors/s"));
    assert!(!shown.contains(FOREGROUND), "{shown:?}");
    assert_restored(&shown);
}

#[test]
fn without_a_terminal_there_is_no_view() {
    let server = Server::honest();
    let arguments = "-c 1 --full-screen --warmup 0s --duration 100ms";
    let output = program(&format!("{} {arguments}", server.url())).output().unwrap();
    assert!(!String::from_utf8(output.stderr).unwrap().contains('\x1b'));
}
