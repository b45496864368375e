//! The results as tables: text for a terminal, case by case, and Markdown for the documentation.

#![expect(clippy::cast_sign_loss, reason = "rates are not negative")]

use std::{fmt::Write, iter};

use ringecho_loadtest::text::numbers::grouped;

use crate::{
    plan::{Case, Mode, Unit},
    results::{Results, Runs},
    statistics::Summary,
    words::payload,
};

/// A column behind the servers' names.
#[derive(Clone, Copy, Debug)]
enum Column {
    /// Server CPU for each message or cycle.
    Cpu,
    Ratio,
    /// What is in the server's memory.
    Resident,
    /// The part of it that the server did not have before its first connection.
    Added,
    /// Messages or cycles a second.
    Rate,
    P50,
    P99,
    P99_9,
}

const COLUMNS: &[Column] =
    &[Column::Cpu, Column::Rate, Column::P50, Column::P99, Column::P99_9, Column::Ratio];

const COLUMNS_OF_BOARDS: &[Column] = &[
    Column::Cpu,
    Column::Ratio,
    Column::Resident,
    Column::Added,
    Column::Rate,
    Column::P50,
    Column::P99,
    Column::P99_9,
];

impl Column {
    fn all_of(mode: Mode) -> &'static [Self] {
        match mode {
            Mode::Boards => COLUMNS_OF_BOARDS,
            Mode::Cases | Mode::Churn | Mode::Rates | Mode::Sweep(_) => COLUMNS,
        }
    }

    fn head(self, unit: Unit) -> String {
        match self {
            Self::Cpu => format!("server CPU, us/{unit}"),
            Self::Ratio => "ratio".to_owned(),
            Self::Resident => "memory, MiB".to_owned(),
            Self::Added => "of it added, MiB".to_owned(),
            Self::Rate => format!("{unit}s/s"),
            Self::P50 => "p50 us".to_owned(),
            Self::P99 => "p99 us".to_owned(),
            Self::P99_9 => "p99.9 us".to_owned(),
        }
    }

    /// A server's figure in this column; `None` if it has not run.
    fn cell(self, results: &Results, case: usize, server: usize) -> Option<String> {
        let runs = &results.cases[case][server];
        let median = |summary: Option<Summary>| Some(figures(summary?.median) + mark(runs));
        match self {
            Self::Cpu => Some(spread(runs.cpu()?, figures)),
            Self::Ratio => {
                let ratio = results.ratio(case, server);
                Some(ratio.map_or("-".into(), |ratio| spread(ratio, hundredths)))
            }
            Self::Resident => Some(mebibytes(runs.resident_bytes()?.median)),
            Self::Added => {
                // The figures of a run without are as good as others.
                runs.cpu()?;
                Some(runs.added_bytes().map_or("-".into(), |added| mebibytes(added.median)))
            }
            Self::Rate => {
                let rate = runs.summary(|run| run.rate)?.median.round() as u64;
                Some(grouped(rate) + mark(runs))
            }
            Self::P50 => median(runs.summary(|run| run.p50_us)),
            Self::P99 => median(runs.summary(|run| run.p99_us)),
            Self::P99_9 => median(runs.summary(|run| run.p99_9_us)),
        }
    }
}

/// What rates and latencies bear that are the generator's limit, and what it says.
const MARK: &str = "*";
const MARK_MEANING: &str = "the generator had no time left: its limit, not the server's";

fn mark(runs: &Runs) -> &'static str {
    if runs.is_generator_limited() { MARK } else { "" }
}

/// What a mark in the table of a case means; `None` if there is none.
fn footnote(results: &Results, case: usize) -> Option<String> {
    let mut shown = results.cases[case].iter().filter(|runs| runs.failure.is_none());
    shown.any(Runs::is_generator_limited).then(|| format!("{MARK} {MARK_MEANING}"))
}

/// The names of all columns.
fn head(results: &Results, case: usize) -> Vec<String> {
    let unit = results.plan.cases[case].unit;
    let columns = Column::all_of(results.plan.mode).iter();
    iter::once("server".to_owned()).chain(columns.map(|column| column.head(unit))).collect()
}

