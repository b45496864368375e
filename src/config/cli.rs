//! The command line and `RINGECHO_*` variables, turned into a [`Config`].
#![expect(clippy::doc_markdown, reason = "these comments are the help text on a terminal")]

use std::{env, fmt::Display, net::SocketAddr, str::FromStr, time::Duration};

use clap::{
    ArgAction, Command, CommandFactory, FromArgMatches, Parser, ValueEnum,
    error::{ContextKind, ContextValue},
};

use crate::{
    config::{
        BACKLOG, CLOSE_TIMEOUT, Compression, Config, DRAIN_TIMEOUT, DataPlane, Driver,
        HANDSHAKE_TIMEOUT, HOLD, HugePages, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, Knob, Limits,
        MESSAGE_SIZE_MAX, RECEIVE_BUFFER, RECEIVE_BUFFERS, Size, UNSENT_MAX, WORKERS,
        format_duration,
    },
    handshake::origin::Origin,
    host::{arguments::with_negative_values_joined, cpu_list::CpuList},
};

const NETWORK: &str = "Network";
const HANDSHAKE: &str = "Handshake";
const ECHO: &str = "Echo";
const TIME: &str = "Time";
const CORES: &str = "Cores";
const LOG: &str = "Log";

/// A WebSocket echo server for Linux: io_uring, one runtime per core, frames echoed in place.
///
/// Every flag can also be given as a variable: --receive-buffer as RINGECHO_RECEIVE_BUFFER, and
/// those that may be repeated with commas between the values. A variable without a value is not set.
/// Sizes are written as 65536 or 64KiB, times as 30s or 2min.
#[derive(Debug, Parser)]
#[command(name = "ringecho", version, about, long_about, max_term_width = 100)]
pub struct Arguments {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(
        long, env = "RINGECHO_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9001",
        value_parser = parse_address, hide_env = true, help_heading = NETWORK
    )]
    listen: SocketAddr,

    /// Share the port with other programs that share it too, instead of refusing to start
    #[arg(
        long, env = "RINGECHO_REUSE_PORT", value_parser = parse_switch, hide_env = true,
        help_heading = NETWORK
    )]
    reuse_port: bool,

    /// How many connections may wait to be accepted, at each worker; the kernel caps it
    #[arg(
        long, env = "RINGECHO_BACKLOG", value_name = "COUNT",
        default_value = BACKLOG.default.to_string(), value_parser = parse_count(BACKLOG),
        hide_env = true, help_heading = NETWORK
    )]
    backlog: u32,

    /// Congestion control of accepted connections, such as reno or bbr [default: the system's]
    #[arg(
        long, env = "RINGECHO_TCP_CONGESTION", value_name = "NAME", hide_env = true,
        help_heading = NETWORK
    )]
    tcp_congestion: Option<String>,

    /// Path that upgrades to the echo, the one to propose first, or * for all; repeatable
    #[arg(
        long = "path", env = "RINGECHO_PATH", value_name = "PATH", value_delimiter = ',',
        default_value = "/ws", hide_env = true, help_heading = HANDSHAKE
    )]
    paths: Vec<String>,

    /// Origin that may connect, its scheme and host; repeatable [default: all]
    #[arg(
        long = "allowed-origin", env = "RINGECHO_ALLOWED_ORIGIN", value_name = "ORIGIN",
        value_delimiter = ',', hide_env = true, help_heading = HANDSHAKE
    )]
    allowed_origins: Vec<Origin>,

    /// Subprotocol to agree on, best first; repeatable [default: none]
    #[arg(
        long = "subprotocol", env = "RINGECHO_SUBPROTOCOL", value_name = "NAME",
        value_delimiter = ',', hide_env = true, help_heading = HANDSHAKE
    )]
    subprotocols: Vec<String>,

    /// permessage-deflate; pass-through agrees on it where messages can be echoed still compressed
    #[arg(
        long, env = "RINGECHO_COMPRESSION", value_name = "NAME", value_enum,
        default_value = "off", hide_env = true, help_heading = HANDSHAKE
    )]
    compression: CompressionName,

    /// How far a connection's receive buffer may grow; on the engine, the size of the shared ones
    #[arg(
        long, env = "RINGECHO_RECEIVE_BUFFER", value_name = "SIZE",
        default_value = RECEIVE_BUFFER.default.to_string(), value_parser = Size::from_str,
        hide_env = true, help_heading = ECHO
    )]
    receive_buffer: Size,

    /// How many receive buffers of that size a worker's connections share on the engine
    #[arg(
        long, env = "RINGECHO_RECEIVE_BUFFERS", value_name = "COUNT",
        default_value = RECEIVE_BUFFERS.default.to_string(),
        value_parser = parse_count(RECEIVE_BUFFERS), hide_env = true, help_heading = ECHO
    )]
    receive_buffers: u16,

    /// Most that is kept for a client that does not read its echoes
    #[arg(
        long, env = "RINGECHO_UNSENT_MAX", value_name = "SIZE",
        default_value = UNSENT_MAX.default.to_string(), value_parser = Size::from_str,
        hide_env = true, help_heading = ECHO
    )]
    unsent_max: Size,

    /// Longest frame that is held until it is whole; longer ones are sent on as they arrive
    #[arg(
        long, env = "RINGECHO_HOLD", value_name = "SIZE",
        default_value = HOLD.default.to_string(), value_parser = Size::from_str,
        hide_env = true, help_heading = ECHO
    )]
    hold: Size,

    /// Longest message; a longer one is answered with close code 1009
    #[arg(
        long, env = "RINGECHO_MESSAGE_SIZE_MAX", value_name = "SIZE",
        default_value = MESSAGE_SIZE_MAX.default.to_string(), value_parser = Size::from_str,
        hide_env = true, help_heading = ECHO
    )]
    message_size_max: Size,

    /// How long a client may take for its request head
    #[arg(
        long, env = "RINGECHO_HANDSHAKE_TIMEOUT", value_name = "TIME",
        default_value = duration(&HANDSHAKE_TIMEOUT), value_parser = parse_duration,
        hide_env = true, help_heading = TIME
    )]
    handshake_timeout: Duration,

    /// Silence after which a client is sent a Ping; 0s for never
    #[arg(
        long, env = "RINGECHO_KEEP_ALIVE_INTERVAL", value_name = "TIME",
        default_value = duration(&KEEP_ALIVE_INTERVAL), value_parser = parse_duration,
        hide_env = true, help_heading = TIME
    )]
    keep_alive_interval: Duration,

    /// Silence after that Ping for which a client is given up
    #[arg(
        long, env = "RINGECHO_KEEP_ALIVE_TIMEOUT", value_name = "TIME",
        default_value = duration(&KEEP_ALIVE_TIMEOUT), value_parser = parse_duration,
        hide_env = true, help_heading = TIME
    )]
    keep_alive_timeout: Duration,

    /// How long a closed connection waits for the client to end it too
    #[arg(
        long, env = "RINGECHO_CLOSE_TIMEOUT", value_name = "TIME",
        default_value = duration(&CLOSE_TIMEOUT), value_parser = parse_duration,
        hide_env = true, help_heading = TIME
    )]
    close_timeout: Duration,

    /// How long a stopping server waits for its clients to close
    #[arg(
        long, env = "RINGECHO_DRAIN_TIMEOUT", value_name = "TIME",
        default_value = duration(&DRAIN_TIMEOUT), value_parser = parse_duration,
        hide_env = true, help_heading = TIME
    )]
    drain_timeout: Duration,

    /// Number of workers [default: one on each CPU]
    #[arg(
        long, env = "RINGECHO_WORKERS", value_name = "COUNT", value_parser = parse_count(WORKERS),
        hide_env = true, help_heading = CORES
    )]
    workers: Option<usize>,

    /// CPUs that the workers are pinned to, such as 0,2-3 [default: all that may be used]
    #[arg(
        long, env = "RINGECHO_CPUS", value_name = "LIST", hide_env = true, help_heading = CORES
    )]
    cpus: Option<CpuList>,

    /// Whether a connection goes to the worker with the fewest, whoever accepts it: on or off
    #[arg(
        long, env = "RINGECHO_BALANCE", value_name = "CHOICE", action = ArgAction::Set,
        default_value = "on", value_parser = parse_switch, hide_env = true, help_heading = CORES
    )]
    balance: bool,

    /// Leave connections on the CPU that their packets arrive on; needs --balance off
    #[arg(
        long, env = "RINGECHO_INCOMING_CPU", value_parser = parse_switch, hide_env = true,
        help_heading = CORES
    )]
    incoming_cpu: bool,

    /// Kernel interface to wait on; auto is io_uring where it is allowed, and epoll elsewhere
    #[arg(
        long, env = "RINGECHO_DRIVER", value_name = "NAME", value_enum, default_value = "auto",
        hide_env = true, help_heading = CORES
    )]
    driver: DriverName,

    /// What carries connections after their handshake; auto is the engine where the kernel has it
    #[arg(
        long, env = "RINGECHO_DATA_PLANE", value_name = "NAME", value_enum,
        default_value = "auto", hide_env = true, help_heading = CORES
    )]
    data_plane: DataPlaneName,

    /// Pages of the engine's receive buffers; explicit ones are set aside by vm.nr_hugepages
    #[arg(
        long, env = "RINGECHO_HUGE_PAGES", value_name = "KIND", value_enum, default_value = "off",
        hide_env = true, help_heading = CORES
    )]
    huge_pages: HugePagesName,

    /// Least severe messages that are logged, on stderr
    #[arg(
        long, env = "RINGECHO_LOG_LEVEL", value_name = "LEVEL", value_enum,
        default_value = "info", hide_env = true, help_heading = LOG
    )]
    pub log_level: LogLevel,

    /// Form of the log
    #[arg(
        long, env = "RINGECHO_LOG_FORMAT", value_name = "FORMAT", value_enum,
        default_value = "text", hide_env = true, help_heading = LOG
    )]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CompressionName {
    Off,
    PassThrough,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DriverName {
    Auto,
    #[value(name = "io_uring")]
    IoUring,
    Epoll,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DataPlaneName {
    Auto,
    Engine,
    Portable,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HugePagesName {
    Off,
    Transparent,
    Explicit,
}

/// Least severe messages that are logged.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What stops the server or is a defect of it.
    Error,
    /// What an operator may want to mend.
    Warn,
    /// Start and stop.
    Info,
    /// The end of each connection.
    Debug,
    /// Everything.
    Trace,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object on each line.
    Json,
}

impl Arguments {
    /// Parses the command line and the variables of this process; ends it if they are wrong, or
    /// ask for help.
    pub fn parse_or_exit() -> Self {
        let command = without_empty_variables(Self::command());
        command
            .try_get_matches_from(with_negative_values_joined(env::args_os()))
            .and_then(|matches| Self::from_arg_matches(&matches))
            .unwrap_or_else(|error| with_variable_named(error).exit())
    }
}

/// A variable without a value is how a compose file writes one that is not set.
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

/// Names the variable beside the flag if the wrong value may have come from there.
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

impl From<Arguments> for Config {
    fn from(arguments: Arguments) -> Self {
        Self {
            listen: arguments.listen,
            reuse_port: arguments.reuse_port,
            backlog: arguments.backlog,
            tcp_congestion: arguments.tcp_congestion,
            incoming_cpu: arguments.incoming_cpu,
            paths: arguments.paths,
            allowed_origins: arguments.allowed_origins,
            subprotocols: arguments.subprotocols,
            compression: match arguments.compression {
                CompressionName::Off => Compression::Off,
                CompressionName::PassThrough => Compression::PassThrough,
            },
            workers: arguments.workers,
            cpus: arguments.cpus,
            balance: arguments.balance,
            driver: match arguments.driver {
                DriverName::Auto => Driver::Auto,
                DriverName::IoUring => Driver::IoUring,
                DriverName::Epoll => Driver::Epoll,
            },
            data_plane: match arguments.data_plane {
                DataPlaneName::Auto => DataPlane::Auto,
                DataPlaneName::Engine => DataPlane::Engine,
                DataPlaneName::Portable => DataPlane::Portable,
            },
            huge_pages: match arguments.huge_pages {
                HugePagesName::Off => HugePages::Off,
                HugePagesName::Transparent => HugePages::Transparent,
                HugePagesName::Explicit => HugePages::Explicit,
            },
            limits: Limits {
                receive_buffer: arguments.receive_buffer,
                receive_buffers: arguments.receive_buffers,
                unsent_max: arguments.unsent_max,
                hold: arguments.hold,
                message_size_max: arguments.message_size_max,
                handshake_timeout: arguments.handshake_timeout,
                keep_alive_interval: arguments.keep_alive_interval,
                keep_alive_timeout: arguments.keep_alive_timeout,
                close_timeout: arguments.close_timeout,
                drain_timeout: arguments.drain_timeout,
            },
        }
    }
}

fn duration(knob: &Knob<Duration>) -> String {
    format_duration(&knob.default)
}

fn parse_count<T: Copy + Display + FromStr>(
    knob: Knob<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let Knob { min, max, .. } = knob;
        text.parse().map_err(|_| format!("expected a whole number from {min} to {max}"))
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "a time is a number with a unit: 500ms, 10s, 2min, 1h".to_owned())
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match &*text.to_ascii_lowercase() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err("expected on or off; also true, yes or 1, and false, no or 0".to_owned()),
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "an IP address and a port are needed: 127.0.0.1:9001, 0.0.0.0:80, [::1]:9001".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn without_flags_the_config_is_the_default() {
        let config = Config::from(Arguments::parse_from(["ringecho"]));
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn every_flag_is_also_a_variable() {
        for argument in Arguments::command().get_arguments().filter(|a| a.get_long().is_some()) {
            let flag = argument.get_long().unwrap();
            let variable = format!("RINGECHO_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(&*variable));
        }
    }

    #[test]
    fn readme_lists_every_flag_with_its_default() {
        let readme = include_str!("../../README.md");
        let rows: Vec<Vec<&str>> = readme
            .lines()
            .filter(|line| line.starts_with("| `--"))
            .map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`')).collect())
            .collect();
        let command = Arguments::command();
        let flags: Vec<_> =
            command.get_arguments().filter(|argument| argument.get_long().is_some()).collect();
        assert_eq!(rows.len(), flags.len());
        for (row, flag) in rows.iter().zip(flags) {
            assert_eq!(row[1].trim_start_matches("--"), flag.get_long().unwrap());
            if let [default] = flag.get_default_values()
                && flag.get_action().takes_values()
            {
                assert_eq!(row[2], default.to_str().unwrap(), "{}", row[1]);
            }
        }
    }
}
