//! What a request to the admin listener is answered with.

use http::{Method, Request, StatusCode, header::ACCEPT};

use super::{
    directory::Directory,
    report::{self, Cursor},
};
use crate::{
    http::{
        HEALTH_PATH, Methods, Refusal, RequestRefusal, encode_healthy, encode_refusal,
        encode_response,
    },
    metrics::exposition::{CLASSIC_TEXT, OPEN_METRICS, to_classic_text},
};

/// The most connections in one answer, and how many there are if the request does not say it.
const CONNECTIONS_MAX: usize = 1000;
const CONNECTIONS_DEFAULT: usize = 100;

const INDEX: &str = "\
/metrics      counters of the server, for Prometheus (OpenMetrics)
/status       the server and its workers (JSON)
/connections  open connections (JSON): ?limit=100&after=ID, where ID is `next` of the page before
/healthz      200 while new connections are wanted, and 503 from then on
";

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Answers change all the time.
const HEADERS: &[(&str, &str)] =
    &[("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")];

/// The whole response to a request.
pub(super) fn answer(request: &Request<()>, directory: &Directory) -> Vec<u8> {
    let path = request.uri().path();
    if !["/", "/metrics", "/status", "/connections", HEALTH_PATH].contains(&path) {
        let text = "there is nothing here; / lists what there is".to_owned();
        return encode_refusal(&Refusal { status: StatusCode::NOT_FOUND, headers: &[], text });
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return encode_refusal(&RequestRefusal::MethodNotAllowed(Methods::Get).into());
    }
    match path {
        "/metrics" => {
            let text = directory.expose();
            if wants_classic_text(request) {
                respond(CLASSIC_TEXT, &to_classic_text(&text))
            } else {
                respond(OPEN_METRICS, &text)
            }
        }
        "/status" => respond(JSON, &report::status(directory).to_string()),
        "/connections" => match Page::of(request.uri().query().unwrap_or_default()) {
            Ok(Page { after, limit }) => {
                respond(JSON, &report::connections(directory, after, limit).to_string())
            }
            Err(text) => {
                let status = StatusCode::BAD_REQUEST;
                encode_refusal(&Refusal { status, headers: &[], text })
            }
        },
        HEALTH_PATH if directory.is_ready() => encode_healthy(),
        HEALTH_PATH => encode_refusal(&RequestRefusal::Stopping.into()),
        _ => respond(TEXT, INDEX),
    }
}

fn respond(content_type: &'static str, body: &str) -> Vec<u8> {
    encode_response(StatusCode::OK, content_type, HEADERS, body.as_bytes().to_vec())
}

/// Whether a client asks for the older text format, and does not know `OpenMetrics`.
fn wants_classic_text(request: &Request<()>) -> bool {
    let accepts = |media_type: &str| {
        let values = request.headers().get_all(ACCEPT).iter();
        values.filter_map(|value| value.to_str().ok()).any(|value| value.contains(media_type))
    };
    accepts("text/plain") && !accepts("application/openmetrics-text")
}

/// Which connections are asked for.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    after: Option<Cursor>,
    limit: usize,
}

impl Page {
    /// Reads a query. The error is what to tell the client.
    fn of(query: &str) -> Result<Self, String> {
        let mut page = Self { after: None, limit: CONNECTIONS_DEFAULT };
        for field in query.split('&').filter(|field| !field.is_empty()) {
            match field.split_once('=') {
                Some(("limit", value)) => {
                    page.limit = value
                        .parse()
                        .ok()
                        .filter(|limit| (1..=CONNECTIONS_MAX).contains(limit))
                        .ok_or(format!("limit is a number from 1 to {CONNECTIONS_MAX}"))?;
                }
                Some(("after", value)) => {
                    let cursor = value.parse();
                    page.after =
                        Some(cursor.map_err(|_| "after is the id of a connection, such as 0.17")?);
                }
                _ => return Err("only limit and after can be asked for".to_owned()),
            }
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_names_a_page_or_is_refused() {
        let page = |after, limit| Ok(Page { after, limit });
        assert_eq!(Page::of(""), page(None, 100));
        assert_eq!(Page::of("limit=7"), page(None, 7));
        let after = Some(Cursor { worker: 2, number: 17 });
        assert_eq!(Page::of("after=2.17&limit=1000"), page(after, 1000));
        for query in
            ["limit=0", "limit=1001", "limit=", "after=", "after=1", "after=a.b", "x=1", "x"]
        {
            assert!(Page::of(query).is_err(), "{query}");
        }
    }
}
