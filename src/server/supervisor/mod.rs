//! The service manager that may have started this process, such as systemd: sockets that it has
//! opened, and what it is told.
//!
//! Both are agreed on by variables, as in `sd_listen_fds(3)` and `sd_notify(3)`. Without the variables
//! all of this does nothing. Variables that are meant for another process, by its number, are ignored.

mod inherited;
mod notifier;
mod watch;

use std::{env, ffi::OsString, process, time::Duration};

use nix::time::{ClockId, clock_gettime};
use thiserror::Error;

pub use self::inherited::Inherited;
use self::notifier::Notifier;
pub(super) use self::watch::Watch;

/// A service manager, if there is one.
#[derive(Debug, Default)]
pub struct Supervisor {
    sockets: Vec<Inherited>,
    notifier: Option<Notifier>,
    watchdog: Option<Duration>,
}

/// Why what a service manager has left cannot be used.
#[derive(Debug, Error)]
pub enum SupervisorError {
    /// A variable has no value that it may have.
    #[error("{variable}={value}: {expected}")]
    Variable {
        /// The variable's name.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What is expected.
        expected: &'static str,
    },
    /// A descriptor is not what this server can listen on.
    #[error(
        "LISTEN_FDS: descriptor {descriptor} ({name}) is {found}; a listening stream socket is needed, \
         as ListenStream=PORT makes"
    )]
    Socket {
        /// The descriptor's number.
        descriptor: i32,
        /// Its name in `LISTEN_FDNAMES`.
        name: String,
        /// What it is.
        found: &'static str,
    },
}

impl Supervisor {
    /// The service manager that this process's variables tell of. To be called once, before other
    /// descriptors are opened: the sockets that it has opened become this value's.
    pub fn from_environment() -> Result<Self, SupervisorError> {
        let variables = Variables::read(|name| env::var_os(name), process::id())?;
        Ok(Self {
            sockets: inherited::claim(variables.socket_count, &variables.socket_names)?,
            notifier: variables.notify_socket.as_deref().map(Notifier::new),
            watchdog: variables.watchdog,
        })
    }

    /// Whether there is a service manager that is told something.
    pub fn is_there(&self) -> bool {
        self.notifier.is_some()
    }

    /// Takes the sockets that the manager has opened.
    pub fn take_sockets(&mut self) -> Vec<Inherited> {
        std::mem::take(&mut self.sockets)
    }

    /// Says that the server is ready, in the words of `status`. A server that has taken over from
    /// another `is_new_main`: it is the service's main process from now on.
    pub fn ready(&self, status: &str, is_new_main: bool) {
        let main = if is_new_main { format!("MAINPID={}\n", process::id()) } else { String::new() };
        self.notify(&format!("{main}READY=1\nSTATUS={status}"));
    }

    /// Says that the server reads its configuration anew. [`ready`](Self::ready) says that it has.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        self.notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros()));
    }

    /// Says that the server is stopping.
    pub fn stopping(&self) {
        self.notify("STOPPING=1\nSTATUS=draining");
    }

    /// Says that the server is alive.
    pub(super) fn alive(&self) {
        self.notify("WATCHDOG=1");
    }

    /// How long the manager waits for [`alive`](Self::alive), if it does.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.notifier.is_some())
    }

    fn notify(&self, state: &str) {
        if let Some(notifier) = &self.notifier {
            notifier.send(state);
        }
    }
}

/// What the variables say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Variables {
    socket_count: u32,
    socket_names: Vec<String>,
    notify_socket: Option<OsString>,
    watchdog: Option<Duration>,
}

/// Systemd passes as many at most (`FileDescriptorStoreMax=` aside).
const SOCKETS_MAX: u32 = 1024;

