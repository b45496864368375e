//! The plots of a report, as SVG. Lines have no names in them: the page has a legend, and colours
//! that suit its background, in [`css`].

use std::{fmt::Write, ops::Range, time::Duration};

use plotters::{
    backend::SVGBackend,
    chart::ChartBuilder,
    coord::{
        combinators::{BindKeyPoints, IntoLogRange},
        ranged1d::{AsRangedCoord, ValueFormatter},
    },
    drawing::{DrawingAreaErrorKind, IntoDrawingArea},
    element::Circle,
    series::LineSeries,
    style::{Color, IntoFont, RGBColor},
};

use super::named_histograms;
use crate::{
    count::{
        latency::Latencies,
        latency_report::LatencyReport,
        timeline::{Recording, Second},
    },
    plan::Exchange,
};

pub(super) type Error = DrawingAreaErrorKind<std::io::Error>;

const SIZE: (u32, u32) = (860, 280);
/// Room for the labels of the axes.
const LABELS: (u32, u32) = (34, 76);
const LABEL_SIZE: i32 = 17;
/// With more points than this, lines do without circles.
const CIRCLES_MAX: usize = 60;
/// Steps for each halving of the distance to 100 %.
const TICKS_PER_HALF_DISTANCE: u32 = 10;

/// A colour, and what it is on a dark background.
pub(super) struct Ink {
    light: RGBColor,
    dark: RGBColor,
}

const fn ink(light: (u8, u8, u8), dark: (u8, u8, u8)) -> Ink {
    Ink { light: RGBColor(light.0, light.1, light.2), dark: RGBColor(dark.0, dark.1, dark.2) }
}

const TEXT: Ink = ink((73, 80, 87), (173, 181, 189));
const RULE: Ink = ink((222, 226, 230), (52, 58, 64));
pub(super) const BLUE: Ink = ink((0, 92, 175), (88, 166, 255));
pub(super) const ORANGE: Ink = ink((213, 94, 0), (255, 158, 74));
pub(super) const GREEN: Ink = ink((0, 130, 100), (63, 201, 160));
pub(super) const RED: Ink = ink((200, 30, 45), (255, 110, 110));

impl Ink {
    pub(super) fn css(&self) -> String {
        hexadecimal(self.light)
    }
}

/// As the SVG backend writes it.
fn hexadecimal(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

/// Rules that exchange the colours for those of a dark background, also in the legends.
pub(super) fn dark_css() -> String {
    let mut css = String::new();
    for ink in [&TEXT, &RULE, &BLUE, &ORANGE, &GREEN, &RED] {
        let (light, dark) = (hexadecimal(ink.light), hexadecimal(ink.dark));
        write!(css, "svg [fill='{light}']{{fill:{dark}}}svg [stroke='{light}']{{stroke:{dark}}}")
            .expect("a String takes everything");
    }
    css
}

/// What is drawn in one colour.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) ink: &'static Ink,
    points: Vec<(f64, f64)>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Line,
    Circles,
}

/// A plot, its title and its lines.
pub(super) struct Plot {
    pub(super) title: &'static str,
    pub(super) lines: Vec<Line>,
    pub(super) svg: String,
}

/// All plots for which there is anything to show.
pub(super) fn plots(recording: &Recording, exchange: Exchange) -> Result<Vec<Plot>, Error> {
    let [latency, handshake, lag] = match exchange {
        Exchange::Message => ["Latency of each second", "", "Send lag of each second"],
        Exchange::Cycle => [
            "Cycle latency of each second",
            "Handshake latency of each second",
            "Begin lag of each second",
        ],
    };
    let plots = [
        percentiles(recording, exchange)?,
        rate(recording, exchange)?,
        times(recording, latency, |second| second.latency_us.as_ref())?,
        times(recording, handshake, |second| second.handshake_us.as_ref())?,
        times(recording, lag, |second| second.lag_us.as_ref())?,
    ];
    Ok(plots.into_iter().flatten().collect())
}

