//! Where redirects lead (RFC 9110 §10.2.2, RFC 3986 §5), and which are not gone along: none in a
//! circle, no more than [`REDIRECTS_MAX`], and none from wss:// to ws://. Without I/O.

use http::uri::Scheme;
use thiserror::Error;

use super::{
    secrets::masked,
    target::{Target, TargetError},
};

/// How many redirects are followed. Who needs more goes in a circle that changes its URLs.
pub const REDIRECTS_MAX: usize = 10;

/// Why a redirect is not followed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RedirectError {
    /// It points to what is no WebSocket URL.
    #[error("--follow: {from} points to {to:?}: {cause}")]
    Target {
        /// Who redirects.
        from: String,
        /// Where to.
        to: String,
        /// What is wrong with that.
        cause: TargetError,
    },
    /// It would give up TLS.
    #[error(
        "--follow: {from} points to {to}, and nobody is followed from wss:// to ws://; if that is \
         the server, name it as the URL"
    )]
    Downgrade {
        /// Who redirects.
        from: String,
        /// Where to.
        to: String,
    },
    /// It leads to where it came from.
    #[error("--follow: the redirects go in a circle: {}", .0.join(" -> "))]
    Circle(Vec<String>),
    /// There were too many before it.
    #[error("--follow: more than {REDIRECTS_MAX} redirects: {}", .0.join(" -> "))]
    TooMany(Vec<String>),
}

/// The URLs that redirects have led along.
#[derive(Clone, Debug)]
pub(crate) struct Trail {
    /// Those before the last; as long as there are redirects.
    before: Vec<Target>,
    last: Target,
}

impl Trail {
    /// A trail that begins at `target`.
    pub(crate) fn new(target: &Target) -> Self {
        Self { before: Vec::new(), last: target.clone() }
    }

    /// Where it has led.
    pub(crate) fn last(&self) -> &Target {
        &self.last
    }

    /// Whether that is another server than the first.
    pub(crate) fn has_left_its_server(&self) -> bool {
        self.before.first().is_some_and(|first| !first.has_origin_of(&self.last))
    }

    /// The URLs before the last, as they are shown.
    pub(crate) fn urls_before(&self) -> Vec<String> {
        self.before.iter().map(|target| target.url().to_owned()).collect()
    }

    /// Goes along a redirect of the last URL to `location`. User and password of a URL go along while
    /// its server stays the same.
    pub(crate) fn follow(&mut self, location: &str) -> Result<(), RedirectError> {
        let from = self.last.url().to_owned();
        let url = absolute(&self.last, location);
        let next = url.parse::<Target>();
        let next = next.map_err(|cause| RedirectError::Target {
            from: from.clone(),
            to: masked(location),
            cause,
        })?;
        if self.last.tls() && !next.tls() {
            return Err(RedirectError::Downgrade { from, to: next.url().to_owned() });
        }
        let next = if next.has_origin_of(&self.last) {
            next.with_credentials_of(&self.last)
        } else {
            next
        };
        let mut urls = self.urls_before();
        urls.extend([from, next.url().to_owned()]);
        let is_known = |known: &Target| {
            known.has_origin_of(&next) && known.path_and_query() == next.path_and_query()
        };
        if self.before.iter().chain([&self.last]).any(is_known) {
            return Err(RedirectError::Circle(urls));
        }
        if self.before.len() == REDIRECTS_MAX {
            return Err(RedirectError::TooMany(urls));
        }
        self.before.push(std::mem::replace(&mut self.last, next));
        Ok(())
    }
}

/// The WebSocket URL that `reference` means where `base` says it (RFC 3986 §5.2.2), without a
/// fragment; http:// and https:// mean ws:// and wss://.
fn absolute(base: &Target, reference: &str) -> String {
    let reference = reference.split('#').next().unwrap_or_default().trim();
    let scheme = if base.tls() { "wss" } else { "ws" };
    if let Some((scheme, rest)) = split_scheme(reference) {
        let scheme = scheme.to_ascii_lowercase();
        let scheme = match &*scheme {
            "http" => "ws",
            "https" => "wss",
            other => other,
        };
        return format!("{scheme}:{rest}");
    }
    if reference.starts_with("//") {
        return format!("{scheme}:{reference}");
    }
    let (base_path, base_query) = split_query(base.path_and_query());
    let (path, query) = split_query(reference);
    let (path, query) = match path {
        "" => (base_path.to_owned(), query.or(base_query)),
        path if path.starts_with('/') => (without_dots(path), query),
        path => {
            let directory = &base_path[..base_path.rfind('/').map_or(0, |at| at + 1)];
            (without_dots(&[directory, path].concat()), query)
        }
    };
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    format!("{scheme}://{}{path}{query}", base.host_field())
}

fn split_scheme(reference: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = reference.split_once(':')?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && Scheme::try_from(scheme).is_ok();
    is_scheme.then_some((scheme, rest))
}

fn split_query(path_and_query: &str) -> (&str, Option<&str>) {
    match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    }
}

