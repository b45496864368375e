//! One run of the load generator against one server.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, bail, ensure};
use ringecho_loadtest::text::warning::{Warning, WarningCode};
use serde::Deserialize;

use crate::{
    plan::{Case, Mode, Plan, Unit},
    process::{Interrupt, RunningServer},
    results::Measurement,
    server::{Echo, Programs, Server},
};

/// Addresses that many connections come from. One alone has some 28,000 ports, and those of earlier
/// runs stay taken for a minute (`TIME_WAIT`) where `net.ipv4.tcp_tw_reuse` is 0.
const SOURCES: &str = "127.0.0.2-127.0.0.9";

/// What is needed of the generator's result: of messages (loadtest/report.schema.json), or of cycles
/// (loadtest/churn.schema.json).
#[derive(Debug, Deserialize)]
struct Report {
    #[serde(rename = "messages_per_second", alias = "cycles_per_second")]
    rate: f64,
    #[serde(alias = "cycle_us")]
    latency_us: Option<Latency>,
    errors: Errors,
    causes: Vec<Cause>,
    warnings: Vec<Warning>,
    generator: Option<Usage>,
    server: Option<Usage>,
}

#[derive(Debug, Deserialize)]
struct Latency {
    p50: f64,
    p99: f64,
    p99_9: f64,
}

#[derive(Debug, Deserialize)]
struct Errors {
    total: u64,
}

#[derive(Debug, Deserialize)]
struct Cause {
    kind: String,
    cause: String,
}