fn percentiles(recording: &Recording, exchange: Exchange) -> Result<Option<Plot>, Error> {
    let lines = [&BLUE, &ORANGE, &GREEN]
        .into_iter()
        .zip(named_histograms(recording, exchange))
        .map(|(ink, (name, latencies))| (name, ink, latencies));
    let lines: Vec<Line> = lines
        .filter(|(.., latencies)| latencies.samples() > 0)
        .map(|(name, ink, latencies)| Line {
            name,
            ink,
            points: distribution(latencies),
            kind: Kind::Line,
        })
        .collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let last = extent(&lines, |(x, _)| x).end.max(10.0);
    let decades = (1..=last.log10() as i32).map(|decade| 10_f64.powi(decade));
    let ticks: Vec<f64> = [1.0, 2.0].into_iter().chain(decades).collect();
    let x = (1.0..last).log_scale().with_key_points(ticks);
    let svg = chart(&lines, x, logarithmic(&lines), percentile, duration)?;
    Ok(Some(Plot { title: "Latency by percentile", lines, svg }))
}

/// Latencies over `1 / (1 - quantile)`, which is what a logarithmic axis of percentiles needs.
#[expect(clippy::cast_precision_loss, reason = "counts and latencies are below 2^52")]
fn distribution(latencies: &Latencies) -> Vec<(f64, f64)> {
    let samples = latencies.samples() as f64;
    latencies
        .nanoseconds()
        .iter_quantiles(TICKS_PER_HALF_DISTANCE)
        .map(|step| {
            let x = (1.0 / (1.0 - step.quantile_iterated_to())).min(samples);
            (x, step.value_iterated_to() as f64 / 1e3)
        })
        .collect()
}

fn rate(recording: &Recording, exchange: Exchange) -> Result<Option<Plot>, Error> {
    let (title, name) = match exchange {
        Exchange::Message => ("Messages per second", "messages/s"),
        Exchange::Cycle => ("Cycles per second", "cycles/s"),
    };
    let rates = over_time(recording, |second, length| Some(second.exchanges_per_second(length)));
    let errors = over_time(recording, |second, _| (second.errors.total > 0).then_some(0.0));
    let mut lines = vec![Line { name, ink: &BLUE, points: rates, kind: Kind::Line }];
    if !errors.is_empty() {
        let name = "seconds with errors";
        lines.push(Line { name, ink: &RED, points: errors, kind: Kind::Circles });
    }
    if lines[0].points.is_empty() {
        return Ok(None);
    }
    let most = extent(&lines, |(_, y)| y).end.max(1.0);
    let svg = chart(&lines, time(recording), 0.0..most * 1.05, seconds, short)?;
    Ok(Some(Plot { title, lines, svg }))
}

type Percentile = fn(&LatencyReport) -> f64;

fn times(
    recording: &Recording,
    title: &'static str,
    of: impl Fn(&Second) -> Option<&LatencyReport>,
) -> Result<Option<Plot>, Error> {
    let values: [(&str, &Ink, Percentile); 3] = [
        ("p50", &GREEN, |it| it.p50),
        ("p99", &BLUE, |it| it.p99),
        ("longest", &ORANGE, |it| it.max),
    ];
    let lines: Vec<Line> = values
        .into_iter()
        .map(|(name, ink, value)| Line {
            name,
            ink,
            points: over_time(recording, |second, _| of(second).map(value)),
            kind: Kind::Line,
        })
        .collect();
    if lines[0].points.is_empty() {
        return Ok(None);
    }
    let svg = chart(&lines, time(recording), logarithmic(&lines), seconds, duration)?;
    Ok(Some(Plot { title, lines, svg }))
}

/// A point in the middle of each second that has a value, over seconds since the window began.
fn over_time(
    recording: &Recording,
    value: impl Fn(&Second, Duration) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let point = |(start, length, second): (Duration, Duration, &Second)| {
        Some(((start + length / 2).as_secs_f64(), value(second, length)?))
    };
    recording.timed_seconds().filter_map(point).collect()
}

fn time(recording: &Recording) -> Range<f64> {
    0.0..recording.measured.as_secs_f64().max(0.01)
}

/// From the decade below the least value to the one above the most.
fn logarithmic(
    lines: &[Line],
) -> impl AsRangedCoord<Value = f64, CoordDescType: ValueFormatter<f64>> {
    let Range { start, end } = extent(lines, |(_, y)| y);
    let start = 10_f64.powf(start.max(0.001).log10().floor());
    let end = 10_f64.powf(end.log10().ceil());
    (start..end.max(start * 10.0)).log_scale()
}

