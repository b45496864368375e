//! What the fuzz targets in `fuzz/` run, and the replay of their corpora.

use futures_executor::block_on;
use http::header::{CONNECTION, UPGRADE};
use ringecho::{
    config::command_line::parse_file,
    handshake::{Policy, http1::answer, permessage_deflate::negotiate},
    http::{REQUEST_HEAD_LEN_MAX, Refusal, Route, echo_paths::EchoPaths, read_request_head, route},
    protocol::{
        echo::{Compression, Echo, Rules},
        extensions::{Offer, parse_offers},
    },
    server::takeover::message::{Message, PACKET_LEN_MAX},
};

use crate::oracle::{assert_agrees, judge, transform_with};

/// Bytes of a frame stream's input before the stream: how it is cut, and what is allowed.
const SETTING_LEN: usize = 2;

/// The transformer agrees with the oracle on any bytes, cut anywhere, under any rules.
pub fn frame_stream(input: &[u8]) {
    let Some((&[setting, seed], stream)) = input.split_first_chunk::<SETTING_LEN>() else {
        return;
    };
    let rules = Rules {
        hold: [0, 1, 125, 4096][usize::from(setting & 3)],
        message_size_max: [u64::MAX, 100][usize::from(setting >> 2 & 1)],
    };
    let compression =
        if setting & 8 == 0 { Compression::None } else { Compression::PermessageDeflate };
    let (replies, next) =
        transform_with(Echo::with_compression(compression), cut(stream, seed), &rules);
    let verdict = judge(stream, rules.message_size_max, compression);
    assert_agrees(&replies, next, &verdict, &rules);
}

/// Cuts a stream into pieces whose lengths follow from a seed; 0 leaves it whole.
fn cut(stream: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = stream;
    let mut state = u32::from(seed);
    std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let len = if seed == 0 { rest.len() } else { (state >> 24) as usize % 40 + 1 };
        let (piece, behind) = rest.split_at(len.min(rest.len()));
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Any bytes are a request or a refusal; a request takes no more than its head, and is upgraded
/// only if it asks for it.
pub fn request_head(input: &[u8]) {
    let Ok((mut request, behind)) = block_on(read_request_head(&mut &*input)) else {
        return;
    };
    assert!(input[..input.len().min(REQUEST_HEAD_LEN_MAX)].ends_with(&behind));
    if route(&request, &EchoPaths::new(&["/ws"])) != Ok(Route::Echo) {
        return;
    }
    let asks =
        request.headers().contains_key(UPGRADE) && request.headers().contains_key(CONNECTION);
    let policy = Policy {
        allowed_origins: vec!["https://example.org".parse().unwrap()],
        subprotocols: vec!["echo".to_owned()],
        passes_compression: true,
    };
    match answer(&mut request, &policy) {
        Ok(acceptance) => {
            assert!(asks);
            let head = str::from_utf8(&acceptance.response_head).expect("text");
            assert!(head.starts_with("HTTP/1.1 101 ") && head.ends_with("\r\n\r\n"));
            assert!(head.lines().all(|line| line.bytes().all(|byte| (b' '..0x7f).contains(&byte))));
        }
        Err(refusal) => assert!(Refusal::from(refusal).status.is_client_error()),
    }
}

/// Offers mean the same when they are written as they were understood, and so does the response.
pub fn extension_offer(input: &[u8]) {
    let Some(offers) = str::from_utf8(input).ok().map(parse_offers).and_then(Result::ok) else {
        return;
    };
    let written: Vec<String> = offers.iter().map(write).collect();
    assert_eq!(parse_offers(&written.join(", ")).as_ref(), Ok(&offers));
    if let Some(agreement) = negotiate(&offers) {
        let response = agreement.to_string();
        assert_eq!(parse_offers(&response).map(|offers| offers.len()), Ok(1));
        assert!(offers.iter().any(|offer| offer.name == "permessage-deflate"));
    }
}

/// Any text is a configuration or a refusal that names a line; what is shown of a configuration is a
/// file that makes the same one.
pub fn config_file(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    match parse_file(text) {
        Ok(parsed) => {
            let shown = parsed.settings.to_string();
            let again = parse_file(&shown).unwrap_or_else(|error| panic!("{shown}: {error}"));
            assert_eq!(again.config, parsed.config, "{shown}");
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.starts_with("FILE"), "{error}");
            assert!(!error.contains(|it: char| it.is_control() && it != '\n'), "{error:?}");
        }
    }
}

/// Bytes that are a message of a takeover are those that the message is written as.
pub fn takeover_message(input: &[u8]) {
    if let Ok(message) = Message::decode(input) {
        assert!(input.len() <= PACKET_LEN_MAX);
        assert_eq!(message.encode(), input);
    }
}

fn write(offer: &Offer) -> String {
    let parameters = offer.parameters.iter().map(|parameter| match &parameter.value {
        Some(value) => format!("; {}=\"{value}\"", parameter.name),
        None => format!("; {}", parameter.name),
    });
    offer.name.to_owned() + &parameters.collect::<String>()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn replay(target: &str, run: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let inputs: Vec<_> = fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap()).collect();
        assert!(!inputs.is_empty(), "{target} has no corpus");
        for input in inputs {
            println!("{}", input.path().display());
            run(&fs::read(input.path()).unwrap());
        }
    }

    #[test]
    fn corpus_of_frame_streams_is_replayed() {
        replay("frame_stream", frame_stream);
    }

    #[test]
    fn corpus_of_request_heads_is_replayed() {
        replay("request_head", request_head);
    }

    #[test]
    fn corpus_of_configuration_files_is_replayed() {
        replay("config_file", config_file);
    }

    #[test]
    fn corpus_of_extension_offers_is_replayed() {
        replay("extension_offer", extension_offer);
    }

    #[test]
    fn corpus_of_takeover_messages_is_replayed() {
        replay("takeover_message", takeover_message);
    }
}
