//! A result as one HTML page, which needs nothing else: its plots are inline SVG, and it has no
//! scripts. It is readable on light and on dark backgrounds, as the reader's system prefers.

mod plots;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::plots::Plot;
use crate::{
    count::{
        errors::{Cause, ErrorCounts},
        latency::Latencies,
        latency_report::LatencyReport,
        timeline::Recording,
    },
    plan::{Exchange, condition::metric::Metric},
    result::{
        baseline::BaselineReport,
        check::Check,
        measurement::{Measured, Measurement},
    },
    text::{
        numbers::{grouped, rate},
        warning::Warning,
    },
};

/// What a page shows of a result.
#[derive(Debug)]
pub struct Page<'r> {
    /// What the load was of.
    pub(crate) exchange: Exchange,
    /// The URL that connections were opened to.
    pub(crate) url: &'r str,
    /// What the load was, in words.
    pub(crate) setting: String,
    /// Correct exchanges a second.
    pub(crate) per_second: f64,
    /// Times from the planned instants of exchanges to their ends.
    pub(crate) latency: Option<LatencyReport>,
    /// Errors by kind.
    pub(crate) errors: &'r ErrorCounts,
    /// The most frequent causes of errors.
    pub(crate) causes: &'r [Cause],
    /// Doubts about the measurement.
    pub(crate) warnings: &'r [Warning],
    /// Conditions that must not hold, and whether they do.
    pub(crate) checks: &'r [Check],
    /// An earlier result, and this one's side of the comparison.
    pub(crate) baseline: Option<(&'r BaselineReport, Measurement)>,
    /// What was measured, second by second.
    pub(crate) recording: &'r Recording,
    /// All that somebody needs to do it again: names and values.
    pub(crate) facts: Vec<(&'static str, String)>,
}

const STYLE: &str = include_str!("style.css");

pub(super) fn text(page: &Page<'_>) -> Result<String, String> {
    let plots = plots::plots(page.recording, page.exchange).map_err(|error| error.to_string())?;
    let title = format!("Load on {}", page.url);
    let text = html! {
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
                p.faint { (page.setting) }
                (headline(page))
                (warnings(page))
                (checks(page))
                (latencies(page))
                (baseline(page))
                @for plot in &plots { (figure(plot)) }
                (errors(page))
                (facts(page))
            }
        }
    };
    Ok(text.into_string())
}

/// The numbers that are looked for first.
fn headline(page: &Page<'_>) -> Markup {
    let latency = page.latency.as_ref();
    let time = |value: fn(&LatencyReport) -> f64| {
        latency.map_or_else(|| "-".to_owned(), |latency| microseconds(value(latency)))
    };
    html! {
        dl.headline {
            div { dt { (page.exchange.plural()) "/s" } dd { (rate(page.per_second)) } }
            div { dt { "p50" } dd { (time(|it| it.p50)) } }
            div { dt { "p99" } dd { (time(|it| it.p99)) } }
            div { dt { "p99.9" } dd { (time(|it| it.p99_9)) } }
            div.bad[page.errors.total > 0] {
                dt { "errors" } dd { (grouped(page.errors.total)) }
            }
        }
    }
}

fn warnings(page: &Page<'_>) -> Markup {
    html! {
        @if !page.warnings.is_empty() {
            section.warnings {
                h2 { "Before you believe this" }
                ul { @for warning in page.warnings { li { (warning) } } }
            }
        }
    }
}

/// What must not be, and whether it is.
fn checks(page: &Page<'_>) -> Markup {
    html! {
        @if !page.checks.is_empty() {
            h2 { "Checks" }
            table {
                tr { th { "fails if" } th { "measured" } th {} }
                @for check in page.checks {
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
fn baseline(page: &Page<'_>) -> Markup {
    let Some((BaselineReport { file, began, ratios, earlier, .. }, now)) = &page.baseline else {
        return html! {};
    };
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
                    td { (show(now, metric)) }
                    td { (format!("{ratio:.3}")) }
                }
            }
        }
    }
}

/// The histograms of a load, with names for people. The first is the one that counts.
fn named_histograms(recording: &Recording, exchange: Exchange) -> [(&'static str, &Latencies); 6] {
    let histograms = &recording.total.histograms;
    let [a, b, c] = match exchange {
        Exchange::Message => [
            ("latency", &histograms.latency),
            ("latency from sending on", &histograms.uncorrected),
            ("send lag", &histograms.lag),
        ],
        Exchange::Cycle => [
            ("cycle", &histograms.latency),
            ("handshake", &histograms.handshake),
            ("begin lag", &histograms.lag),
        ],
    };
    let [tls, settings, stream] = [
        ("TLS handshake", &histograms.tls),
        ("SETTINGS of HTTP/2", &histograms.settings),
        ("stream of HTTP/2", &histograms.stream),
    ];
    [a, b, c, tls, settings, stream]
}

fn latencies(page: &Page<'_>) -> Markup {
    let rows = named_histograms(page.recording, page.exchange);
    let rows = rows
        .into_iter()
        .filter_map(|(name, latencies)| Some((name, LatencyReport::new(latencies)?)));
    html! {
        h2 { "Latency" }
        table.numbers {
            tr {
                th {} th { "p50" } th { "p90" } th { "p99" } th { "p99.9" } th { "p99.99" }
                th { "max" } th { "mean" } th { (page.exchange.plural()) }
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

fn errors(page: &Page<'_>) -> Markup {
    html! {
        @if page.errors.total > 0 {
            h2 { "Errors" }
            p { (page.errors) }
            ul { @for cause in page.causes { li { (cause) } } }
        }
    }
}

fn facts(page: &Page<'_>) -> Markup {
    html! {
        h2 { "The run" }
        table { @for (name, value) in &page.facts { tr { th { (name) } td { (value) } } } }
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
