//! Lines over what a sweep varies: what a message costs each server, and below it how many
//! messages it echoes.

use std::ops::Range;

use plotters::style::{RGBColor, text_anchor::HPos};

use super::{Canvas, Error, FAINT_INK, INK, PAPER, RULE};
use crate::{
    plan::Axis,
    results::{Measurement, Results},
    statistics::Summary,
    words::payload,
};

const WIDTH: i32 = 1000;
const PANEL_HEIGHT: i32 = 300;
const PANEL_TOPS: [i32; 2] = [104, 474];
const HEIGHT: i32 = 860;
const MARGIN: i32 = 24;
/// Left and right edges of the panels; the lines' names are at the right of them.
const PANEL: Range<i32> = 90..780;
/// Between the names of two lines.
const NAME_DISTANCE: i32 = 19;

/// Colours that can be told apart, also by people who see few.
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 92, 175),
    RGBColor(213, 94, 0),
    RGBColor(0, 130, 100),
    RGBColor(150, 60, 140),
    RGBColor(120, 120, 120),
    RGBColor(190, 140, 0),
    RGBColor(40, 150, 210),
];

/// One server's line, or one of several that a sweep has of a server.
struct Line {
    name: String,
    points: Vec<Point>,
}

struct Point {
    at: f64,
    summary: Summary,
    /// The generator was in the server's way.
    is_disturbed: bool,
}

/// A range of values on a range of pixels.
#[derive(Debug)]
struct Scale {
    values: Range<f64>,
    /// From the least value to the most.
    pixels: (i32, i32),
    is_logarithmic: bool,
}

/// Draws the plots of a sweep.
pub(crate) fn sweep(results: &Results, axis: Axis) -> Result<String, Error> {
    let mut svg = String::new();
    let canvas = Canvas::new(&mut svg, WIDTH, HEIGHT)?;
    let title = match axis {
        Axis::Connections => "connections",
        Axis::Payload => "payload of a message",
        Axis::Workers => "workers",
        Axis::Buffers => "size of a receive buffer",
    };
    let case = results.plan.cases[0];
    let load = [
        (axis != Axis::Payload).then(|| payload(case.payload_bytes)),
        (axis != Axis::Connections).then(|| format!("{} connections", case.connections)),
        Some(format!("depth {}", case.depth)),
    ];
    let load: Vec<String> = load.into_iter().flatten().collect();
    let title = format!("Cost over {title} ({})", load.join(", "));
    canvas.text(&title, (MARGIN, MARGIN + 8), HPos::Left, 23, INK)?;
    let cpu = lines(results, axis, |run| run.server_cpu_us);
    let rate = lines(results, axis, |run| run.rate);
    // One message that wakes a server, or a large one, costs many times what others do.
    let is_logarithmic = matches!(axis, Axis::Connections | Axis::Payload);
    let [upper, lower] = PANEL_TOPS;
    let name = "Server CPU per message in us";
    draw_panel(&canvas, name, upper, &cpu, axis, is_logarithmic)?;
    draw_panel(&canvas, "Messages per second", lower, &rate, axis, is_logarithmic)?;
    let mut note = results.host.to_string();
    if cpu.iter().flat_map(|line| &line.points).any(|point| point.is_disturbed) {
        note += ". Hollow points: server and generator shared a CPU.";
    }
    canvas.text(&note, (MARGIN, HEIGHT - 18), HPos::Left, 15, FAINT_INK)?;
    canvas.area.present()?;
    drop(canvas);
    Ok(svg)
}

fn lines(results: &Results, axis: Axis, value: impl Fn(&Measurement) -> f64) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (case, runs) in results.plan.cases.iter().zip(&results.cases) {
        for (server, runs) in results.plan.servers.iter().zip(runs) {
            let Some(summary) = runs.summary(&value) else { continue };
            let (name, x) = match (axis, &server.variant) {
                (Axis::Connections, _) => (&server.name, f64::from(case.connections)),
                (_, Some((name, x))) => (name, f64::from(*x)),
                #[expect(clippy::cast_precision_loss, reason = "payloads are below 2^52")]
                _ => (&server.name, case.payload_bytes as f64),
            };
            let is_disturbed = server.shared_cpus().next().is_some();
            let point = Point { at: x, summary, is_disturbed };
            match lines.iter_mut().find(|line| line.name == *name) {
                Some(line) => line.points.push(point),
                None => lines.push(Line { name: name.clone(), points: vec![point] }),
            }
        }
    }
    lines
}

