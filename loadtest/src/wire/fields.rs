//! The header fields of a response: their values, and the tokens that these list.

use http::header::HeaderName;

/// The values of all header fields with this name.
pub(crate) fn values<'a>(
    fields: &'a [httparse::Header<'a>],
    name: &'a HeaderName,
) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name.as_str()))
        .map(|field| field.value.trim_ascii())
}

/// Whether a header field lists `token`, in whatever case.
pub(crate) fn has_token(fields: &[httparse::Header<'_>], name: &HeaderName, token: &[u8]) -> bool {
    values(fields, name)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .any(|listed| listed.trim_ascii().eq_ignore_ascii_case(token))
}