/// From the least to the most that the lines have in one direction.
fn extent(lines: &[Line], direction: impl Fn((f64, f64)) -> f64) -> Range<f64> {
    let values = lines.iter().flat_map(|line| &line.points).map(|point| direction(*point));
    let empty = f64::INFINITY..f64::NEG_INFINITY;
    values.fold(empty, |range, value| range.start.min(value)..range.end.max(value))
}

fn chart<X, Y>(
    lines: &[Line],
    x: X,
    y: Y,
    x_label: fn(f64) -> String,
    y_label: fn(f64) -> String,
) -> Result<String, Error>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .x_label_area_size(LABELS.0)
        .y_label_area_size(LABELS.1)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .x_label_formatter(&|value| x_label(*value))
        .y_label_formatter(&|value| y_label(*value))
        .axis_style(TEXT.light)
        .bold_line_style(RULE.light)
        .light_line_style(RULE.light.mix(0.0))
        .label_style(("sans-serif", LABEL_SIZE).into_font().color(&TEXT.light))
        .draw()?;
    for line in lines {
        let color = line.ink.light;
        if line.kind == Kind::Line {
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), color.stroke_width(2)))?;
        }
        if line.kind == Kind::Circles || line.points.len() <= CIRCLES_MAX {
            let circle = |point: &(f64, f64)| Circle::new(*point, 3, color.filled());
            chart.draw_series(line.points.iter().map(circle))?;
        }
    }
    area.present()?;
    drop(chart);
    drop(area);
    Ok(svg)
}

/// `99.9 %` of `1000.0`, which is `1 / (1 - 0.999)`.
fn percentile(inverse: f64) -> String {
    let percent = format!("{:.6}", 100.0 - 100.0 / inverse);
    format!("{} %", percent.trim_end_matches('0').trim_end_matches('.'))
}

/// Microseconds, in the unit in which they are short.
fn duration(microseconds: f64) -> String {
    match microseconds {
        us @ 1e6.. => format!("{} s", us / 1e6),
        us @ 1e3.. => format!("{} ms", us / 1e3),
        us => format!("{us} us"),
    }
}

fn seconds(seconds: f64) -> String {
    format!("{seconds} s")
}

/// A number in as few digits as it needs: `250k`, `1.2M`.
fn short(number: f64) -> String {
    match number {
        1e6.. => format!("{}M", number / 1e6),
        1e4.. => format!("{}k", number / 1e3),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::timeline::examples;

    #[test]
    fn each_plot_shows_what_there_is() {
        let plots = plots(&examples::recording(), Exchange::Message).unwrap();
        let shown: Vec<(&str, Vec<&str>)> = plots
            .iter()
            .map(|plot| (plot.title, plot.lines.iter().map(|line| line.name).collect()))
            .collect();
        assert_eq!(
            shown,
            [
                ("Latency by percentile", vec!["latency"]),
                ("Messages per second", vec!["messages/s", "seconds with errors"]),
                ("Latency of each second", vec!["p50", "p99", "longest"]),
            ]
        );
        for plot in &plots {
            assert!(plot.svg.contains("<polyline"), "{}", plot.svg);
            assert!(plot.svg.trim_end().ends_with("</svg>"), "{}", plot.svg);
            assert!(!plot.svg.contains("NaN") && !plot.svg.contains("inf"), "{}", plot.svg);
        }
        assert!(plots[1].svg.contains(&format!("fill=\"{}\"", RED.css())), "{}", plots[1].svg);
    }

    #[test]
    fn labels_are_short() {
        for (inverse, text) in [(1.0, "0 %"), (2.0, "50 %"), (1000.0, "99.9 %"), (1e6, "99.9999 %")]
        {
            assert_eq!(percentile(inverse), text);
        }
        for (us, text) in [(10.0, "10 us"), (1500.0, "1.5 ms"), (2e6, "2 s")] {
            assert_eq!(duration(us), text);
        }
        for (number, text) in [(0.0, "0"), (250_000.0, "250k"), (1.25e6, "1.25M")] {
            assert_eq!(short(number), text);
        }
    }
}
