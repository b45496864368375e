//! One run of the program.

use std::{
    fs,
    path::PathBuf,
    process::{self, Command, Output},
    sync::{Arc, Once},
};

use serde_json::{Value, json};
use signal_hook::consts::SIGHUP;

/// The program, with arguments as one would type them.
pub(crate) fn program(arguments: &str) -> Command {
    hear_hangups();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringecho-loadtest"));
    command.args(arguments.split_whitespace());
    command
}

/// Has programs that are started here hear hang-ups, also where this process was started with `nohup`:
/// they would ignore what it ignores, but not what it catches.
fn hear_hangups() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        signal_hook::flag::register(SIGHUP, Arc::default()).unwrap();
    });
}

/// The program, which may have so many open files at most.
pub(crate) fn program_with_descriptors(limit: u64) -> Command {
    let mut command = Command::new("sh");
    let script = format!("ulimit -n {limit} && exec \"$@\"");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_ringecho-loadtest")]);
    command
}

/// What a run that wrote a report left behind.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) report: Value,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Reads what a run with `--json -` printed, and checks it against the schema.
    pub(crate) fn read(output: &Output) -> Self {
        let outcome = Self::read_any(output);
        assert_matches_schema(&outcome.report);
        outcome
    }

    /// Reads what any subcommand with `--json -` printed.
    pub(crate) fn read_any(output: &Output) -> Self {
        let stderr = String::from_utf8(output.stderr.clone()).unwrap();
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("no JSON on standard output ({error}): {stderr}"));
        Self { code: output.status.code(), report, stderr }
    }

    /// The number at `path`, such as `/errors/wrong`.
    pub(crate) fn number(&self, path: &str) -> u64 {
        let value = self.report.pointer(path).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("no number {path} in {:#}", self.report))
    }

    /// Asserts that these errors were counted, no others, and that the exit code says so.
    #[track_caller]
    pub(crate) fn assert_errors(&self, expected: &[(&str, u64)]) {
        let errors = self.report["errors"].as_object().unwrap();
        let mut counted: Vec<(&str, u64)> = errors
            .iter()
            .map(|(kind, count)| (kind.as_str(), count.as_u64().unwrap()))
            .filter(|(kind, count)| *kind != "total" && *count > 0)
            .collect();
        let mut expected = expected.to_vec();
        counted.sort_unstable();
        expected.sort_unstable();
        assert_eq!(counted, expected, "{:#}\n{}", self.report, self.stderr);
        assert_eq!(
            self.number("/errors/total"),
            expected.iter().map(|(_, count)| count).sum::<u64>()
        );
        assert_eq!(self.code, Some(1));
    }

    /// Asserts that there were echoes and nothing went wrong.
    ///
    /// On a busy machine it can happen that all echoes arrive after the measured window. Then the
    /// exit code has to say that nothing was measured.
    #[track_caller]
    pub(crate) fn assert_success(&self) {
        assert_eq!(self.number("/errors/total"), 0, "{:#}\n{}", self.report, self.stderr);
        assert!(self.number("/messages_total") > 0, "{:#}\n{}", self.report, self.stderr);
        let code = i32::from(self.number("/messages") == 0);
        assert_eq!(self.code, Some(code), "{:#}\n{}", self.report, self.stderr);
    }

    /// Asserts that a cause of some error contains `text`.
    #[track_caller]
    pub(crate) fn assert_cause(&self, text: &str) {
        let causes = self.report["causes"].as_array().unwrap();
        let found = causes.iter().any(|cause| cause["cause"].as_str().unwrap().contains(text));
        assert!(found, "no cause contains {text:?}: {causes:#?}");
    }
}

/// A file of one test's own; `name` is one that no other test has.
pub(crate) fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("ringecho-loadtest-{}-{name}", process::id()))
}

/// What `measure` returns for a window in which it sees enough: a busy machine may need a longer one
/// than the first. For the last one it is what has been seen.
pub(crate) fn in_long_enough<T>(
    mut measure: impl FnMut(&str) -> T,
    is_enough: impl Fn(&T) -> bool,
) -> T {
    for window in ["300ms", "3s"] {
        let seen = measure(window);
        if is_enough(&seen) {
            return seen;
        }
    }
    measure("30s")
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &str) -> Outcome {
    Outcome::read(&program(&format!("{arguments} --json -")).output().unwrap())
}

/// A directory for the files of one test, removed with them.
pub(crate) struct Files(PathBuf);

impl Files {
    /// `test` is a name that no other test has.
    pub(crate) fn new(test: &str) -> Self {
        let name = format!("ringecho-loadtest-{}-{test}", process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
pub(crate) fn assert_matches_schema(report: &Value) {
    assert_matches(report, include_str!("../../report.schema.json"));
}

/// Asserts that the result of a subcommand is as the schema's definition `name` says.
#[track_caller]
pub(crate) fn assert_matches_definition(report: &Value, name: &str) {
    assert_matches_definition_of(report, include_str!("../../report.schema.json"), name);
}

/// The same of the definition `name` in `schema`.
#[track_caller]
pub(crate) fn assert_matches_definition_of(report: &Value, schema: &str, name: &str) {
    let mut schema: Value = serde_json::from_str(schema).unwrap();
    let definitions = schema["$defs"].take();
    let schema = json!({ "$ref": format!("#/$defs/{name}"), "$defs": definitions });
    assert_matches(report, &schema.to_string());
}

/// Asserts that a subcommand's schema describes some parts as a run's does: each a path in `schema` and
/// one in the run's.
#[track_caller]
pub(crate) fn assert_same_shapes(schema: &str, parts: &[(&str, &str)]) {
    let ours: Value = serde_json::from_str(schema).unwrap();
    let of_a_run: Value = serde_json::from_str(include_str!("../../report.schema.json")).unwrap();
    for (path, in_a_run) in parts {
        assert!(ours.pointer(path).is_some());
        assert_eq!(ours.pointer(path), of_a_run.pointer(in_a_run), "{path}");
    }
}

/// Asserts that a result has the shape that `schema` describes.
#[track_caller]
pub(crate) fn assert_matches(report: &Value, schema: &str) {
    let schema = serde_json::from_str(schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let faults: Vec<String> = validator
        .iter_errors(report)
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}\n{report:#}");
}