/// A path, which begins with a slash, without its segments `.` and `..` (RFC 3986 §5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept = vec![""];
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => kept.truncate((kept.len() - 1).max(1)),
            segment => kept.push(segment),
        }
        if is_last && matches!(segment, "." | "..") {
            kept.push("");
        }
    }
    kept.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The base and the references are those of RFC 3986 §5.4, without fragments and other schemes.
    #[test]
    fn references_mean_what_the_standard_says() {
        let base: Target = "ws://a/b/c/d;p?q".parse().unwrap();
        for (reference, url) in [
            ("g", "ws://a/b/c/g"),
            ("./g", "ws://a/b/c/g"),
            ("g/", "ws://a/b/c/g/"),
            ("/g", "ws://a/g"),
            ("//g", "ws://g"),
            ("?y", "ws://a/b/c/d;p?y"),
            ("g?y", "ws://a/b/c/g?y"),
            ("#s", "ws://a/b/c/d;p?q"),
            ("g?y#s", "ws://a/b/c/g?y"),
            (";x", "ws://a/b/c/;x"),
            ("", "ws://a/b/c/d;p?q"),
            (".", "ws://a/b/c/"),
            ("./", "ws://a/b/c/"),
            ("..", "ws://a/b/"),
            ("../", "ws://a/b/"),
            ("../g", "ws://a/b/g"),
            ("../..", "ws://a/"),
            ("../../g", "ws://a/g"),
            ("../../../g", "ws://a/g"),
            ("/./g", "ws://a/g"),
            ("/../g", "ws://a/g"),
            ("g.", "ws://a/b/c/g."),
            ("..g", "ws://a/b/c/..g"),
            ("./g/.", "ws://a/b/c/g/"),
            ("g/../h", "ws://a/b/c/h"),
            ("g;x=1/../y", "ws://a/b/c/y"),
            ("g?y/../x", "ws://a/b/c/g?y/../x"),
            ("http://h/x", "ws://h/x"),
            ("HTTPS://h/x?y", "wss://h/x?y"),
            ("wss://h:1", "wss://h:1"),
        ] {
            assert_eq!(absolute(&base, reference), url, "{reference}");
        }
        let base: Target = "wss://[::1]:9/".parse().unwrap();
        assert_eq!(absolute(&base, "x"), "wss://[::1]:9/x");
        assert_eq!(absolute(&base, "//h"), "wss://h");
    }

    /// A trail along `locations`.
    fn trail(url: &str, locations: &[&str]) -> Result<Trail, RedirectError> {
        let mut trail = Trail::new(&url.parse().unwrap());
        locations.iter().try_for_each(|location| trail.follow(location))?;
        Ok(trail)
    }

    #[test]
    fn a_trail_leads_from_server_to_server() {
        let trail = trail("ws://h/a?token=abc", &["/b", "https://h/b", "c", "wss://i/"]).unwrap();
        assert_eq!(trail.last().url(), "wss://i/");
        let before = ["ws://h/a?token=***", "ws://h/b", "wss://h/b", "wss://h/c"];
        assert_eq!(trail.urls_before(), before);
        assert!(trail.has_left_its_server());
    }

    #[test]
    fn user_and_password_stay_with_their_server() {
        let url = "ws://me:secret@h/a";
        let authorization = |locations: &[&str]| {
            let trail = trail(url, locations).unwrap();
            (trail.last().authorization().is_some(), trail.has_left_its_server())
        };
        assert_eq!(authorization(&["/b"]), (true, false));
        assert_eq!(authorization(&["ws://H:80/b"]), (true, false));
        assert_eq!(authorization(&["ws://h:81/b"]), (false, true));
        assert_eq!(authorization(&["wss://h/b"]), (false, true));
        assert_eq!(authorization(&["ws://i/b", "ws://h/b"]), (false, false));
        assert_eq!(authorization(&["ws://you:too@i/b"]), (true, true));
    }

    #[test]
    fn redirects_that_nobody_should_follow_are_named() {
        let refused = |url, locations: &[&str]| trail(url, locations).unwrap_err().to_string();
        assert_eq!(
            refused("wss://h/", &["http://h/x?y=z"]),
            "--follow: wss://h/ points to ws://h/x?y=***, and nobody is followed from wss:// to \
             ws://; if that is the server, name it as the URL"
        );
        assert_eq!(
            refused("ws://h/", &["/a", "b", "http://H/a"]),
            "--follow: the redirects go in a circle: ws://h/ -> ws://h/a -> ws://h/b -> ws://H/a"
        );
        assert_eq!(
            refused("ws://h/", &["ftp://me:secret@i/"]),
            "--follow: ws://h/ points to \"ftp://i/\": the scheme has to be ws:// or wss://; \
             expected ws://HOST[:PORT][/PATH]"
        );
        let locations: Vec<String> = (0..11).map(|number| format!("/{number}")).collect();
        let locations: Vec<&str> = locations.iter().map(String::as_str).collect();
        assert!(trail("ws://h/", &locations[..10]).is_ok());
        let refused = refused("ws://h/", &locations);
        assert!(refused.starts_with("--follow: more than 10 redirects: ws://h/ -> "), "{refused}");
        assert!(refused.ends_with(" -> ws://h/9 -> ws://h/10"), "{refused}");
    }
}