#[derive(Debug, Deserialize)]
struct Usage {
    #[serde(rename = "cpu_us_per_message", alias = "cpu_us_per_cycle")]
    cpu_us: Option<Cpu>,
    cpus_busy: f64,
    resident_bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Cpu {
    user: f64,
    total: f64,
}

/// Runs a case against a server. A single message that did not come back as it was sent is an
/// error.
pub(crate) fn drive(
    programs: &Programs,
    plan: &Plan,
    case: &Case,
    server: &Server,
    running: &RunningServer,
    interrupt: &Interrupt,
) -> anyhow::Result<Measurement> {
    let mut command = Command::new(programs.path("ringecho-loadtest"));
    command.args(arguments(plan, case, server, running.port(), running.pid()));
    // A Ctrl-C at the terminal reaches it through `interrupt` alone.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let generator = command.spawn().context("cannot run the load generator")?;
    let output = interrupt.wait(generator.id(), || generator.wait_with_output())?;
    measurement(case.unit, running.resident_at_start(), &output)
}

/// What the generator is told, of a server that listens on `port` in the process `pid`.
fn arguments(plan: &Plan, case: &Case, server: &Server, port: u16, pid: u32) -> Vec<String> {
    let cpus: Vec<String> = server.generator_cpus.iter().map(ToString::to_string).collect();
    let mut arguments = vec![server.url(port)];
    match (case.unit, case.rate) {
        (Unit::Message, Some(rate)) => arguments.push(format!("--rate={rate}")),
        (Unit::Message, None) => arguments.push(format!("--depth={}", case.depth)),
        (Unit::Cycle, _) => arguments.insert(0, "churn".to_owned()),
    }
    for (flag, value) in [
        ("connections", case.connections.to_string()),
        ("payload", case.payload_bytes.to_string()),
        ("duration", humantime::format_duration(plan.duration(case)).to_string()),
        ("warmup", humantime::format_duration(plan.warmup(case)).to_string()),
        ("threads", cpus.len().to_string()),
        ("cpus", cpus.join(",")),
        ("server-pid", pid.to_string()),
        ("json", "-".to_owned()),
    ] {
        arguments.push(format!("--{flag}={value}"));
    }
    if server.echo == Echo::Bytes {
        arguments.push("--raw-tcp".to_owned());
    }
    if server.is_tls {
        arguments.push("--insecure".to_owned());
    }
    if case.is_text {
        arguments.push("--text".to_owned());
    }
    if plan.mode == Mode::Boards {
        arguments.push(format!("--source={SOURCES}"));
    }
    arguments
}

fn measurement(
    unit: Unit,
    resident_at_start: Option<u64>,
    output: &Output,
) -> anyhow::Result<Measurement> {
    let Ok(report) = serde_json::from_slice::<Report>(&output.stdout) else {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("the generator has no result: {}", said.trim());
    };
    if report.errors.total > 0 {
        let cause = report.causes.first().map(|cause| format!("{}: {}", cause.kind, cause.cause));
        bail!("{} errors: {}", report.errors.total, cause.as_deref().unwrap_or("missing echoes"));
    }
    let nothing = match unit {
        Unit::Message => "no message came back while it was measured",
        Unit::Cycle => "no cycle ended while it was measured",
    };
    let latency = report.latency_us.context(nothing)?;
    let server = report.server.context("the server's process has ended")?;
    let generator = report.generator.context("the generator did not measure itself")?;
    let cpu = server.cpu_us.context(nothing)?;
    ensure!(output.status.success(), "the generator failed: {}", output.status);
    Ok(Measurement {
        unit,
        server_cpu_us: cpu.total,
        server_user_us: cpu.user,
        server_cpus_busy: server.cpus_busy,
        server_resident_bytes: server.resident_bytes,
        server_added_bytes: resident_at_start
            .map(|at_start| server.resident_bytes.saturating_sub(at_start)),
        generator_cpus_busy: generator.cpus_busy,
        is_generator_saturated: report
            .warnings
            .iter()
            .any(|warning| warning.code == WarningCode::GeneratorSaturated),
        rate: report.rate,
        p50_us: latency.p50,
        p99_us: latency.p99,
        p99_9_us: latency.p99_9,
    })
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use serde_json::{Value, json};

    use super::*;
    use crate::results::{Results, examples};

    fn report() -> Value {
        let usage = json!({
            "cpu_us_per_message": { "user": 0.1, "system": 0.4, "total": 0.5 },
            "cpus_busy": 0.9,
            "resident_bytes": 4096,
        });
        json!({
            "messages_per_second": 2e6,
            "latency_us": { "p50": 10.0, "p99": 20.0, "p99_9": 30.0 },
            "errors": { "total": 0 },
            "causes": [],
            "warnings": [{ "code": "debug_build", "text": "slow" }],
            "generator": usage,
            "server": usage,
        })
    }

    fn outcome(report: &Value) -> anyhow::Result<Measurement> {
        let stdout = report.to_string().into_bytes();
        measurement(
            Unit::Message,
            Some(1024),
            &Output { status: ExitStatus::from_raw(0), stdout, stderr: b"oh\n".into() },
        )
    }

    #[test]
    fn boards_have_texts_that_come_from_many_addresses() {
        let told = |results: &Results| {
            let plan = &results.plan;
            arguments(plan, &plan.cases[0], &plan.servers[2], 81, 7)
        };
        let of_boards = told(&examples::boards());
        for argument in ["--text", "--payload=5", "--connections=512", "--depth=16"] {
            assert!(of_boards.iter().any(|other| other == argument), "{of_boards:?}");
        }
        assert!(of_boards.contains(&format!("--source={SOURCES}")), "{of_boards:?}");
        let of_others = told(&examples::results());
        assert!(!of_others.iter().any(|other| other == "--text"), "{of_others:?}");
        assert!(!of_others.iter().any(|other| other.starts_with("--source")), "{of_others:?}");
    }

    #[test]
    fn servers_over_tls_are_believed() {
        let mut plan = examples::results().plan;
        let told = |plan: &Plan| arguments(plan, &plan.cases[0], &plan.servers[0], 81, 7);
        assert!(!told(&plan).contains(&"--insecure".to_owned()));
        plan.servers[0].is_tls = true;
        assert!(told(&plan).contains(&"--insecure".to_owned()));
        assert!(told(&plan)[0].starts_with("wss://"));
    }

    #[test]
    fn a_report_is_read() {
        let expected = Measurement {
            unit: Unit::Message,
            server_cpu_us: 0.5,
            server_user_us: 0.1,
            server_cpus_busy: 0.9,
            server_resident_bytes: 4096,
            server_added_bytes: Some(3072),
            generator_cpus_busy: 0.9,
            is_generator_saturated: false,
            rate: 2e6,
            p50_us: 10.0,
            p99_us: 20.0,
            p99_9_us: 30.0,
        };
        assert_eq!(outcome(&report()).unwrap(), expected);
        let mut saturated = report();
        saturated["warnings"][0]["code"] = "generator_saturated".into();
        let expected = Measurement { is_generator_saturated: true, ..expected };
        assert_eq!(outcome(&saturated).unwrap(), expected);
    }

    #[test]
    fn a_run_with_errors_is_none_and_says_why() {
        let mut wrong = report();
        wrong["errors"]["total"] = 3.into();
        assert_eq!(outcome(&wrong).unwrap_err().to_string(), "3 errors: missing echoes");
        wrong["causes"] = json!([{ "kind": "wrong", "cause": "changed at byte 7", "count": 3 }]);
        assert_eq!(outcome(&wrong).unwrap_err().to_string(), "3 errors: wrong: changed at byte 7");
        let mut silent = report();
        silent["latency_us"] = Value::Null;
        assert!(outcome(&silent).unwrap_err().to_string().starts_with("no message came back"));
        assert_eq!(outcome(&json!({})).unwrap_err().to_string(), "the generator has no result: oh");
    }
}
