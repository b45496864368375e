//! A run's result as one HTML page, which needs nothing else: its plots are inline SVG, and it has no
//! scripts. It is readable on light and on dark backgrounds, as the reader's system prefers.

mod plots;

use std::fmt;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::plots::Plot;
use crate::{
    count::latency_report::LatencyReport,
    plan::condition::metric::Metric,
    result::{
        baseline::BaselineReport,
        measurement::Measurement,
        report::{OpenLoopReport, Report, floor_in_words},
        usage::UsageReport,
    },
    text::numbers::{grouped, rate},
};

const STYLE: &str = include_str!("style.css");

pub(super) fn text(report: &Report) -> Result<String, String> {
    let plots = plots::plots(&report.recording).map_err(|error| error.to_string())?;
    let title = format!("Load on {}", report.provenance.url);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style {
                    (PreEscaped(STYLE))
                    "@media (prefers-color-scheme: dark) {" (PreEscaped(plots::dark_css())) "}"
                }
            }
            body {
                h1 { (title) }
                p.faint { (fmt::from_fn(|f| report.write_setting(f))) }
                (headline(report))
                (warnings(report))
                (checks(report))
                (latencies(report))
                (baseline(report))
                @for plot in &plots { (figure(plot)) }
                (errors(report))
                (facts(report))
            }
        }
    };
    Ok(page.into_string())
}

/// The numbers that are looked for first.
fn headline(report: &Report) -> Markup {
    let latency = report.latency_us.as_ref();
    let time = |value: fn(&LatencyReport) -> f64| {
        latency.map_or_else(|| "-".to_owned(), |latency| microseconds(value(latency)))
    };
    html! {
        dl.headline {
            div { dt { "messages/s" } dd { (rate(report.messages_per_second)) } }
            div { dt { "p50" } dd { (time(|it| it.p50)) } }
            div { dt { "p99" } dd { (time(|it| it.p99)) } }
            div { dt { "p99.9" } dd { (time(|it| it.p99_9)) } }
            div.bad[report.errors.total > 0] {
                dt { "errors" } dd { (grouped(report.errors.total)) }
            }
        }
    }
}

fn warnings(report: &Report) -> Markup {
    html! {
        @if !report.warnings.is_empty() {
            section.warnings {
                h2 { "Before you believe this" }
                ul { @for warning in &report.warnings { li { (warning) } } }
            }
        }
    }
}

/// What must not be, and whether it is.
fn checks(report: &Report) -> Markup {
    html! {
        @if !report.checks.is_empty() {
            h2 { "Checks" }
            table {
                tr { th { "fails if" } th { "measured" } th {} }
                @for check in &report.checks {
                    tr.bad[check.has_failed()] {
                        td { code { (check.condition()) } }
                        td { (check.describe()) }
                        td { strong { (check.verdict()) } }
                    }
                }
            }
        }
    }
}

/// The result beside an earlier one.
fn baseline(report: &Report) -> Markup {
    let Some(BaselineReport { file, began, ratios, earlier, .. }) = &report.baseline else {
        return html! {};
    };
    let now = Measurement::from(report);
    let show = |measurement: &Measurement, metric: Metric| {
        measurement.value(metric).map_or_else(String::new, |value| metric.show(value))
    };
    html! {
        h2 { "Compared with an earlier run" }
        p.faint { (file) @if let Some(began) = began { ", began " (began) } }
        table.numbers {
            tr { th {} th { "earlier" } th { "now" } th { "ratio" } }
            @for (metric, ratio) in ratios.iter() {
                tr {
                    th { (metric.name()) }
                    td { (show(earlier, metric)) }
                    td { (show(&now, metric)) }
                    td { (format!("{ratio:.3}")) }
                }
            }
        }
    }
}

fn latencies(report: &Report) -> Markup {
    let histograms = &report.recording.total.histograms;
    let rows = [
        ("latency", &histograms.latency),
        ("from sending on", &histograms.uncorrected),
        ("send lag", &histograms.send_lag),
    ];
    let rows = rows
        .into_iter()
        .filter_map(|(name, latencies)| Some((name, LatencyReport::new(latencies)?)));
    html! {
        h2 { "Latency" }
        table.numbers {
            tr {
                th {} th { "p50" } th { "p90" } th { "p99" } th { "p99.9" } th { "p99.99" }
                th { "max" } th { "mean" } th { "messages" }
            }
            @for (name, it) in rows {
                tr {
                    th { (name) }
                    @for value in [it.p50, it.p90, it.p99, it.p99_9, it.p99_99, it.max, it.mean] {
                        td { (microseconds(value)) }
                    }
                    td { (grouped(it.samples)) }
                }
            }
        }
    }
}

fn figure(plot: &Plot) -> Markup {
    html! {
        figure {
            h2 { (plot.title) }
            (PreEscaped(&plot.svg))
            figcaption {
                @for line in &plot.lines {
                    span.line {
                        svg viewBox="0 0 14 14" aria-hidden="true" {
                            rect x="1" y="5" width="12" height="4" fill=(line.ink.css()) {}
                        }
                        (line.name)
                    }
                }
            }
        }
    }
}

fn errors(report: &Report) -> Markup {
    html! {
        @if report.errors.total > 0 {
            h2 { "Errors" }
            p { (report.errors) }
            ul { @for cause in &report.causes { li { (cause) } } }
        }
    }
}

/// All that somebody needs to do it again.
fn facts(report: &Report) -> Markup {
    let usage = |usage: &Option<UsageReport>| {
        usage.map_or_else(|| "not measured".to_owned(), |usage| usage.to_string())
    };
    let mut generator = usage(&report.generator);
    if let Some(polling) = report.open_loop.as_ref().and_then(OpenLoopReport::polling) {
        generator += "; ";
        generator += &polling;
    }
    let connections = report.connections;
    let facts = [
        ("began", report.began.clone()),
        (
            "measured",
            format!("{} s, after {} s of load", report.duration_seconds, report.warmup_seconds),
        ),
        (
            "connections",
            format!(
                "{} of {} opened, {} lost",
                grouped(connections.opened),
                grouped(connections.requested as u64),
                grouped(connections.lost)
            ),
        ),
        (
            "messages",
            format!(
                "{} in the measured window, {} in all",
                grouped(report.messages),
                grouped(report.messages_total)
            ),
        ),
        ("payload", format!("{:.1} MB/s each way", report.payload_megabytes_per_second)),
        (
            "generator's floor",
            report.floor_us.as_ref().map_or_else(|| "not measured".to_owned(), floor_in_words),
        ),
        ("server", usage(&report.server)),
        ("generator", generator),
        ("generator's machine", report.host.to_string()),
        ("ringecho-loadtest", report.provenance.version.to_owned()),
    ];
    html! {
        h2 { "The run" }
        table { @for (name, value) in facts { tr { th { (name) } td { (value) } } } }
    }
}

/// In the unit in which the number is short, to three digits or the last one before the point.
fn microseconds(us: f64) -> String {
    let (value, unit) = match us {
        1e6.. => (us / 1e6, "s"),
        1e3.. => (us / 1e3, "ms"),
        _ => (us, "us"),
    };
    let decimals = match value {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        for (us, text) in [
            (0.5, "0.50 us"),
            (31.25, "31.2 us"),
            (999.4, "999 us"),
            (12_345.0, "12.3 ms"),
            (2.5e6, "2.50 s"),
        ] {
            assert_eq!(microseconds(us), text);
        }
    }
}
