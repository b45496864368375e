//! Privileges: what the program gives up once it has started. They are no part of a server's
//! configuration, since what a process may do is up to the program that embeds a server.

use std::{fmt, str::FromStr};

use clap::{Args, ValueEnum};

use crate::config::values::ValueError;

/// What the program gives up once it has started.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Privileges")]
pub struct Privileges {
    /// Whether the program may then do only what an echo needs; auto is as far as the kernel lets it
    ///
    /// An echo needs no program, no file and no connection of its own, so a fault that lets a peer
    /// run code in the server is of less use to the peer.
    #[arg(long, value_name = "CHOICE", default_value = "auto")]
    pub sandbox: Sandboxing,

    /// User that the program becomes when its port is bound, as NAME, UID or UID:GID; needs root
    #[arg(long, value_name = "USER")]
    pub user: Option<Account>,
}

/// Whether the program confines itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sandboxing {
    /// As far as the kernel lets it.
    Auto,
    /// Not at all.
    Off,
    /// Wholly, or a refusal to start.
    Required,
}

/// A user, and a group if it is not the user's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub user: Id,
    /// The group.
    pub group: Option<Id>,
}

/// How a user or group is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    /// By its number, which is not the highest: that one means "no change" to the kernel.
    Number(u32),
    /// By its name in the system's database.
    Name(String),
}

impl FromStr for Account {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let read = |text: &str| {
            Id::read(text).ok_or_else(|| {
                let expected = "expected a user's name or number, and its group's after a colon if \
                                it is another: www-data, 1000, 1000:1000";
                ValueError::Unreadable(expected.to_owned())
            })
        };
        Ok(Self { user: read(user)?, group: group.map(read).transpose()? })
    }
}

impl Id {
    fn read(text: &str) -> Option<Self> {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        if text.is_empty() || text.contains([':', '/', '\0']) || text.starts_with('-') {
            None
        } else if is_number {
            text.parse().ok().filter(|number| *number != u32::MAX).map(Self::Number)
        } else {
            Some(Self::Name(text.to_owned()))
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_names_or_numbers_and_have_a_group_or_none() {
        let name = |name: &str| Id::Name(name.to_owned());
        for (text, user, group) in [
            ("nobody", name("nobody"), None),
            ("1000", Id::Number(1000), None),
            ("1000:7", Id::Number(1000), Some(Id::Number(7))),
            ("www-data:adm", name("www-data"), Some(name("adm"))),
        ] {
            assert_eq!(text.parse(), Ok(Account { user, group }), "{text}");
        }
        for text in ["", ":", "a:", ":1", "1:2:3", "4294967295", "99999999999", "-1", "a/b"] {
            assert!(text.parse::<Account>().is_err(), "{text}");
        }
    }
}