/// The table of one case: medians, and in parentheses the least and the most of all rounds.
pub(crate) fn text(results: &Results, case: usize) -> String {
    let unit = results.plan.cases[case].unit;
    let mut rows = vec![head(results, case)];
    let mut failures = String::new();
    for (server, runs) in results.plan.servers.iter().zip(&results.cases[case]) {
        if let Some(failure) = &runs.failure {
            let _ = writeln!(failures, "  {}: FAILED: {failure}", server.name);
        }
    }
    rows.extend((0..results.plan.servers.len()).filter_map(|server| row(results, case, server)));
    let mut text = match results.baseline(case) {
        Some(server) => format!(
            "{}; ratio to {}{}\n",
            results.plan.cases[case],
            results.plan.servers[server].name,
            match (&results.plan.against, unit) {
                (Some(_), _) => "",
                (None, Unit::Message) if results.plan.servers[server].is_tls => ", the TLS echo",
                (None, Unit::Message) => ", the cheaper raw TCP echo",
                (None, Unit::Cycle) => ", the cheapest",
            }
        ),
        None => format!("{}\n", results.plan.cases[case]),
    };
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default())
        .collect();
    for row in rows {
        let _ = write!(text, "  {:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    if let Some(footnote) = footnote(results, case) {
        let _ = writeln!(text, "  {footnote}");
    }
    text + &failures
}

/// A server's row; `None` if it failed, or has not run.
fn row(results: &Results, case: usize, server: usize) -> Option<Vec<String>> {
    let columns = Column::all_of(results.plan.mode).iter();
    iter::once(Some(results.plan.servers[server].name.clone()))
        .chain(columns.map(|column| column.cell(results, case, server)))
        .collect()
}

/// All tables: but for sweeps first the ratios of all cases, then each case in full.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = format!(
        "{}. {} rounds of {} each after {}.\n",
        results.host,
        results.plan.rounds,
        humantime::format_duration(results.plan.duration),
        humantime::format_duration(results.plan.warmup)
    );
    if matches!(results.plan.mode, Mode::Cases | Mode::Boards | Mode::Churn | Mode::Rates) {
        text.push('\n');
        text += &ratios(results);
    }
    if results.plan.mode == Mode::Boards {
        text.push('\n');
        text += &memory(results);
    }
    if let Some(left_out) = &results.plan.left_out {
        let _ = write!(text, "\n{left_out}.\n");
    }
    for (server, case, failure) in results.failures() {
        let _ = write!(text, "\n{server} failed in {case}: {failure}.\n");
    }
    for case in 0..results.cases.len() {
        let head = head(results, case);
        let _ = write!(
            text,
            "\n<details><summary>{}</summary>\n\n| {} |\n| --- |{}\n",
            results.plan.cases[case],
            head.join(" | "),
            " --: |".repeat(head.len() - 1)
        );
        for server in 0..results.plan.servers.len() {
            if let Some(row) = row(results, case, server) {
                let _ = writeln!(text, "| {} |", row.join(" | "));
            }
        }
        if let Some(footnote) = footnote(results, case) {
            let _ = write!(text, "\n\\{footnote}.\n");
        }
        text.push_str("\n</details>\n");
    }
    text
}

/// A case as its row begins: `64 B x 512 x 16`.
fn load_in_short(case: &Case) -> String {
    format!(
        "{} x {}{}",
        payload(case.payload_bytes),
        case.connections,
        match (case.unit, case.rate) {
            (Unit::Message, Some(rate)) => format!(" at {}", grouped(rate.into())),
            (Unit::Message, None) => format!(" x {}", case.depth),
            (Unit::Cycle, _) => String::new(),
        }
    )
}

/// A row for each case and a column for each server, with the ratios' medians.
fn ratios(results: &Results) -> String {
    let names: Vec<&str> = results.plan.servers.iter().map(|server| &*server.name).collect();
    let mut text = format!(
        "| {} | 1.00 is | {} |\n| --- | --- |{}\n",
        match results.plan.mode {
            Mode::Churn => "payload x cycles at once",
            Mode::Rates => "payload x connections at messages/s",
            Mode::Cases | Mode::Boards | Mode::Sweep(_) => "payload x connections x depth",
        },
        names.join(" | "),
        " --: |".repeat(names.len())
    );
    for (case, load) in results.plan.cases.iter().enumerate() {
        let _ = write!(text, "| {} | {} |", load_in_short(load), unit(results, case));
        for server in 0..names.len() {
            let _ = write!(text, " {} |", ratio(results, case, server));
        }
        text.push('\n');
    }
    text
}