fn draw_panel(
    canvas: &Canvas<'_>,
    name: &str,
    top: i32,
    lines: &[Line],
    axis: Axis,
    is_logarithmic: bool,
) -> Result<(), Error> {
    canvas.text(name, (MARGIN, top - 24), HPos::Left, 17, INK)?;
    let points = || lines.iter().flat_map(|line| &line.points);
    let mut values: Vec<f64> = points().map(|point| point.at).collect();
    values.sort_unstable_by(f64::total_cmp);
    values.dedup();
    let [first, .., last] = values[..] else { return Ok(()) };
    let x = Scale {
        values: first..last,
        pixels: (PANEL.start, PANEL.end),
        is_logarithmic: axis != Axis::Workers,
    };
    let y = Scale::of_values(points().map(|point| point.summary), top, is_logarithmic);
    for value in y.ticks() {
        let at = y.at(value);
        canvas.path(vec![(PANEL.start, at), (PANEL.end, at)], RULE, 1)?;
        canvas.text(&short(value), (PANEL.start - 10, at), HPos::Right, 15, FAINT_INK)?;
    }
    for value in values {
        let bottom = top + PANEL_HEIGHT;
        canvas.path(vec![(x.at(value), bottom), (x.at(value), bottom + 5)], FAINT_INK, 1)?;
        #[expect(clippy::cast_sign_loss, reason = "payloads are not negative")]
        let label = match axis {
            Axis::Payload | Axis::Buffers => payload(value as u64),
            Axis::Connections | Axis::Workers => format!("{value}"),
        };
        canvas.text(&label, (x.at(value), bottom + 18), HPos::Center, 15, FAINT_INK)?;
    }
    draw_lines(canvas, lines, &x, &y)
}

fn draw_lines(canvas: &Canvas<'_>, lines: &[Line], x: &Scale, y: &Scale) -> Result<(), Error> {
    let mut ends = Vec::new();
    for (line, color) in lines.iter().zip(COLORS.into_iter().cycle()) {
        let place = |point: &Point| (x.at(point.at), y.at(point.summary.median));
        let points: Vec<(i32, i32)> = line.points.iter().map(place).collect();
        canvas.path(points.clone(), color, 2)?;
        for ((across, down), Point { summary, is_disturbed, .. }) in points.iter().zip(&line.points)
        {
            let spread = vec![(*across, y.at(summary.min)), (*across, y.at(summary.max))];
            canvas.path(spread, color, 1)?;
            canvas.rectangle([(across - 3, down - 3), (across + 3, down + 3)], color)?;
            if *is_disturbed {
                canvas.rectangle([(across - 2, down - 2), (across + 2, down + 2)], PAPER)?;
            }
        }
        ends.extend(points.last().map(|(across, down)| (*down, *across, &line.name, color)));
    }
    ends.sort_unstable_by_key(|(down, ..)| *down);
    let places = spread_out(&ends.iter().map(|(down, ..)| *down).collect::<Vec<_>>());
    for ((down, across, name, color), place) in ends.into_iter().zip(places) {
        canvas.path(vec![(across + 3, down), (PANEL.end + 14, place)], color, 1)?;
        canvas.text(name, (PANEL.end + 18, place), HPos::Left, 17, color)?;
    }
    Ok(())
}

/// Where names go that belong to these heights, in ascending order: near them, but not into each
/// other.
fn spread_out(heights: &[i32]) -> Vec<i32> {
    let mut places = heights.to_vec();
    for at in 1..places.len() {
        places[at] = places[at].max(places[at - 1] + NAME_DISTANCE);
    }
    // Back up by half of what the lowest one was moved.
    let moved = places.last().zip(heights.last()).map_or(0, |(place, height)| place - height);
    places.iter().map(|place| place - moved / 2).collect()
}

