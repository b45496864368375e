//! The arguments of a process, put in order before clap reads them. The load generator uses this too.

use std::ffi::{OsStr, OsString};

/// Joins a flag and a negative value behind it, such as `--hold -1`, to one argument.
///
/// No flag takes a negative value, but clap would read `-1` as a flag, and not say which flag the
/// value was meant for.
pub fn join_negative_values(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    for argument in arguments {
        match joined.last_mut() {
            Some(flag) if is_flag_alone(flag) && is_negative(&argument) => {
                flag.push("=");
                flag.push(argument);
            }
            _ => joined.push(argument),
        }
    }
    joined
}

/// Whether an argument is a flag whose value, if it takes one, is the next argument.
fn is_flag_alone(argument: &OsStr) -> bool {
    match argument.as_encoded_bytes() {
        [b'-', b'-', name @ ..] => !name.is_empty() && !name.contains(&b'='),
        [b'-', letter] => letter.is_ascii_alphabetic(),
        _ => false,
    }
}

fn is_negative(argument: &OsStr) -> bool {
    matches!(argument.as_encoded_bytes(), [b'-', b'0'..=b'9' | b'.', ..])
}
