//! Settings: the value of every flag as text, and where it comes from. They are shown, and two of
//! them are compared when the configuration file is read again.

use std::fmt::{self, Write};

use clap::{ArgAction, ArgMatches, Command, parser::ValueSource};

use super::file::FileValues;

/// The settings of all flags, in the order of the help.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(Vec<Setting>);

/// A flag's setting.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    flag: String,
    group: String,
    values: Vec<String>,
    is_list: bool,
    source: Source,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Default,
    /// The configuration file, and the line in it.
    File(usize),
    Variable(String),
    Flag,
}

/// A flag whose value is another than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The flag's name and both values, as `hold: 4KiB -> 8KiB`.
    pub text: String,
    /// Whether a running server takes the new value over.
    pub is_taken_over: bool,
}

/// The groups of flags, by their headings in the help, that a running server takes over as a whole
/// ([`Config::take_over`](super::Config::take_over)), and the single flags.
const GROUPS_TAKEN_OVER: [&str; 6] = ["Proxies", "Handshake", "HTTP", "Time", "Bounds", "HTTP/2"];
const FLAGS_TAKEN_OVER: [&str; 1] = ["log-level"];

impl Settings {
    pub(super) fn new(command: &Command, matches: &ArgMatches, file: &FileValues) -> Self {
        let flags = command.get_arguments().filter_map(|flag| Some((flag, flag.get_long()?)));
        // Help and version have no group.
        let flags = flags.filter_map(|(flag, name)| Some((flag, name, flag.get_help_heading()?)));
        let setting = |(flag, name, group): (&clap::Arg, &str, &str)| {
            let id = flag.get_id().as_str();
            let raw = matches.get_raw(id).unwrap_or_default();
            let variable =
                || flag.get_env().map(|name| name.display().to_string()).unwrap_or_default();
            Setting {
                flag: name.to_owned(),
                group: group.to_owned(),
                values: raw.map(|value| value.display().to_string()).collect(),
                is_list: matches!(flag.get_action(), ArgAction::Append),
                source: match (matches.value_source(id), file.line(id)) {
                    (Some(ValueSource::CommandLine), _) => Source::Flag,
                    (Some(ValueSource::EnvVariable), _) => Source::Variable(variable()),
                    (_, Some(line)) => Source::File(line),
                    (_, None) => Source::Default,
                },
            }
        };
        Self(flags.map(setting).collect())
    }

    /// What is another value in `new`.
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        let changed = self.0.iter().zip(&new.0).filter(|(old, new)| old.values != new.values);
        let change = |(old, new): (&Setting, &Setting)| Change {
            text: format!("{}: {} -> {}", old.flag, old.brief(), new.brief()),
            is_taken_over: old.is_taken_over(),
        };
        changed.map(change).collect()
    }

    /// Takes over from `new` what a running server takes over.
    pub fn take_over(&mut self, new: &Self) {
        for (old, new) in self.0.iter_mut().zip(&new.0).filter(|(old, _)| old.is_taken_over()) {
            old.clone_from(new);
        }
    }
}

impl Setting {
    fn is_taken_over(&self) -> bool {
        GROUPS_TAKEN_OVER.contains(&&*self.group) || FLAGS_TAKEN_OVER.contains(&&*self.flag)
    }

    /// The values for a line of the log.
    fn brief(&self) -> String {
        match (self.is_list, &*self.values) {
            (true, values) => format!("[{}]", values.join(", ")),
            (false, []) => "unset".to_owned(),
            (false, values) => values.concat(),
        }
    }
}

/// As a configuration file, with the source of each value as a comment.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut group = "";
        for setting in &self.0 {
            let Setting { flag, values, is_list, source, .. } = setting;
            // The file cannot name itself.
            if setting.group != group && flag != "config" {
                let empty_line = if group.is_empty() { "" } else { "\n" };
                writeln!(f, "{empty_line}# {}", setting.group)?;
                group = &setting.group;
            }
            let texts: Vec<_> = values.iter().map(|value| toml_text(value)).collect();
            let source = match source {
                Source::Default => "default".to_owned(),
                Source::File(line) => format!("line {line} of the file"),
                Source::Variable(name) => name.clone(),
                Source::Flag => "flag".to_owned(),
            };
            match (is_list, &*texts) {
                _ if flag == "config" => {}
                (true, texts) if !texts.is_empty() => {
                    writeln!(f, "{flag} = [{}] # {source}", texts.join(", "))?;
                }
                (false, [text]) => writeln!(f, "{flag} = {text} # {source}")?,
                _ => writeln!(f, "# {flag} is not set")?,
            }
        }
        Ok(())
    }
}

/// A text as TOML writes it.
fn toml_text(text: &str) -> String {
    let mut written = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => written.extend(['\\', character]),
            control if control.is_control() => {
                let _ = write!(written, "\\u{:04x}", u32::from(control));
            }
            other => written.push(other),
        }
    }
    written.push('"');
    written
}
