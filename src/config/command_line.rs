//! The command line: every flag of the configuration and of the log, each also a variable.
//!
//! Flags, defaults and ranges stand in the files of their groups. This file has what all flags
//! share: the names of variables, variables without a value, the values of the configuration file
//! below both, `ringecho config`, and the text of a refusal.
#![expect(clippy::doc_markdown, reason = "these comments are the help text on a terminal")]

use std::{env, ffi::OsString, fmt, path::Path};

use clap::{
    Arg, Command, CommandFactory, FromArgMatches, Parser,
    builder::ValueParser,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::file::{self, FileError, FileFlag, FileValues};
use crate::{
    config::{Config, LogFormat, Logging, Privileges, Settings},
    host::arguments::join_negative_values,
};

/// A WebSocket echo server for Linux: io_uring, one runtime per core, frames echoed in place.
///
/// Every flag can also be given as a variable: --receive-buffer as RINGECHO_RECEIVE_BUFFER, and
/// those that may be repeated with commas between the values. A variable without a value is not set.
/// Sizes are written as 65536 or 64KiB, times as 30s or 2min. Flags beat variables, and these beat
/// the file of --config. "ringecho config check" and "ringecho config show" take the same flags.
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

    /// What the program gives up once it has started.
    #[command(flatten)]
    pub privileges: Privileges,

    /// Where values come from that neither flags nor variables set.
    #[command(flatten)]
    pub file: FileFlag,

    /// All values as text, with their sources.
    #[arg(skip)]
    pub settings: Settings,
}

/// What the program is called for.
#[derive(Debug)]
pub enum Invocation {
    /// To run a server.
    Serve(Box<Arguments>),
    /// To say this on stdout.
    Say(String),
}

/// Why the program does not run: its command line is wrong, or asks for help or the version.
#[derive(Debug)]
pub struct Refusal {
    /// clap's error, or the help or version that was asked for.
    pub error: clap::Error,
    /// The form of the log that the command line asks for.
    pub log_format: LogFormat,
}

impl Invocation {
    /// Parses the command line, the variables of this process and the configuration file.
    pub fn from_process() -> Result<Self, Refusal> {
        let mut arguments = join_negative_values(env::args_os());
        if arguments.get(1).is_none_or(|first| first != CONFIG_COMMAND) {
            return Arguments::parse(Arguments::command(), arguments)
                .map(Box::new)
                .map(Self::Serve);
        }
        let verb = arguments.get(2).and_then(|verb| verb.to_str()).and_then(ConfigVerb::find);
        let Some(verb) = verb else {
            let refused = config_command().try_get_matches_from(arguments.split_off(1));
            let error = refused.err().unwrap_or_else(|| unreachable!("it takes nothing else"));
            return Err(Refusal { error, log_format: LogFormat::Text });
        };
        let rest = std::iter::once(OsString::from("ringecho")).chain(arguments.drain(3..));
        let arguments = Arguments::parse(verb.command(), rest.collect())?;
        arguments.check(verb.command())?;
        Ok(Self::Say(match (verb, &arguments.file.path) {
            (ConfigVerb::Check, Some(file)) => format!("{} is valid\n", file.display()),
            (ConfigVerb::Check, None) => "the configuration is valid\n".to_owned(),
            (ConfigVerb::Show, _) => arguments.settings.to_string(),
        }))
    }
}

/// The first argument of `ringecho config`.
const CONFIG_COMMAND: &str = "config";

/// What `ringecho config` is to do.
#[derive(Clone, Copy)]
enum ConfigVerb {
    Check,
    Show,
}

impl ConfigVerb {
    fn find(name: &str) -> Option<Self> {
        [Self::Check, Self::Show].into_iter().find(|verb| verb.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Show => "show",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Check => "Say whether a server would take its flags, variables and file",
            Self::Show => "Print the value of every flag as a file, with where it comes from",
        }
    }

    /// The command, which takes the flags of a server.
    fn command(self) -> Command {
        let name = format!("ringecho {CONFIG_COMMAND} {}", self.name());
        let command = Arguments::command().name("ringecho").bin_name(name);
        command.about(self.about()).long_about(None::<&str>)
    }
}

fn config_command() -> Command {
    let verb = |verb: ConfigVerb| Command::new(verb.name()).about(verb.about());
    Command::new(CONFIG_COMMAND)
        .bin_name(format!("ringecho {CONFIG_COMMAND}"))
        .about("Check or print the configuration of a server, without starting it")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand(verb(ConfigVerb::Check))
        .subcommand(verb(ConfigVerb::Show))
}

impl Arguments {
    /// Parses the command line of a server, the variables of this process and the file anew.
    pub fn from_process() -> Result<Self, Refusal> {
        Self::parse(Self::command(), join_negative_values(env::args_os()))
    }

    /// Refuses values that a server cannot have together.
    pub fn check(&self, command: Command) -> Result<(), Refusal> {
        self.config.check().map_err(|error| Refusal {
            error: refusal(command, &error),
            log_format: self.logging.log_format,
        })
    }

