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
        let cause = causes.iter().find(|cause| cause.kind.keeps_from_opening());
        let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
        let text = match (self.opened, unopened) {
            (_, 0) => return None,
            (0, _) if interrupted => "interrupted before a connection was open".to_owned(),
            (0, _) => format!("no connection to {url} could be opened{cause}"),
            (..) => format!(
                "{} of {} connections never opened{cause}",
                grouped(unopened),
                grouped(requested)
            ),
        };
        Some(Warning::new(WarningCode::ConnectionsNotOpened, text))
    }
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

    #[test]
    fn why_connections_never_opened_is_none_of_the_errors_of_open_ones() {
        let cause = |kind, cause: &str, count| Cause { kind, cause: cause.to_owned(), count };
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
}