impl Scale {
    /// From 0, or if it is logarithmic from a little below the least, to the most.
    fn of_values(
        values: impl Iterator<Item = Summary> + Clone,
        top: i32,
        is_logarithmic: bool,
    ) -> Self {
        let most = values.clone().map(|summary| summary.max).fold(0.0, f64::max);
        let least = values.map(|summary| summary.min).fold(most, f64::min).max(most / 1e6);
        let values = if is_logarithmic { least / 1.2..most * 1.2 } else { 0.0..most * 1.05 };
        Self { values, pixels: (top + PANEL_HEIGHT, top), is_logarithmic }
    }

    fn at(&self, value: f64) -> i32 {
        let Range { start, end } = self.values;
        let part = if self.is_logarithmic {
            (value.max(start) / start).ln() / (end / start).ln()
        } else {
            (value - start) / (end - start)
        };
        let pixels = f64::from(self.pixels.1 - self.pixels.0) * part;
        self.pixels.0 + pixels.round() as i32
    }

    /// Round values within it.
    fn ticks(&self) -> Vec<f64> {
        if self.values.end <= 0.0 {
            return Vec::new();
        }
        if self.is_logarithmic {
            let decades = self.values.start.log10().floor() as i32..=self.values.end.log10() as i32;
            let ticks =
                decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|tick| tick * 10_f64.powi(decade)));
            return ticks.filter(|tick| self.values.contains(tick)).collect();
        }
        let decade = 10_f64.powi((self.values.end / 5.0).log10().floor() as i32);
        let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
        let step = step.into_iter().find(|step| self.values.end / step <= 6.0).unwrap_or(decade);
        let ticks = (0..=6).map(|tick| f64::from(tick) * step);
        ticks.filter(|tick| *tick < self.values.end).collect()
    }
}

/// A number without its zeros: `250k`, `1.2M`.
fn short(number: f64) -> String {
    let (number, unit) = match number {
        1e6.. => (number / 1e6, "M"),
        1e4.. => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let digits = format!("{number:.2}");
    format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::examples;

    #[test]
    fn each_server_has_a_line_with_its_name() {
        let svg = sweep(&examples::results(), Axis::Payload).unwrap();
        for name in ["epoll", "uring", "twice", "64 B", "16 KiB"] {
            assert_eq!(svg.lines().filter(|line| line.trim() == name).count(), 2, "{name}");
        }
    }

    #[test]
    fn points_are_hollow_where_the_generator_was_in_the_way() {
        let mut results = examples::results();
        assert!(!sweep(&results, Axis::Payload).unwrap().contains("Hollow"));
        let server = &mut results.plan.servers[0];
        (server.cpus, server.generator_cpus) = (vec![0, 1], vec![1]);
        let svg = sweep(&results, Axis::Payload).unwrap();
        // In both cases and both panels.
        let hollow = svg.matches(r#"width="4" height="4""#).count();
        assert_eq!((hollow, svg.matches("Hollow points").count()), (4, 1));
    }

    #[test]
    fn scales_map_values_to_pixels() {
        let mut scale = Scale { values: 1.0..100.0, pixels: (300, 100), is_logarithmic: true };
        assert_eq!([1.0, 10.0, 100.0].map(|value| scale.at(value)), [300, 200, 100]);
        assert_eq!(scale.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
        scale.is_logarithmic = false;
        scale.values = 0.0..12.0;
        assert_eq!([0.0, 6.0].map(|value| scale.at(value)), [300, 200]);
        assert_eq!(scale.ticks(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
    }

    #[test]
    fn names_keep_their_distance() {
        let places = spread_out(&[10, 12, 14, 200]);
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= NAME_DISTANCE), "{places:?}");
        assert_eq!(spread_out(&[10, 100]), [10, 100]);
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [(0.0, "0"), (0.05, "0.05"), (250_000.0, "250k"), (1.25e6, "1.25M")] {
            assert_eq!(short(number), text);
        }
    }
}