    /// Parses arguments, variables and the file that one of these names.
    fn parse(command: Command, arguments: Vec<OsString>) -> Result<Self, Refusal> {
        let mut command = without_empty_variables(command);
        Self::parse_with_file(&mut command, &arguments).map_err(|error| Refusal {
            error: with_variable_named(error),
            log_format: with_any_values(command)
                .try_get_matches_from(arguments)
                .ok()
                .and_then(|matches| matches.get_one(LOG_FORMAT).copied())
                .unwrap_or(LogFormat::Text),
        })
    }

    /// Leaves the values of the file in `command`, as the defaults of their flags.
    fn parse_with_file(command: &mut Command, arguments: &[OsString]) -> Result<Self, clap::Error> {
        let matches = command.clone().try_get_matches_from(arguments)?;
        let mut parsed = Self::from_arg_matches(&matches)?;
        let Some(file) = &parsed.file.path else {
            parsed.settings = Settings::new(command, &matches, &FileValues::default());
            return Ok(parsed);
        };
        let values = file::read(file).and_then(|text| FileValues::parse(file, &text, command));
        let values = values.map_err(|error| refusal(command.clone(), &error))?;
        *command = values.apply(command.clone());
        let matches = command.clone().try_get_matches_from(arguments)?;
        let mut parsed = Self::from_arg_matches(&matches)?;
        parsed.settings = Settings::new(command, &matches, &values);
        Ok(parsed)
    }
}

/// Reads the text of a configuration file as a server without flags and variables would.
pub fn parse_file(text: &str) -> Result<Arguments, FileError> {
    let command = Arguments::command().mut_args(|flag| flag.env(None::<&str>));
    let values = FileValues::parse(Path::new("FILE"), text, &command)?;
    let command = values.apply(command);
    let matches = command.clone().try_get_matches_from(["ringecho"]);
    let matches = matches.unwrap_or_else(|error| unreachable!("each value was tried: {error}"));
    let parsed = Arguments::from_arg_matches(&matches);
    let mut parsed = parsed.unwrap_or_else(|error| unreachable!("each value was tried: {error}"));
    parsed.settings = Settings::new(&command, &matches, &values);
    Ok(parsed)
}