/// A row for each case and a column for each server, with the medians of their memory.
fn memory(results: &Results) -> String {
    let names: Vec<&str> = results.plan.servers.iter().map(|server| &*server.name).collect();
    let mut text = format!(
        "| memory, MiB | {} |\n| --- |{}\n",
        names.join(" | "),
        " --: |".repeat(names.len())
    );
    for (case, (load, servers)) in results.plan.cases.iter().zip(&results.cases).enumerate() {
        let _ = write!(text, "| {} |", load_in_short(load));
        for (server, runs) in servers.iter().enumerate() {
            let memory = runs.resident_bytes().map(|bytes| mebibytes(bytes.median));
            let cell = memory.unwrap_or_else(|| absence(results, case, server).to_owned());
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    text
}

/// What a ratio of 1 is in a case: `0.55 us (tcp-uring)`.
pub(crate) fn unit(results: &Results, case: usize) -> String {
    let unit = results.baseline(case).and_then(|server| {
        let cpu = results.cases[case][server].cpu()?;
        Some(format!("{} us ({})", figures(cpu.median), results.plan.servers[server].name))
    });
    unit.unwrap_or_default()
}

/// A server's ratio in a case, or why there is none.
pub(crate) fn ratio(results: &Results, case: usize, server: usize) -> String {
    match results.ratio(case, server) {
        Some(ratio) => hundredths(ratio.median),
        None => absence(results, case, server).into(),
    }
}

/// What stands where a server has no figure in a case.
fn absence(results: &Results, case: usize, server: usize) -> &'static str {
    if results.cases[case][server].failure.is_some() { "failed" } else { "-" }
}

/// Bytes in MiB.
fn mebibytes(bytes: f64) -> String {
    figures(bytes / f64::from(1 << 20))
}

fn spread(summary: Summary, format: fn(f64) -> String) -> String {
    let Summary { median, min, max } = summary;
    format!("{} ({}-{})", format(median), format(min), format(max))
}

fn hundredths(number: f64) -> String {
    format!("{number:.2}")
}

/// A number with three figures, or all of those before its point.
fn figures(number: f64) -> String {
    let decimals = match number {
        0.0..1.0 => 3,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{number:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::LeftOut, results::examples};

    #[test]
    fn a_case_is_a_table_with_medians_and_spreads() {
        let expected = "\
64 B x 64 connections x depth 16; ratio to uring, the cheaper raw TCP echo
  server  server CPU, us/message  messages/s  p50 us  p99 us  p99.9 us             ratio
  epoll      0.600 (0.540-0.900)   1,666,667    38.4     120       180  1.20 (1.20-1.20)
  uring      0.500 (0.450-0.750)   2,000,000    32.0     100       150  1.00 (1.00-1.00)
  twice      1.00 (0.900-1.50)   1,000,000    64.0     200       300  2.00 (2.00-2.00)
";
        let text = text(&examples::results(), 0);
        let (lines, expected): (Vec<_>, Vec<_>) =
            (text.lines().collect(), expected.lines().collect());
        assert_eq!(lines[0], expected[0]);
        for (line, expected) in lines.iter().zip(&expected).skip(1) {
            let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(words(line), words(expected));
        }
        let widths: Vec<usize> = lines[1..].iter().map(|line| line.len()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
    }

    #[test]
    fn what_is_the_generators_limit_is_marked_where_most_rounds_had_it() {
        let mut results = examples::boards();
        let saturate = |results: &mut Results, server: usize, round: usize| {
            let run = results.cases[0][server].rounds[round].as_mut().unwrap();
            run.is_generator_saturated = true;
        };
        saturate(&mut results, 1, 0);
        saturate(&mut results, 2, 0);
        assert!(!text(&results, 0).contains('*'));
        saturate(&mut results, 2, 2);
        for run in results.cases[0][2].rounds.iter_mut().flatten() {
            run.server_added_bytes = None;
        }
        let text = text(&results, 0);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let row = "twice 1.00 (0.900-1.50) 2.00 (2.00-2.00) 4.00 - 1,000,000* 64.0* 200* 300*";
        assert!(text.lines().any(|other| words(other) == words(row)), "{row}\n{text}");
        assert_eq!(text.matches('*').count(), 5, "{text}");
        let note = "* the generator had no time left: its limit, not the server's";
        assert!(text.ends_with(&format!("\n  {note}\n")), "{text}");
        assert!(markdown(&results).contains(&format!("\n\n\\{note}.\n")));
        let json = serde_json::to_value(&results).unwrap();
        let rounds = &json["cases"][0]["servers"][2]["rounds"];
        assert_eq!(rounds[0]["generator_saturated"], true);
        assert_eq!(rounds[1]["generator_saturated"], false);
        assert!(rounds[0]["server_added_bytes"].is_null());
    }

    #[test]
    fn a_failed_server_is_named_with_its_reason() {
        let text = text(&examples::results(), 1);
        assert!(text.ends_with("  shaky: FAILED: 3 errors: an echo was changed\n"), "{text}");
    }

    #[test]
    fn markdown_has_a_row_of_ratios_for_each_case() {
        let markdown = markdown(&examples::results());
        for line in [
            "Example CPU, 2 CPUs, Linux 6.18, ringecho 0123abc, 2026-01-02. 3 rounds of 1s each \
             after 200ms.",
            "| payload x connections x depth | 1.00 is | epoll | uring | twice | shaky |",
            "| 64 B x 64 x 16 | 0.500 us (uring) | 1.20 | 1.00 | 2.00 | 8.00 |",
            "| 16 KiB x 64 x 16 | 7.00 us (epoll) | 1.00 | 1.14 | 2.00 | failed |",
            "shaky failed in 16 KiB x 64 connections x depth 16: 3 errors: an echo was changed.",
        ] {
            assert!(markdown.lines().any(|other| other == line), "{line}\n{markdown}");
        }
    }

    #[test]
    fn cycles_are_told_from_messages() {
        let results = examples::churn();
        let text = text(&results, 0);
        assert!(
            text.starts_with("64 B x 512 cycles at once; ratio to twice, the cheapest\n"),
            "{text}"
        );
        let columns: Vec<&str> = text.lines().nth(1).unwrap().split("  ").collect();
        assert!(columns.contains(&"server CPU, us/cycle"), "{text}");
        let markdown = markdown(&results);
        for line in [
            "| payload x cycles at once | 1.00 is | twice | shaky |",
            "| 64 B x 512 | 1.00 us (twice) | 1.00 | 4.00 |",
            "| server | server CPU, us/cycle | cycles/s | p50 us | p99 us | p99.9 us | ratio |",
        ] {
            assert!(markdown.lines().any(|other| other == line), "{line}\n{markdown}");
        }
    }

    #[test]
    fn boards_have_memory_beside_cpu() {
        let mut results = examples::boards();
        results.plan.left_out =
            Some(LeftOut { connections: vec![16_384], descriptor_limit: 10_000 });
        let text = text(&results, 0);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for line in [
            "5 B text x 512 connections x depth 16; ratio to uring, the cheaper raw TCP echo",
            "server server CPU, us/message ratio memory, MiB of it added, MiB messages/s p50 us \
             p99 us p99.9 us",
            "twice 1.00 (0.900-1.50) 2.00 (2.00-2.00) 4.00 1.00 1,000,000 64.0 200 300",
        ] {
            assert!(text.lines().any(|other| words(other) == words(line)), "{line}\n{text}");
        }
        let markdown = markdown(&results);
        for line in [
            "| 5 B x 512 x 16 | 0.500 us (uring) | 1.20 | 1.00 | 2.00 | 8.00 |",
            "| memory, MiB | epoll | uring | twice | shaky |",
            "| 5 B x 4096 x 16 | 4.00 | 4.00 | 4.00 | failed |",
        ] {
            assert!(markdown.lines().any(|other| other == line), "{line}\n{markdown}");
        }
        assert!(markdown.contains("\n16,384 connections are left out: "), "{markdown}");
    }

    #[test]
    fn rates_are_shown_with_what_the_ratios_are_to() {
        let mut results = examples::results();
        results.plan.mode = Mode::Rates;
        results.plan.against = Some("twice".into());
        for case in &mut results.plan.cases {
            case.rate = Some(20_000);
        }
        let text = text(&results, 0);
        let title = "64 B x 64 connections at 20,000 messages/s; ratio to twice\n";
        assert!(text.starts_with(title), "{text}");
        let markdown = markdown(&results);
        for line in [
            "| payload x connections at messages/s | 1.00 is | epoll | uring | twice | shaky |",
            "| 64 B x 64 at 20,000 | 1.00 us (twice) | 0.60 | 0.50 | 1.00 | 4.00 |",
        ] {
            assert!(markdown.lines().any(|other| other == line), "{line}\n{markdown}");
        }
    }

    #[test]
    fn numbers_have_three_figures() {
        for (number, text) in
            [(0.0, "0.000"), (0.5812, "0.581"), (7.906, "7.91"), (12.49, "12.5"), (1763.4, "1763")]
        {
            assert_eq!(figures(number), text);
        }
    }
}
