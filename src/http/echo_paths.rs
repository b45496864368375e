//! The paths that upgrade to the echo, compared by the equivalence of RFC 3986.
//!
//! A percent sign with two hex digits equals the letter, digit or mark that it stands for, and the
//! case of its digits does not matter (§6.2.2). Clients remove dot segments before they send a
//! request, so requested paths have none.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

/// The configured path that stands for all paths.
pub const ANY_PATH: &str = "*";

/// The paths that upgrade to the echo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EchoPaths(Vec<String>);

impl EchoPaths {
    /// Takes the configured `paths`, or [`ANY_PATH`] for all.
    pub fn new(paths: &[impl AsRef<str>]) -> Self {
        Self(paths.iter().map(|path| normalize(path.as_ref()).into_owned()).collect())
    }

    /// Whether an upgrade at `path` leads to the echo.
    pub fn contains(&self, path: &str) -> bool {
        path.starts_with('/') && (self.allow_any() || self.lists(path))
    }

    /// Whether `path` is itself configured, and not only allowed by [`ANY_PATH`].
    pub fn lists(&self, path: &str) -> bool {
        let path = normalize(path);
        !self.allow_any() && self.0.iter().any(|own| *own == path)
    }

    /// The path to propose to a client.
    pub fn first(&self) -> &str {
        if self.allow_any() { "/" } else { &self.0[0] }
    }

    fn allow_any(&self) -> bool {
        self.0.iter().any(|path| path == ANY_PATH)
    }
}

impl fmt::Display for EchoPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.allow_any() { f.write_str("any path") } else { f.write_str(&self.0.join(" or ")) }
    }
}

/// `path` in its normal form, which all equal paths share.
pub fn normalize(path: &str) -> Cow<'_, str> {
    let mut pieces = path.split('%');
    let first = pieces.next().unwrap_or(path);
    if first.len() == path.len() {
        return Cow::Borrowed(path);
    }
    let mut normalized = first.to_owned();
    for piece in pieces {
        let escaped = piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) if is_unreserved(byte) => normalized.push(byte.into()),
            Some(byte) => push_escaped(&mut normalized, byte),
            None => normalized.push('%'),
        }
        normalized.push_str(if escaped.is_some() { &piece[2..] } else { piece });
    }
    Cow::Owned(normalized)
}

/// The path that clients request when they are given `path`; `None` if no client can request it.
pub fn requested_form(path: &str) -> Option<String> {
    // Queries and fragments are no part of a path, a comma separates paths on the command line, a
    // star is meant as a pattern, and clients disagree about the other characters.
    if !path.starts_with('/') || path.contains(['?', '#', ',', '*', '\\', '[', ']']) {
        return None;
    }
    let has_hex_digits = path.split('%').skip(1).all(|behind| {
        behind.len() >= 2 && behind.bytes().take(2).all(|digit| digit.is_ascii_hexdigit())
    });
    if !has_hex_digits || path.bytes().any(|byte| byte.is_ascii_control()) {
        return None;
    }
    Some(without_dot_segments(&escape(path)))
}

/// Escapes the bytes that a path cannot have otherwise (RFC 3986 §3.3).
fn escape(path: &str) -> String {
    let mut escaped = String::new();
    for byte in path.bytes() {
        if is_unreserved(byte) || b"!$&'()+;=:@%/".contains(&byte) {
            escaped.push(byte.into());
        } else {
            push_escaped(&mut escaped, byte);
        }
    }
    escaped
}

fn push_escaped(text: &mut String, byte: u8) {
    write!(text, "%{byte:02X}").expect("a string takes what is written");
}

/// Removes the segments `.` and `..` as clients do before they send a request (RFC 3986 §5.2.4).
fn without_dot_segments(path: &str) -> String {
    let mut kept = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match &*normalize(segment) {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if segments.peek().is_none() {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

/// Whether a byte means the same with and without escaping (RFC 3986 §2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo_paths(paths: &[&str]) -> EchoPaths {
        EchoPaths::new(&paths.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn equal_paths_are_the_same_however_they_are_escaped() {
        for (path, asked, is_same) in [
            ("/ws", "/ws", true),
            ("/ws", "/%77%73", true),
            ("/~user", "/%7euser", true),
            ("/%7Euser", "/~user", true),
            ("/%c3%a4", "/%C3%A4", true),
            ("/a//b", "/a//b", true),
            ("/ws", "/ws/", false),
            ("/ws", "/WS", false),
            ("/a/b", "/a%2Fb", false),
            ("/a//b", "/a/b", false),
            ("/ws", "/ws%", false),
            ("/ws", "/ws%zz", false),
            ("/ws", "/ws%2", false),
            ("/ws", "", false),
        ] {
            assert_eq!(echo_paths(&[path]).contains(asked), is_same, "{path} {asked}");
        }
    }

    #[test]
    fn all_paths_are_those_that_begin_with_a_slash() {
        let all = echo_paths(&["*"]);
        assert!(all.contains("/") && all.contains("/a/b") && !all.contains("*"));
        assert!(!all.lists("/a/b") && !all.lists("*"));
        assert_eq!((all.first(), &*all.to_string()), ("/", "any path"));
        let two = echo_paths(&["/a", "/b"]);
        assert!(two.contains("/b") && two.lists("/b") && !two.contains("/"));
        assert_eq!((two.first(), &*two.to_string()), ("/a", "/a or /b"));
    }

    #[test]
    fn no_client_asks_for_what_is_no_path() {
        for path in [
            "", "ws", "/ws?x", "/ws#x", "/\\ws", "/[ws]", "/ws/*", "/a,b", "/%", "/%zz", "/%2",
            "/a\nb",
        ] {
            assert_eq!(requested_form(path), None, "{path}");
        }
    }

    #[test]
    fn clients_escape_paths_and_remove_dot_segments() {
        for same in ["/", "/ws", "/ws/", "/a/b", "/a//b", "//ws", "/%7euser", "/a%2Fb", "/..."] {
            assert_eq!(requested_form(same).as_deref(), Some(same));
        }
        for (path, asked) in [
            ("/a b", "/a%20b"),
            ("/ä", "/%C3%A4"),
            ("/{id}", "/%7Bid%7D"),
            ("/./ws", "/ws"),
            ("/a/../ws", "/ws"),
            ("/a/%2E%2e/ws", "/ws"),
            ("/../ws", "/ws"),
            ("/ws/.", "/ws/"),
            ("/a/b/..", "/a/"),
            ("/..", "/"),
        ] {
            assert_eq!(requested_form(path).as_deref(), Some(asked), "{path}");
        }
    }
}
