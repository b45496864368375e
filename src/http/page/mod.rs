//! The browser page: one embedded document that loads nothing else.

const DOCUMENT: &str = include_str!("index.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page, for a server whose echo is at `echo_path`.
pub fn render(echo_path: &str) -> String {
    // The path is put in first, since the style and the script may contain any text.
    DOCUMENT
        .replace("{{path}}", &escape_attribute(echo_path))
        .replace("{{style}}", STYLE)
        .replace("{{script}}", SCRIPT)
}

/// `text` as the value of a quoted HTML attribute.
fn escape_attribute(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_whole_and_names_the_echo_path() {
        let page = render("/a&b");
        assert!(page.contains("data-path=\"/a&amp;b\""));
        assert!(page.contains(STYLE) && page.contains(SCRIPT));
        assert!(!page.contains("{{"));
    }

    #[test]
    fn page_loads_nothing_from_elsewhere() {
        let page = render("/ws");
        for reference in ["src=", "@import", "url(http", "href=\"http", "innerHTML"] {
            assert!(!page.contains(reference), "{reference}");
        }
    }
}