impl Variables {
    /// Reads the variables as the process `own` does.
    fn read(
        variable: impl Fn(&str) -> Option<OsString>,
        own: u32,
    ) -> Result<Self, SupervisorError> {
        let number = |name: &'static str| -> Result<Option<u64>, SupervisorError> {
            // A variable without a value is not set.
            let Some(value) = variable(name).filter(|value| !value.is_empty()) else {
                return Ok(None);
            };
            let value = value.to_string_lossy().into_owned();
            let expected = "expected a whole number";
            let error =
                || SupervisorError::Variable { variable: name, value: value.clone(), expected };
            value.parse().map(Some).map_err(|_| error())
        };
        let is_own = |process: Option<u64>| process == Some(own.into());
        let mut variables = Self {
            notify_socket: variable("NOTIFY_SOCKET").filter(|path| !path.is_empty()),
            ..Self::default()
        };
        if is_own(number("LISTEN_PID")?) {
            let count = number("LISTEN_FDS")?.unwrap_or_default();
            if count > SOCKETS_MAX.into() {
                let (variable, value) = ("LISTEN_FDS", count.to_string());
                let expected = "at most 1024 sockets can be passed on";
                return Err(SupervisorError::Variable { variable, value, expected });
            }
            variables.socket_count = count as u32;
            let names = variable("LISTEN_FDNAMES").unwrap_or_default();
            let names = names.to_string_lossy();
            variables.socket_names = names.split(':').map(str::to_owned).collect();
        }
        let watchdog_process = number("WATCHDOG_PID")?;
        if watchdog_process.is_none() || is_own(watchdog_process) {
            let interval = number("WATCHDOG_USEC")?.filter(|interval| *interval > 0);
            variables.watchdog = interval.map(Duration::from_micros);
        }
        Ok(variables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Variables, SupervisorError> {
        let find = |name: &str| set.iter().find(|(set, _)| *set == name);
        Variables::read(|name| find(name).map(|(_, value)| value.into()), 77)
    }

    #[test]
    fn variables_of_a_service_are_read() {
        let variables = read(&[
            ("LISTEN_PID", "77"),
            ("LISTEN_FDS", "2"),
            ("LISTEN_FDNAMES", "v4:v6"),
            ("NOTIFY_SOCKET", "@/run/notify"),
            ("WATCHDOG_USEC", "30000000"),
            ("WATCHDOG_PID", "77"),
        ]);
        let expected = Variables {
            socket_count: 2,
            socket_names: vec!["v4".to_owned(), "v6".to_owned()],
            notify_socket: Some("@/run/notify".into()),
            watchdog: Some(Duration::from_secs(30)),
        };
        assert_eq!(variables.unwrap(), expected);
    }

    #[test]
    fn variables_of_another_process_or_without_a_value_count_for_nothing() {
        let others = [
            ("LISTEN_PID", "78"),
            ("LISTEN_FDS", "2"),
            ("WATCHDOG_USEC", "30000000"),
            ("WATCHDOG_PID", "78"),
        ];
        assert_eq!(read(&others).unwrap(), Variables::default());
        assert_eq!(read(&[("LISTEN_FDS", "2")]).unwrap(), Variables::default());
        let empty = others.map(|(name, _)| (name, ""));
        assert_eq!(read(&empty).unwrap(), Variables::default());
        assert_eq!(read(&[]).unwrap(), Variables::default());
    }

    #[test]
    fn wrong_variables_are_refused_with_name_and_value() {
        for (set, refusal) in [
            (&[("LISTEN_PID", "me")][..], "LISTEN_PID=me: expected a whole number"),
            (&[("LISTEN_PID", "77"), ("LISTEN_FDS", "-1")], "LISTEN_FDS=-1: expected a whole"),
            (&[("LISTEN_PID", "77"), ("LISTEN_FDS", "1025")], "LISTEN_FDS=1025: at most 1024"),
            (&[("WATCHDOG_USEC", "soon")], "WATCHDOG_USEC=soon: expected a whole number"),
        ] {
            let error = read(set).unwrap_err().to_string();
            assert!(error.contains(refusal), "{error}");
        }
    }
}
