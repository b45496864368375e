//! A coloured table: a row for each case, a column for each server, in each cell the ratio to the
//! cheaper raw TCP echo.

#![expect(clippy::cast_possible_wrap, reason = "there are fewer servers than pixels")]

use plotters::style::{RGBColor, text_anchor::HPos};

use super::{Canvas, Error, FAINT_INK, INK, RULE};
use crate::{plan::Mode, results::Results, table, words::payload};

const MARGIN: i32 = 24;
const HEAD_HEIGHT: i32 = 132;
const ROW_HEIGHT: i32 = 28;
/// Between the rows of one payload and those of the next.
const GROUP_GAP: i32 = 8;
const COLUMN_WIDTH: i32 = 116;
/// Right edges of the three columns that name a case.
const CASE_COLUMNS: [i32; 3] = [80, 180, 236];
const UNIT_WIDTH: i32 = 210;
const FOOT_HEIGHT: i32 = 34;

/// Colours of ratios; between them, those in between.
const COLORS: [(f64, RGBColor); 6] = [
    (0.95, RGBColor(140, 205, 150)),
    (1.05, RGBColor(214, 240, 216)),
    (1.25, RGBColor(255, 249, 219)),
    (2.0, RGBColor(255, 221, 158)),
    (4.0, RGBColor(255, 180, 130)),
    (12.0, RGBColor(240, 128, 115)),
];

/// Draws it.
pub(crate) fn ratios(results: &Results) -> Result<String, Error> {
    let servers = results.plan.servers.len() as i32;
    let tops = tops(results);
    let foot = tops.last().map_or(HEAD_HEIGHT, |top| top + ROW_HEIGHT);
    let left = MARGIN + CASE_COLUMNS[2] + 12;
    let width = left + servers * COLUMN_WIDTH + UNIT_WIDTH + MARGIN;
    let mut svg = String::new();
    let canvas = Canvas::new(&mut svg, width, foot + FOOT_HEIGHT + MARGIN)?;
    draw_head(&canvas, results, left)?;
    for (case, top) in tops.into_iter().enumerate() {
        draw_case(&canvas, results, case, top)?;
        for server in 0..results.plan.servers.len() {
            let column = left + server as i32 * COLUMN_WIDTH;
            let ratio = results.ratio(case, server).map(|ratio| ratio.median);
            let corners =
                [(column + 1, top + 1), (column + COLUMN_WIDTH - 1, top + ROW_HEIGHT - 1)];
            canvas.rectangle(corners, ratio.map_or(RULE, color))?;
            let center = (column + COLUMN_WIDTH / 2, top + ROW_HEIGHT / 2);
            canvas.text(&table::ratio(results, case, server), center, HPos::Center, 18, INK)?;
        }
        let unit = table::unit(results, case);
        let at = (left + servers * COLUMN_WIDTH + 12, top + ROW_HEIGHT / 2);
        canvas.text(&unit, at, HPos::Left, 17, FAINT_INK)?;
    }
    let at = (MARGIN, foot + FOOT_HEIGHT / 2 + 8);
    canvas.text(&results.host.to_string(), at, HPos::Left, 17, FAINT_INK)?;
    canvas.area.present()?;
    drop(canvas);
    Ok(svg)
}

/// Where the row of each case begins.
fn tops(results: &Results) -> Vec<i32> {
    let cases = &results.plan.cases[..results.cases.len()];
    let mut top = HEAD_HEIGHT;
    let mut tops = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        if at > 0 && cases[at - 1].payload_bytes != case.payload_bytes {
            top += GROUP_GAP;
        }
        tops.push(top);
        top += ROW_HEIGHT;
    }
    tops
}

