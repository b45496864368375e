//! The command line: every flag of the configuration and of the log, each also a variable.
//!
//! Flags, defaults and ranges stand in the files of their groups. This file has what all flags
//! share: the names of variables, variables without a value, and the text of a refusal.
#![expect(clippy::doc_markdown, reason = "these comments are the help text on a terminal")]

use std::{env, fmt};

use clap::{
    Arg, Command, CommandFactory, FromArgMatches, Parser,
    builder::ValueParser,
    error::{ContextKind, ContextValue},
};

use crate::{
    config::{Config, LogFormat, Logging},
    host::arguments::join_negative_values,
};

/// A WebSocket echo server for Linux: io_uring, one runtime per core, frames echoed in place.
///
/// Every flag can also be given as a variable: --receive-buffer as RINGECHO_RECEIVE_BUFFER, and
/// those that may be repeated with commas between the values. A variable without a value is not set.
/// Sizes are written as 65536 or 64KiB, times as 30s or 2min.
#[derive(Debug, Parser)]
#[command(
    name = "ringecho", version, about, long_about, max_term_width = 100,
    mut_args = with_variable
)]
pub struct Arguments {
    /// What the server is to do.
    #[command(flatten)]
    pub config: Config,

    /// What the program logs, and in what form.
    #[command(flatten)]
    pub logging: Logging,
}

/// Why the program does not run: its command line is wrong, or asks for help or the version.
#[derive(Debug)]
pub struct Refusal {
    /// clap's error, or the help or version that was asked for.
    pub error: clap::Error,
    /// The form of the log that the command line asks for.
    pub log_format: LogFormat,
}

impl Arguments {
    /// Parses the command line and the variables of this process.
    pub fn from_process() -> Result<Self, Refusal> {
        let arguments = join_negative_values(env::args_os());
        let command = without_empty_variables(Self::command());
        command
            .clone()
            .try_get_matches_from(&arguments)
            .and_then(|matches| Self::from_arg_matches(&matches))
            .map_err(|error| Refusal {
                error: with_variable_named(error),
                log_format: with_any_values(command)
                    .try_get_matches_from(arguments)
                    .ok()
                    .and_then(|matches| matches.get_one(LOG_FORMAT).copied())
                    .unwrap_or(LogFormat::Text),
            })
    }
}

