//! How many connections there were, and why not all of them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    count::errors::Cause,
    text::{
        numbers::{counted, grouped},
        warning::{Warning, WarningCode},
    },
};

/// How many connections there were.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Connections {
    /// As the plan says.
    pub requested: usize,
    /// Those whose opening handshake succeeded.
    pub opened: u64,
    /// How often an error ended one.
    pub lost: u64,
    /// How often a lost one was opened again; `None` if that was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reopened: Option<u64>,
}

impl Connections {
    /// Adds those of another run.
    pub(crate) fn merge(&mut self, other: Self) {
        self.requested += other.requested;
        self.opened += other.opened;
        self.lost += other.lost;
        if let Some(reopened) = other.reopened {
            *self.reopened.get_or_insert(0) += reopened;
        }
    }

    /// The doubt about a result with fewer connections to `url` than requested. `causes` are those
    /// of all errors, the most frequent first.
    pub(crate) fn not_opened(
        self,
        url: &str,
        causes: &[Cause],
        interrupted: bool,
    ) -> Option<Warning> {
        let requested = self.requested as u64;
        let unopened = requested - self.opened;
        match (self.opened, unopened) {
            (_, 0) => None,
            (0, _) => Some(none_opened(url, causes, interrupted)),
            (..) => {
                let (unopened, requested) = (grouped(unopened), grouped(requested));
                let cause = cause_of_not_opening(causes)
                    .map_or_else(String::new, |cause| format!(": {cause}"));
                let text = format!("{unopened} of {requested} connections never opened{cause}");
                Some(Warning::new(WarningCode::ConnectionsNotOpened, text))
            }
        }
    }
}

/// The doubt about a result without any connection to `url`. An interruption is told only where
/// nothing else kept connections from opening.
pub(crate) fn none_opened(url: &str, causes: &[Cause], interrupted: bool) -> Warning {
    let text = match cause_of_not_opening(causes) {
        Some(cause) => format!("no connection to {url} could be opened: {cause}"),
        None if interrupted => "interrupted before a connection was open".to_owned(),
        None => format!("no connection to {url} could be opened"),
    };
    Warning::new(WarningCode::ConnectionsNotOpened, text)
}

/// The most frequent of the causes that keep connections from opening.
fn cause_of_not_opening(causes: &[Cause]) -> Option<&Cause> {
    causes.iter().find(|cause| cause.kind.keeps_from_opening())
}

/// How many were opened, and of how many if that were not all.
impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requested, opened, .. } = *self;
        f.write_str(&counted(opened, "connection"))?;
        if opened < requested as u64 {
            write!(f, " (of {})", grouped(requested as u64))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::errors::ErrorKind;

    fn cause(kind: ErrorKind, cause: &str, count: u64) -> Cause {
        Cause { kind, code: None, cause: cause.to_owned(), count }
    }

    #[test]
    fn why_connections_never_opened_is_none_of_the_errors_of_open_ones() {
        let wrong = cause(ErrorKind::Wrong, "byte 3 of an echo is 0x01 instead of 0x00", 1000);
        let refused = cause(ErrorKind::Handshake, "the server answered 503", 2);
        let connections = Connections { requested: 64, opened: 62, lost: 0, reopened: None };
        for (causes, text) in [
            (
                &[wrong.clone(), refused][..],
                "2 of 64 connections never opened: handshake: the server answered 503 (2x)",
            ),
            // The cause is one of too many different ones.
            (&[wrong], "2 of 64 connections never opened"),
        ] {
            let warning = connections.not_opened("ws://localhost/", causes, false).unwrap();
            assert_eq!(warning.text, text);
        }
    }

    #[test]
    fn what_kept_connections_from_opening_is_told_also_of_a_run_that_was_interrupted() {
        let refused = cause(ErrorKind::Connect, "Connection refused", 3);
        for (causes, interrupted, text) in [
            (
                &[refused][..],
                true,
                "no connection to ws://h/ could be opened: connect: Connection refused (3x)",
            ),
            (&[], true, "interrupted before a connection was open"),
            (&[], false, "no connection to ws://h/ could be opened"),
        ] {
            assert_eq!(none_opened("ws://h/", causes, interrupted).text, text);
        }
    }
}