/// The refusal of values that the flags take one by one, as clap words its own.
fn refusal(mut command: Command, reason: &impl fmt::Display) -> clap::Error {
    command.error(ErrorKind::ValueValidation, reason)
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
    fn every_flag_can_be_set_in_the_file() {
        for flag in flags() {
            let name = flag.get_long().unwrap();
            let defaults = flag.get_default_values();
            let texts: Vec<_> = defaults.iter().map(|it| format!("{:?}", it.display())).collect();
            let value = match flag.get_action() {
                clap::ArgAction::SetTrue => "false".to_owned(),
                clap::ArgAction::Append => format!("[{}]", texts.join(", ")),
                _ if texts.is_empty() => continue,
                _ => texts.concat(),
            };
            let text = format!("# A comment.\n{name} = {value}\n");
            let parsed = parse_file(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(parsed.config, Config::default(), "{text}");
        }
        // Those without a default.
        let text = "workers = 3\ncpus = \"0\"\ntcp-congestion = 'reno'\nincoming-cpu = true\n";
        let config = parse_file(text).unwrap().config;
        assert_eq!(config.cores.workers.map(crate::config::Within::get), Some(3));
        assert_eq!(config.network.tcp_congestion.as_deref(), Some("reno"));
        assert!(config.cores.cpus.is_some() && config.cores.incoming_cpu);
    }

    #[test]
    fn faults_of_the_file_are_told_with_line_name_value_and_what_is_allowed() {
        for (text, expected) in [
            ("hold = \"2MiB\"", "line 1: hold = \"2MiB\": must be from 0 to 1MiB, not 2MiB"),
            ("\nhold = 2097152", "line 2: hold = 2097152: must be from 0 to 1MiB, not 2MiB"),
            ("hold = -1", "line 1: hold = -1: a size is a number of bytes"),
            ("hold = 1_0co\0vd", "line 1: hold = 10co\\0vd: this is no number"),
            ("hold = 1.5", "line 1: hold = 1.5: expected a whole number or a text"),
            ("hold = [1]", "line 1: hold = [1]: expected a whole number or a text"),
            ("listen = 80", "line 1: listen = 80: expected a text, or an array of"),
            ("listen = ''", "line 1: listen = \"\": an IP address and a port, or unix:"),
            ("balance = 1", "line 1: balance = 1: expected true or false"),
            ("reuse-port = 'maybe'", "line 1: reuse-port = \"maybe\": expected on or off"),
            ("driver = 'kqueue'", "line 1: driver = \"kqueue\": expected auto, io_uring, epoll"),
            ("path = []", "line 1: path = []: the array must have one value or more"),
            ("path = '/a,/b'", "line 1: path = \"/a,/b\": has ',' in a value"),
            ("path = ['/a', 3]", "line 1: path = [\"/a\", 3]: expected a text, or an array of"),
            ("\n\nfrob = 1", "line 3: \"frob\": no flag has this name; ringecho --help lists"),
            ("receive_buffer = 1", "\"receive_buffer\": no flag has this name, but receive-buffer"),
            ("recieve-buffer = 1", "\"recieve-buffer\": no flag has this name, but receive-buffer"),
            ("[echo]\nhold = 1", "line 1: \"echo\": no flag has this name; names stand alone"),
            ("config = 'b'", "line 1: config: the file is named by a flag or a variable"),
            ("help = true", "line 1: \"help\": no flag has this name"),
            ("hold = 1\nhold = 2", "line 2: duplicate key"),
            ("hold =", "line 1: "),
        ] {
            let error = parse_file(text).expect_err(text).to_string();
            assert!(error.starts_with("FILE, line "), "{text}: {error}");
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = parse_file("hold = '1TiB'\nworkers = 0\nfrob = 1\n").unwrap_err().to_string();
        let lines: Vec<_> = error.lines().map(|line| line.split(": ").next().unwrap()).collect();
        assert_eq!(lines, ["FILE, line 1", "FILE, line 2", "FILE, line 3"], "{error}");
    }

    #[test]
    fn settings_are_shown_as_a_file_that_sets_them() {
        let text = "path = ['/a', '/b']\nhold = '8KiB'\nreuse-port = true\nworkers = 2\n";
        let parsed = parse_file(text).unwrap();
        let shown = parsed.settings.to_string();
        for line in [
            "path = [\"/a\", \"/b\"] # line 1 of the file",
            "hold = \"8KiB\" # line 2 of the file",
            "reuse-port = \"true\" # line 3 of the file",
            "unsent-max = \"1MiB\" # default",
            "# cpus is not set",
        ] {
            assert!(shown.lines().any(|it| it == line), "{line}\n{shown}");
        }
        assert_eq!(parse_file(&shown).unwrap().config, parsed.config, "{shown}");
    }

    #[test]
    fn changes_are_those_of_values_and_a_running_server_takes_over_some() {
        let settings = |text| parse_file(text).unwrap().settings;
        let mut old = settings("allowed-origin = ['https://a.example']\nhold = '4KiB'\n");
        let new = settings(
            "allowed-origin = ['https://a.example', 'https://b.example']\nhold = '8KiB'\n\
             log-level = 'debug'\nkeep-alive-interval = '1m'\nworkers = 1\n",
        );
        let changes = |old: &Settings| -> Vec<_> {
            let changes = old.changes(&new).into_iter();
            changes.map(|change| (change.text, change.is_taken_over)).collect()
        };
        let origins = "[https://a.example] -> [https://a.example, https://b.example]";
        let expected = [
            (format!("allowed-origin: {origins}"), true),
            ("hold: 4KiB -> 8KiB".to_owned(), false),
            ("keep-alive-interval: 2m -> 1m".to_owned(), true),
            ("workers: unset -> 1".to_owned(), false),
            ("log-level: info -> debug".to_owned(), true),
        ];
        assert_eq!(changes(&old), expected);
        old.take_over(&new);
        let left = expected.into_iter().filter(|(_, is_taken_over)| !is_taken_over);
        assert_eq!(changes(&old), left.collect::<Vec<_>>());
    }

    /// What is said to be taken over is what [`Config::take_over`] takes.
    #[test]
    fn config_takes_over_what_the_settings_say() {
        for (text, is_taken_over) in [
            ("proxy-protocol = 'optional'", true),
            ("proxy-from = '10.0.0.0/8'", true),
            ("forwarded-from = ['10.0.0.0/8', 'unix']", true),
            ("path = '/other'", true),
            ("allowed-origin = 'https://a.example'", true),
            ("subprotocol = 'a'", true),
            ("compression = 'pass-through'", true),
            ("http-echo = '/http'", true),
            ("http-echo-body-max = '7KiB'", true),
            ("handshake-timeout = '7s'", true),
            ("http-keep-alive = '7s'", true),
            ("keep-alive-interval = '7s'", true),
            ("keep-alive-timeout = '7s'", true),
            ("close-timeout = '7s'", true),
            ("drain-delay = '7s'", true),
            ("drain-spread = '7s'", true),
            ("drain-timeout = '7s'", true),
            ("http2 = 'off'", true),
            ("http2-streams-max = 7", true),
            ("listen = '127.0.0.1:1'", false),
            ("backlog = 7", false),
            ("hold = 7", false),
            ("unsent-max = '64KiB'", false),
            ("workers = 7", false),
            ("spin = '7us'", false),
        ] {
            let (old, new) = (parse_file("").unwrap(), parse_file(text).unwrap());
            let changes = old.settings.changes(&new.settings);
            assert_eq!(changes.len(), 1, "{text}");
            assert_eq!(changes[0].is_taken_over, is_taken_over, "{text}");
            let mut config = old.config.clone();
            config.take_over(&new.config);
            assert_eq!(config, if is_taken_over { new.config } else { old.config }, "{text}");
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
