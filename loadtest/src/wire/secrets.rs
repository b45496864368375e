//! What of a URL is not shown: who the user is, and the values of its query.

use percent_encoding::percent_decode_str;

/// Stands where something is not shown.
const MASK: &str = "***";

/// A shorter value is left where somebody else writes it: it may be there by chance.
const SECRET_LEN_MIN: usize = 3;

/// `url` without its user, and with its query's values masked. What has no name is a value too.
pub(crate) fn masked(url: &str) -> String {
    let (front, rest) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
    let (scheme, hierarchy) = front.split_at(front.find("://").map_or(0, |at| at + 3));
    let authority_len = hierarchy.find('/').unwrap_or(hierarchy.len());
    let user_len = hierarchy[..authority_len].rfind('@').map_or(0, |at| at + 1);
    let pairs: Vec<String> = rest.split('&').map(masked_pair).collect();
    [scheme, &hierarchy[user_len..], &pairs.join("&")].concat()
}

/// A pair of a query; the first one has the separator before it.
fn masked_pair(pair: &str) -> String {
    let (separator, pair) = pair.split_at(pair.len() - pair.trim_start_matches(['?', '#']).len());
    match pair.split_once('=') {
        Some((name, _)) => [separator, name, "=", MASK].concat(),
        None if pair.is_empty() => separator.to_owned(),
        None => [separator, MASK].concat(),
    }
}

/// What a URL has that is not shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// Those of a URL with this user, as `USER[:PASSWORD]`, and this query.
    pub(crate) fn new(userinfo: Option<&str>, query: Option<&str>) -> Self {
        let password = userinfo.and_then(|userinfo| userinfo.split_once(':'));
        let pairs = query.unwrap_or_default().split('&');
        let values = pairs.map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value));
        let decoded = |value: &str| percent_decode_str(value).decode_utf8_lossy().into_owned();
        let both = |value: &str| [value.to_owned(), decoded(value)];
        let secrets = password.map(|(_, password)| password).into_iter().chain(values);
        Self(secrets.flat_map(both).filter(|secret| secret.len() >= SECRET_LEN_MIN).collect())
    }

    /// These and others.
    pub(crate) fn and(mut self, others: &Self) -> Self {
        self.0.extend_from_slice(&others.0);
        self
    }

    /// What somebody else says, without them.
    pub(crate) fn masked_in(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, MASK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_values_are_masked() {
        for (url, shown) in [
            ("ws://localhost/ws", "ws://localhost/ws"),
            ("ws://me:a%40b@[::1]:9/ws", "ws://[::1]:9/ws"),
            ("ws://h/?token=abc&b=&c", "ws://h/?token=***&b=***&***"),
            ("ws://h?t=a=b", "ws://h?t=***"),
            ("ws://h/a@b?", "ws://h/a@b?"),
            ("https://h/#token=abc", "https://h/#token=***"),
            ("me:secret@h/ws?t=abc", "h/ws?t=***"),
        ] {
            assert_eq!(masked(url), shown, "{url}");
        }
    }

    #[test]
    fn secrets_are_found_in_what_others_say() {
        let secrets = Secrets::new(Some("me:pass%20word"), Some("token=a%2Bc&n=1&lonely"));
        for (text, shown) in [
            ("/ws?token=a%2Bc&n=1&lonely", "/ws?token=***&n=1&***"),
            ("a+c is no token of me, pass word", "*** is no token of me, ***"),
        ] {
            assert_eq!(secrets.masked_in(text), shown);
        }
    }
}
