//! The configuration file: TOML whose names are those of the flags.
//!
//! A value of the file becomes its flag's default, so flags beat variables, variables beat the file,
//! and each value goes through the flag's own parser. Which flags there are is left to
//! `command_line`. A file with one fault is refused as a whole.

use std::{
    fmt, fs,
    io::{self, Read},
    num::IntErrorKind::{NegOverflow, PosOverflow},
    ops::Range,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, Args, Command,
    builder::Resettable,
    error::{ContextKind, ContextValue, Error},
};
use thiserror::Error;
use toml::de::{DeTable, DeValue};

/// Where values come from that neither flags nor variables set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Configuration file")]
pub struct FileFlag {
    /// TOML file with values for the flags, by their names; SIGHUP reads it again [default: none]
    #[arg(long = "config", value_name = "FILE")]
    pub path: Option<PathBuf>,
}

/// The most bytes that a file may have: far more than all flags take.
pub const FILE_LEN_MAX: u64 = 1 << 20;

/// The most faults that are told of one file.
const FAULTS_MAX: usize = 20;

/// The longest name of which a similar flag is looked for.
const SIMILAR_LEN_MAX: usize = 64;

/// The name of the flag that names the file, which the file itself cannot set.
const CONFIG: &str = "config";

/// What is wrong with a file, one fault for each place, in the file's order; at most 20.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    file: PathBuf,
    faults: Vec<Fault>,
}

/// A fault, and the line that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    /// Counted from 1; `None` if the fault is the file's.
    line: Option<usize>,
    cause: Cause,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
enum Cause {
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("is no regular file, but SIGHUP has to be able to read it again")]
    NotRegular,
    #[error("has more than {FILE_LEN_MAX} bytes")]
    TooLong,
    #[error("is not UTF-8 text")]
    NotText,
    #[error("{0}")]
    NotToml(String),
    #[error("{name}: no flag has this name{advice}")]
    UnknownName { name: String, advice: String },
    #[error("{name}: the file is named by a flag or a variable, and cannot name another")]
    OtherFile { name: String },
    #[error("{name} = {value}: {allowed}")]
    WrongValue { name: String, value: String, allowed: String },
}

/// The values that a file has for flags.
#[derive(Debug, Default)]
pub(super) struct FileValues(Vec<FileValue>);

#[derive(Debug)]
struct FileValue {
    /// The flag's id in clap.
    id: String,
    line: usize,
    values: Vec<String>,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Fault { line, cause }) in self.faults.iter().enumerate() {
            let end = if at == 0 { "" } else { "\n" };
            let file = self.file.display();
            match line {
                Some(line) => write!(f, "{end}{file}, line {line}: {cause}")?,
                None => write!(f, "{end}{file} {cause}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for FileError {}

impl FileError {
    fn whole(file: &Path, cause: Cause) -> Self {
        Self { file: file.to_owned(), faults: vec![Fault { line: None, cause }] }
    }
}

/// Reads a file's text.
pub(super) fn read(file: &Path) -> Result<String, FileError> {
    let refuse = |cause| FileError::whole(file, cause);
    let unreadable = |error: io::Error| refuse(Cause::Unreadable(error.to_string()));
    // To open a pipe would wait for its writer.
    let flags = libc::O_NONBLOCK;
    let opened =
        fs::OpenOptions::new().read(true).custom_flags(flags).open(file).map_err(unreadable)?;
    if !opened.metadata().map_err(unreadable)?.is_file() {
        return Err(refuse(Cause::NotRegular));
    }
    let mut bytes = Vec::new();
    opened.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        return Err(refuse(Cause::TooLong));
    }
    String::from_utf8(bytes).map_err(|_| refuse(Cause::NotText))
}

impl FileValues {
    /// Reads the text of a file, for the flags of a command.
    pub(super) fn parse(file: &Path, text: &str, command: &Command) -> Result<Self, FileError> {
        let line = |span: Range<usize>| {
            let before = text.get(..span.start).unwrap_or(text);
            Some(1 + before.matches('\n').count())
        };
        let table = DeTable::parse(text).map_err(|error| {
            let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            let fault = Fault { line: error.span().and_then(line), cause: Cause::NotToml(message) };
            FileError { file: file.to_owned(), faults: vec![fault] }
        })?;
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let (mut values, mut faults) = (Vec::new(), Vec::new());
        for (name, value) in entries {
            if faults.len() == FAULTS_MAX {
                break;
            }
            let line = line(name.span());
            match read_entry(command, name.get_ref(), value.get_ref()) {
                Ok((id, texts)) => {
                    values.push(FileValue { id, line: line.unwrap_or(1), values: texts });
                }
                Err(cause) => faults.push(Fault { line, cause }),
            }
        }
        if faults.is_empty() {
            return Ok(Self(values));
        }
        Err(FileError { file: file.to_owned(), faults })
    }

    /// The command with these values as its flags' defaults.
    pub(super) fn apply(&self, command: Command) -> Command {
        // `mut_arg` would change the order of the flags.
        command.mut_args(|flag| {
            let value = self.0.iter().find(|value| flag.get_id() == value.id.as_str());
            match value {
                Some(FileValue { values, .. }) => flag.default_values(values),
                None => flag,
            }
        })
    }

    /// The line that has a flag's value, if any has.
    pub(super) fn line(&self, id: &str) -> Option<usize> {
        self.0.iter().find(|value| value.id == id).map(|value| value.line)
    }
}

/// The flag that an entry is for, and the texts of its values.
fn read_entry(
    command: &Command,
    name: &str,
    value: &DeValue<'_>,
) -> Result<(String, Vec<String>), Cause> {
    let Some(flag) = command.get_arguments().find(|flag| flag.get_long() == Some(name)) else {
        let advice = advice(command, name, value);
        return Err(Cause::UnknownName { name: quoted(name), advice });
    };
    if name == CONFIG {
        return Err(Cause::OtherFile { name: name.to_owned() });
    }
    let refuse =
        |allowed| Cause::WrongValue { name: name.to_owned(), value: written(value), allowed };
    let texts = match value {
        DeValue::Array(items) if is_list(flag) => {
            items.iter().map(|item| text_of(flag, item.get_ref())).collect()
        }
        other => text_of(flag, other).map(|text| vec![text]),
    };
    let texts = texts.map_err(refuse)?;
    if texts.is_empty() && !flag.get_default_values().is_empty() {
        return Err(refuse("the array must have one value or more".to_owned()));
    }
    try_values(flag, name, &texts).map_err(refuse)?;
    Ok((flag.get_id().to_string(), texts))
}

fn is_list(flag: &Arg) -> bool {
    matches!(flag.get_action(), ArgAction::Append)
}

/// Whether a flag is a switch, with a value or without.
fn is_switch(flag: &Arg) -> bool {
    matches!(flag.get_action(), ArgAction::SetTrue) || has_value_name(flag, &["CHOICE"])
}

fn has_value_name(flag: &Arg, names: &[&str]) -> bool {
    flag.get_value_names().is_some_and(|has| has.iter().any(|name| names.contains(&name.as_str())))
}

/// A single value as it would stand behind its flag, or what is allowed instead.
fn text_of(flag: &Arg, value: &DeValue<'_>) -> Result<String, String> {
    let takes_numbers = has_value_name(flag, &["COUNT", "SIZE"]);
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(is_on) if is_switch(flag) => Ok(is_on.to_string()),
        DeValue::Integer(number) if takes_numbers => {
            match i128::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Ok(number.to_string()),
                Err(error) if matches!(error.kind(), PosOverflow | NegOverflow) => {
                    Err("the number is too large".to_owned())
                }
                // The parser of TOML takes anything for digits that begins with one.
                Err(_) => Err("this is no number".to_owned()),
            }
        }
        _ => Err(format!(
            "expected {}",
            match (is_list(flag), is_switch(flag), takes_numbers) {
                (true, ..) => "a text, or an array of texts",
                (_, true, _) => "true or false, or \"on\" or \"off\"",
                (.., true) => "a whole number or a text",
                _ => "a text, in quotes",
            }
        )),
    }
}

