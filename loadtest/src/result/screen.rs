//! The full-screen view of a run: what the progress line says, and rate, latency and errors of the
//! seconds so far. It is on standard error, in the terminal's alternate screen, takes no keys, and
//! the terminal is as it was whenever this is dropped or a thread panics.

use std::{
    env,
    io::{self, Stderr, stderr},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use ratatui::{
    Frame, Terminal, TerminalOptions, Viewport,
    backend::CrosstermBackend,
    crossterm::{
        cursor::{Hide, Show},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen},
    },
    layout::{Constraint, Layout, Rect},
    style::{Color, Style},
    symbols::Marker,
    text::Line,
    widgets::{Axis, Block, Chart, Dataset, GraphType},
};
use terminal_size::{Height, Width, terminal_size_of};

use crate::count::timeline::Second;

/// The newest seconds that are shown.
const SECONDS_MAX: usize = 120;

/// Whether there is a terminal to be restored.
static IN_USE: AtomicBool = AtomicBool::new(false);

/// The view, for as long as it is shown.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: Terminal<CrosstermBackend<Stderr>>,
    has_colors: bool,
}

impl Screen {
    /// Takes the terminal that standard error is.
    pub(crate) fn enter() -> io::Result<Self> {
        restore_before_panics();
        let options = TerminalOptions { viewport: Viewport::Fixed(area()?) };
        let terminal = Terminal::with_options(CrosstermBackend::new(stderr()), options)?;
        IN_USE.store(true, Relaxed);
        execute!(stderr(), EnterAlternateScreen, Hide)?;
        // https://no-color.org
        let has_colors = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Ok(Self { terminal, has_colors })
    }

    /// Shows `status` and the seconds so far.
    pub(crate) fn draw(&mut self, status: &str, seconds: &[Second]) -> io::Result<()> {
        let area = area()?;
        if self.terminal.get_frame().area() != area {
            self.terminal.resize(area)?;
        }
        let plots = plots(&seconds[seconds.len().saturating_sub(SECONDS_MAX)..]);
        let has_colors = self.has_colors;
        self.terminal.draw(|frame| draw(frame, status, &plots, has_colors))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if IN_USE.swap(false, Relaxed) {
        // A terminal that is gone need not be restored.
        let _ = execute!(stderr(), LeaveAlternateScreen, Show);
    }
}

/// What a panic says would be lost with the alternate screen.
fn restore_before_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            restore();
            previous(panic);
        }));
    });
}

fn area() -> io::Result<Rect> {
    let (Width(width), Height(height)) = terminal_size_of(stderr())
        .ok_or_else(|| io::Error::other("the size of the terminal is not known"))?;
    Ok(Rect::new(0, 0, width, height))
}

/// A plot: its name, and its lines.
struct Plot {
    title: &'static str,
    lines: Vec<PlotLine>,
}

/// A line: its name, and a point for each second that has a value.
struct PlotLine {
    name: &'static str,
    color: Color,
    points: Vec<(f64, f64)>,
}

#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
fn plots(seconds: &[Second]) -> [Plot; 3] {
    let line = |name, color, value: &dyn Fn(&Second) -> Option<f64>| {
        let point = |(at, second): (u32, &Second)| Some((f64::from(at), value(second)?));
        PlotLine { name, color, points: (0..).zip(seconds).filter_map(point).collect() }
    };
    let milliseconds = |us: f64| us / 1e3;
    [
        Plot {
            title: "messages/s",
            lines: vec![line("", Color::Blue, &|it| Some(it.exchanges as f64))],
        },
        Plot {
            title: "latency in ms",
            lines: vec![
                line("p50", Color::Green, &|it| Some(milliseconds(it.latency_us?.p50))),
                line("p99", Color::Yellow, &|it| Some(milliseconds(it.latency_us?.p99))),
                line("p99.9", Color::Magenta, &|it| Some(milliseconds(it.latency_us?.p99_9))),
            ],
        },
        Plot {
            title: "errors/s",
            lines: vec![line("", Color::Red, &|it| Some(it.errors.total as f64))],
        },
    ]
}