/// The reason in one line, for a log in JSON.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.error.to_string();
        let reason = text.split("\n\n").next().unwrap_or(&text);
        let reason = reason.strip_prefix("error: ").unwrap_or(reason);
        f.write_str(&reason.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// Gives a flag its variable. The help does not list the variables, since it says once how they are
/// named.
fn with_variable(flag: Arg) -> Arg {
    let name = flag.get_long().expect("every flag has a long name");
    let variable = format!("RINGECHO_{}", name.to_uppercase().replace('-', "_"));
    // Further paragraphs of a flag's comment are reasons, for readers of the source.
    flag.env(variable).hide_env(true).long_help(None::<&str>)
}

/// Ignores variables without a value: a compose file writes a variable like that if it is not set.
fn without_empty_variables(command: Command) -> Command {
    command.mut_args(|argument| {
        let value = argument.get_env().and_then(env::var_os);
        if value.is_some_and(|value| value.is_empty()) {
            argument.env(None::<&str>)
        } else {
            argument
        }
    })
}

const LOG_FORMAT: &str = "log_format";

/// A command that takes any value for every flag but `--log-format`. It finds the form of the log
/// even if another flag's value is wrong, so that the refusal has that form.
fn with_any_values(command: Command) -> Command {
    command.ignore_errors(true).mut_args(|argument| {
        if argument.get_id() == LOG_FORMAT {
            argument
        } else {
            argument.value_parser(ValueParser::os_string())
        }
    })
}

/// Names the variable beside the flag if the wrong value may have come from the variable.
fn with_variable_named(mut error: clap::Error) -> clap::Error {
    let mut command = Arguments::command();
    command.build();
    if let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg)
        && let Some(argument) = command.get_arguments().find(|it| it.to_string() == *flag)
        && let Some(variable) = argument.get_env().filter(|name| env::var_os(name).is_some())
    {
        let both = format!("{flag} or {}", variable.display());
        error.insert(ContextKind::InvalidArg, ContextValue::String(both));
    }
    error
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Quantity, Size};

    fn flags() -> Vec<Arg> {
        let command = Arguments::command();
        command.get_arguments().filter(|argument| argument.get_long().is_some()).cloned().collect()
    }

    /// The rows of README's table of flags: flag, default, meaning.
    fn rows() -> Vec<[&'static str; 3]> {
        let cells = |row: &'static str| {
            let cells: Vec<_> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            [cells[1], cells[2], cells[3]]
        };
        let readme = include_str!("../../README.md");
        readme.lines().filter(|line| line.starts_with("| `--")).map(cells).collect()
    }

    fn refusal(flag: &str, value: &str) -> Option<String> {
        let parsed = Arguments::try_parse_from(["ringecho", &format!("{flag}={value}")]);
        parsed.err().map(|error| error.to_string())
    }

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn without_flags_the_config_is_the_default() {
        assert_eq!(Arguments::parse_from(["ringecho"]).config, Config::default());
    }

    #[test]
    fn every_default_is_a_value_that_the_flag_takes() {
        for flag in flags().iter().filter(|flag| flag.get_action().takes_values()) {
            for default in flag.get_default_values() {
                let argument = format!("--{}={}", flag.get_long().unwrap(), default.display());
                let parsed = Arguments::try_parse_from(["ringecho", &argument]).expect(&argument);
                assert_eq!(parsed.config, Config::default(), "{argument}");
            }
        }
    }

    #[test]
    fn every_flag_is_also_a_variable() {
        for argument in flags() {
            let flag = argument.get_long().unwrap();
            let variable = format!("RINGECHO_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(&*variable));
        }
    }

    #[test]
    fn every_flag_is_in_a_group() {
        for flag in flags() {
            assert!(flag.get_help_heading().is_some(), "{flag}");
        }
    }

    #[test]
    fn readme_lists_every_flag_with_its_default() {
        let (rows, flags) = (rows(), flags());
        assert_eq!(rows.len(), flags.len());
        for (row, flag) in rows.iter().zip(flags) {
            assert_eq!(row[0].trim_start_matches("--"), flag.get_long().unwrap());
            if let [default] = flag.get_default_values()
                && flag.get_action().takes_values()
            {
                assert_eq!(row[1], default.to_str().unwrap(), "{}", row[0]);
            }
        }
    }

    /// Both ends of a range are taken; a value one beyond is refused with flag, value and range.
    #[test]
    fn readme_tells_the_range_of_every_flag_that_has_one() {
        for ([flag, _, meaning], argument) in rows().into_iter().zip(flags()) {
            let beyond = match &*argument.get_value_names().unwrap_or_default().concat() {
                "COUNT" => one_beyond::<u32>,
                "SIZE" => one_beyond::<Size>,
                "TIME" => one_beyond::<Duration>,
                _ => continue,
            };
            let range = meaning.rsplit_once('(').and_then(|(_, range)| range.split_once(" to "));
            let (min, rest) = range.unwrap_or_else(|| panic!("{flag} has no range"));
            let max = rest.split([',', ')']).next().unwrap();
            for end in [min, max] {
                assert_eq!(refusal(flag, end), None, "{flag} {end}");
            }
            for value in beyond(min, max) {
                let refusal = refusal(flag, &value).expect(flag);
                assert!(refusal.contains(&format!("'{value}' for '{flag} <")), "{refusal}");
                assert!(refusal.contains(&format!("from {min} to {max}")), "{refusal}");
            }
        }
    }

    /// The values just below and just above a range, as far as the type has them.
    fn one_beyond<T: Unit>(min: &str, max: &str) -> Vec<String> {
        let (min, max) = (T::read(min).unwrap(), T::read(max).unwrap());
        [min.less(), max.more()].into_iter().flatten().map(T::to_text).collect()
    }

    trait Unit: Quantity {
        fn less(self) -> Option<Self>;
        fn more(self) -> Option<Self>;
    }

    impl Unit for u32 {
        fn less(self) -> Option<Self> {
            self.checked_sub(1)
        }

        fn more(self) -> Option<Self> {
            self.checked_add(1)
        }
    }

    impl Unit for Size {
        fn less(self) -> Option<Self> {
            self.0.checked_sub(1).map(Self)
        }

        fn more(self) -> Option<Self> {
            self.0.checked_add(1).map(Self)
        }
    }

    impl Unit for Duration {
        fn less(self) -> Option<Self> {
            self.checked_sub(Self::from_nanos(1))
        }

        fn more(self) -> Option<Self> {
            self.checked_add(Self::from_nanos(1))
        }
    }
}
