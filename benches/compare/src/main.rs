//! Compares echo servers on one machine, in turns: what one message costs each of them, beside
//! what it costs a raw TCP echo; or what a connection costs that comes and goes; or what public
//! boards rank servers by.
//!
//! ```text
//! cli -> plan (servers, cases, rounds) -> run -> {process, generator} -> results -> {table, picture}
//! ```

mod cli;
mod generator;
mod host;
mod picture;
mod plan;
mod process;
mod results;
mod run;
mod server;
mod statistics;
mod table;
mod words;

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, bail};
use clap::Parser;
use ringecho::host::descriptors::raise_limit;

use crate::{cli::Args, host::Host, plan::Mode, process::Interrupt, results::Results};

/// A value of a flag turned out to be wrong after the command line was parsed.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    match compare(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            EXIT_USAGE.into()
        }
    }
}

/// Says whether every server that was compared echoed every message.
fn compare(args: &Args) -> anyhow::Result<bool> {
    let mut plan = args.plan()?;
    // Servers and generator inherit it, and need a descriptor for each connection.
    let limit = raise_limit(u64::MAX).context("cannot raise the limit on open files")?;
    if plan.mode == Mode::Boards {
        plan.leave_out_beyond(limit);
    }
    if let (true, Some(left_out)) = (plan.cases.is_empty(), &plan.left_out) {
        bail!("--connections: none is left to compare: {left_out}");
    }
    let host = Host::read();
    for warning in plan.warnings() {
        eprintln!("warning: {warning}");
    }
    eprintln!("{}", plan.announcement());
    let interrupt = Interrupt::catch().context("cannot handle signals")?;
    let results = run::run(plan, host, &args.programs()?, &interrupt);
    publish(args, &results)?;
    Ok(results.is_complete())
}

/// Writes the files that were asked for.
fn publish(args: &Args, results: &Results) -> anyhow::Result<()> {
    if let Some(file) = &args.json {
        let mut json = serde_json::to_string_pretty(results)?;
        json.push('\n');
        write(file, &json)?;
    }
    if let Some(file) = &args.markdown {
        write(file, &table::markdown(results))?;
    }
    if let Some(file) = &args.svg {
        let picture = match results.plan.mode {
            Mode::Cases | Mode::Churn | Mode::Boards => picture::ratios(results),
            Mode::Sweep(axis) => picture::sweep(results, axis),
            Mode::Rates => unreachable!("--svg is refused beside --rates"),
        };
        write(file, &picture.context("cannot draw the picture")?)?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