fn draw(frame: &mut Frame<'_>, status: &str, plots: &[Plot], has_colors: bool) {
    let [head, rate, latency, errors] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Fill(2),
        Constraint::Fill(3),
        Constraint::Fill(1),
    ])
    .areas(frame.area());
    frame.render_widget(Line::from(status), head);
    for (plot, area) in plots.iter().zip([rate, latency, errors]) {
        draw_plot(frame, plot, area, has_colors);
    }
}

fn draw_plot(frame: &mut Frame<'_>, plot: &Plot, area: Rect, has_colors: bool) {
    let points = || plot.lines.iter().flat_map(|line| &line.points);
    let most = points().map(|(_, y)| *y).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let last = points().map(|(x, _)| *x).fold(1.0, f64::max);
    let mut title = plot.title.to_owned();
    for PlotLine { name, points, .. } in &plot.lines {
        let newest = points.last().map_or_else(|| "-".to_owned(), |(_, y)| number(*y));
        title += &[" ", name, " ", &newest].concat();
    }
    let datasets = plot.lines.iter().map(|PlotLine { color, points, .. }| {
        let style = if has_colors { Style::new().fg(*color) } else { Style::new() };
        Dataset::default()
            .data(points)
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(style)
    });
    let labels = ["0".to_owned(), number(most)];
    let chart = Chart::new(datasets.collect())
        .block(Block::bordered().title(title))
        .x_axis(Axis::default().bounds([0.0, last]))
        .y_axis(Axis::default().bounds([0.0, most]).labels(labels));
    frame.render_widget(chart, area);
}

/// To three digits or so.
fn number(value: f64) -> String {
    if value >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::Read,
        process::{Command, Stdio},
        thread,
    };

    use nix::pty::{Winsize, openpty};
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::count::timeline::examples;

    /// Tells this test binary to be what the test is about.
    const PANICS: &str = "RINGECHO_TEST_PANICS_IN_VIEW";

    #[test]
    fn a_panic_of_any_thread_restores_the_terminal_before_it_is_reported() {
        if env::var_os(PANICS).is_some() {
            let _screen = Screen::enter().unwrap();
            let _ = thread::spawn(|| panic!("on purpose")).join();
            return;
        }
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let terminal = openpty(Some(&size), None).unwrap();
        let name = thread::current().name().unwrap().to_owned();
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env(PANICS, "")
            .stdout(Stdio::null())
            .stderr(terminal.slave)
            .spawn()
            .unwrap();
        let mut shown = Vec::new();
        // Reading a terminal that nobody has open any longer is an error.
        let _ = File::from(terminal.master).read_to_end(&mut shown);
        assert!(child.wait().unwrap().success());
        let shown = String::from_utf8(shown).unwrap();
        let (before, after) = shown.split_once("on purpose").unwrap();
        for [taken, restored] in [["\x1b[?1049h", "\x1b[?1049l"], ["\x1b[?25l", "\x1b[?25h"]] {
            let (_, since) = before.split_once(taken).unwrap();
            assert_eq!(since.matches(restored).count(), 1, "{shown:?}");
        }
        assert!(!after.contains('\x1b'), "{shown:?}");
    }

    #[test]
    fn every_plot_names_its_newest_values() {
        let mut terminal = Terminal::new(TestBackend::new(70, 24)).unwrap();
        let plots = plots(&examples::recording().seconds);
        terminal.draw(|frame| draw(frame, "measuring", &plots, false)).unwrap();
        let screen = terminal.backend().to_string();
        for text in ["measuring", "messages/s  1", "p50 0.04 p99 0.04 p99.9 0.04", "errors/s  0"] {
            assert!(screen.contains(text), "{text} is not in\n{screen}");
        }
        let cells = &terminal.backend().buffer().content;
        assert!(cells.iter().all(|cell| cell.fg == Color::Reset), "{screen}");
    }
}
