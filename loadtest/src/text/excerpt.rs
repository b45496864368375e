//! What a server says, as it may stand in a message of the generator.

/// Characters of what a server says that are shown, at most.
const EXCERPT_LEN_MAX: usize = 120;

/// What a server says, in quotes: bounded, and with control characters escaped.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_LEN_MAX) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_bounded() {
        assert_eq!(excerpt(&"ä".repeat(121)), format!("{:?}...", "ä".repeat(120)));
        assert_eq!(excerpt("a\x07\u{202e}b"), r#""a\u{7}\u{202e}b""#);
    }
}