/// Reads values with the flag's own parser, and returns what is allowed if they are not.
fn try_values(flag: &Arg, name: &str, texts: &[String]) -> Result<(), String> {
    if let Some(delimiter) = flag.get_value_delimiter()
        && texts.iter().any(|text| text.contains(delimiter))
    {
        return Err(format!("has {delimiter:?} in a value, but each is an element of an array"));
    }
    let mut alone = flag.clone().env(Resettable::Reset).default_value(Resettable::Reset);
    if is_switch(flag) {
        alone = alone.action(ArgAction::Set).num_args(1);
    }
    let command = Command::new(CONFIG).no_binary_name(true).disable_help_flag(true).arg(alone);
    let arguments = texts.iter().map(|text| format!("--{name}={text}"));
    command.try_get_matches_from(arguments).map(drop).map_err(|error| allowed(&error))
}

/// What clap says is allowed, without the flag and the value.
fn allowed(error: &Error) -> String {
    if let Some(source) = std::error::Error::source(error) {
        return source.to_string();
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) if !values.is_empty() => {
            format!("expected {}", values.join(", "))
        }
        _ => "a value is missing".to_owned(),
    }
}

/// What helps if a name is unknown.
fn advice(command: &Command, name: &str, value: &DeValue<'_>) -> String {
    if matches!(value, DeValue::Table(_)) {
        return "; names stand alone, without sections".to_owned();
    }
    if name.len() > SIMILAR_LEN_MAX {
        return String::new();
    }
    let dashed = name.replace('_', "-");
    let error = command.clone().try_get_matches_from(["", &format!("--{dashed}")]);
    let suggested = error.err().and_then(|error| match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(flag)) => Some(flag.trim_start_matches('-').to_owned()),
        _ => None,
    });
    let is_flag = command.get_arguments().any(|flag| flag.get_long() == Some(&*dashed));
    match suggested.or(is_flag.then_some(dashed)) {
        Some(known) => format!(", but {known} is one"),
        None => "; ringecho --help lists the flags".to_owned(),
    }
}

/// The most characters of a value that a message repeats.
const WRITTEN_LEN_MAX: usize = 80;

/// A value as the file has it, so far as a message has room for it.
fn written(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => shortened(&escaped(number.as_str())),
        DeValue::Float(number) => shortened(&escaped(number.as_str())),
        DeValue::Boolean(is_on) => is_on.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) => {
            let items: Vec<_> = items.iter().take(4).map(|item| written(item.get_ref())).collect();
            shortened(&format!("[{}]", items.join(", ")))
        }
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A text in quotes, with control characters escaped.
fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

/// A text without quotes, with control characters escaped.
fn escaped(text: &str) -> String {
    text.escape_debug().to_string()
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= WRITTEN_LEN_MAX {
        return text.to_owned();
    }
    text.chars().take(WRITTEN_LEN_MAX).chain("...".chars()).collect()
}