fn draw_head(canvas: &Canvas<'_>, results: &Results, left: i32) -> Result<(), Error> {
    let (title, one) = match results.plan.mode {
        Mode::Churn => (
            "Server CPU per cycle, relative to the cheapest server of the same round",
            "is the cheapest server",
        ),
        _ if results.plan.servers.iter().any(|server| server.is_tls) => (
            "Server CPU per message over TLS, relative to a TLS echo in the same round",
            "is what TLS itself costs",
        ),
        _ => (
            "Server CPU per message, relative to the cheaper raw TCP echo of the same round",
            "is what TCP itself costs",
        ),
    };
    canvas.text(title, (MARGIN, MARGIN + 8), HPos::Left, 25, INK)?;
    let rest = format!(
        "Medians of {} rounds, servers in turn. 1.00 {one}; lower is better.",
        results.plan.rounds
    );
    canvas.text(&rest, (MARGIN, MARGIN + 36), HPos::Left, 18, FAINT_INK)?;
    let line = HEAD_HEIGHT - 16;
    for (name, right) in ["payload", "connections", "depth"].into_iter().zip(CASE_COLUMNS) {
        canvas.text(name, (MARGIN + right, line), HPos::Right, 17, FAINT_INK)?;
    }
    for (server, at) in results.plan.servers.iter().zip(0..) {
        let center = left + at * COLUMN_WIDTH + COLUMN_WIDTH / 2;
        let (first, second) = two_lines(&server.name);
        canvas.text(first, (center, line - 18), HPos::Center, 17, INK)?;
        canvas.text(second, (center, line), HPos::Center, 17, INK)?;
    }
    let unit = left + results.plan.servers.len() as i32 * COLUMN_WIDTH + 12;
    canvas.text("1.00 is", (unit, line), HPos::Left, 17, FAINT_INK)
}

fn draw_case(canvas: &Canvas<'_>, results: &Results, case: usize, top: i32) -> Result<(), Error> {
    let load = &results.plan.cases[case];
    let is_first = case == 0 || results.plan.cases[case - 1].payload_bytes != load.payload_bytes;
    let middle = top + ROW_HEIGHT / 2;
    let cells = [
        if is_first { payload(load.payload_bytes) } else { String::new() },
        load.connections.to_string(),
        load.depth.to_string(),
    ];
    for (cell, right) in cells.iter().zip(CASE_COLUMNS) {
        canvas.text(cell, (MARGIN + right, middle), HPos::Right, 18, INK)?;
    }
    Ok(())
}

/// A server's name in two lines, cut behind its last dash.
fn two_lines(name: &str) -> (&str, &str) {
    name.rfind('-').map_or(("", name), |dash| name.split_at(dash + 1))
}

fn color(ratio: f64) -> RGBColor {
    let above = COLORS.iter().position(|(at, _)| ratio < *at).unwrap_or(COLORS.len());
    match above {
        0 => COLORS[0].1,
        above if above == COLORS.len() => COLORS[above - 1].1,
        above => {
            let ((from, one), (to, other)) = (COLORS[above - 1], COLORS[above]);
            mix(one, other, (ratio / from).ln() / (to / from).ln())
        }
    }
}

/// The colour that is `part` of the way from one to another.
#[expect(clippy::cast_sign_loss, reason = "a colour lies between two others")]
fn mix(one: RGBColor, other: RGBColor, part: f64) -> RGBColor {
    let mix = |one: u8, other: u8| {
        (f64::from(one) + (f64::from(other) - f64::from(one)) * part).round() as u8
    };
    RGBColor(mix(one.0, other.0), mix(one.1, other.1), mix(one.2, other.2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::examples;

    #[test]
    fn every_case_and_server_has_its_ratio() {
        let svg = ratios(&examples::results()).unwrap();
        let count = |text: &str| svg.lines().filter(|line| line.trim() == text).count();
        assert_eq!((count("1.00"), count("2.00"), count("8.00"), count("failed")), (2, 2, 1, 1));
        assert_eq!((count("64 B"), count("0.500 us (uring)")), (1, 1));
    }

    #[test]
    fn colors_go_from_one_to_the_next() {
        assert_eq!(color(0.5), COLORS[0].1);
        assert_eq!(color(2.0), COLORS[3].1);
        assert_eq!(color(100.0), COLORS[5].1);
        assert_eq!(
            mix(RGBColor(255, 255, 255), RGBColor(55, 155, 255), 0.5),
            RGBColor(155, 205, 255)
        );
    }

    #[test]
    fn names_are_cut_behind_the_last_dash() {
        assert_eq!(two_lines("fastwebsockets-corked"), ("fastwebsockets-", "corked"));
        assert_eq!(two_lines("uws"), ("", "uws"));
    }
}
