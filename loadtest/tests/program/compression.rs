//! Servers that agree to permessage-deflate, or do not.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use ringecho::protocol::{
    OpCode,
    frame_header::{FRAME_HEADER_LEN_MAX, FrameHeader},
    masking::unmask,
};

use crate::{
    invocation::{Outcome, run},
    servers::{Server, accepting_response},
};

const SHORT: &str = "--compression --warmup 0s --duration 500ms -c 2";

fn run_compressed(server: &Server, arguments: &str) -> Outcome {
    run(&format!("{} {SHORT} {arguments}", server.url()))
}

/// A server that answers what came compressed as message `n` with `answer(n, compressed)`.
fn deflating_server(answer: impl Fn(u64, Vec<u8>) -> Vec<u8> + Send + Sync + 'static) -> Server {
    Server::of_tcp(move |mut stream| {
        let response = String::from_utf8(accepting_response(&mut stream)).unwrap();
        let agreement = "\r\nsec-websocket-extensions: permessage-deflate; \
                         server_no_context_takeover\r\n\r\n";
        stream.write_all(response.replace("\r\n\r\n", agreement).as_bytes()).unwrap();
        let mut message = Vec::new();
        let mut number = 0;
        while let Some((header, payload)) = read_frame(&mut stream) {
            if header.opcode == OpCode::Close {
                return;
            }
            assert_eq!(header.rsv1, header.opcode != OpCode::Continuation);
            message.extend(payload);
            if header.fin {
                let echo = frame(&answer(number, std::mem::take(&mut message)));
                if stream.write_all(&echo).is_err() {
                    return;
                }
                number += 1;
            }
        }
    })
}

fn read_frame(stream: &mut TcpStream) -> Option<(FrameHeader, Vec<u8>)> {
    let mut head = Vec::new();
    let header = loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
        if let Some((header, _)) = FrameHeader::decode(&head).unwrap() {
            break header;
        }
    };
    let mut payload = vec![0; header.payload_len as usize];
    stream.read_exact(&mut payload).ok()?;
    unmask(&mut payload, header.masking_key.unwrap());
    Some((header, payload))
}

/// A compressed binary message in one frame.
fn frame(payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        fin: true,
        rsv1: true,
        opcode: OpCode::Binary,
        masking_key: None,
        payload_len: payload.len() as u64,
    };
    let mut head = [0; FRAME_HEADER_LEN_MAX];
    let head_len = header.encode(&mut head);
    [&head[..head_len], payload].concat()
}

/// Compresses a message anew, in another way.
fn recompressed(mut message: Vec<u8>) -> Vec<u8> {
    message.extend([0, 0, 0xff, 0xff]);
    let mut payload = Vec::with_capacity(1 << 20);
    let mut inflater = Decompress::new(false);
    inflater.decompress_vec(&message, &mut payload, FlushDecompress::Sync).unwrap();
    let mut message = Vec::with_capacity(1 << 20);
    let mut deflater = Compress::new(Compression::none(), false);
    deflater.compress_vec(&payload, &mut message, FlushCompress::Sync).unwrap();
    message.truncate(message.len() - 4);
    message
}

#[test]
fn compressed_echoes_are_verified_however_they_are_compressed() {
    for arguments in ["", "--payload 0..3KiB --depth 5", "--payload 200KiB --fragments 3"] {
        for server in [
            deflating_server(|_, message| message),
            deflating_server(|_, message| recompressed(message)),
        ] {
            let outcome = run_compressed(&server, arguments);
            outcome.assert_success();
            assert_eq!(outcome.number("/compression/connections"), 2);
            assert!(!outcome.stderr.contains("declined"), "{}", outcome.stderr);
        }
    }
}

#[test]
fn a_damaged_compressed_echo_is_one_error() {
    // In the length of the stored block that incompressible bytes become, and in these.
    for at in [1, 20, 60] {
        let server = deflating_server(move |number, mut message| {
            if number == 1 {
                message[at] ^= 0x10;
            }
            message
        });
        run_compressed(&server, "--depth 4").assert_errors(&[("wrong", 2)]);
    }
}

#[test]
fn a_server_that_declines_is_driven_without_compression() {
    let outcome = run_compressed(&Server::honest(), "");
    outcome.assert_success();
    assert_eq!(outcome.number("/compression/connections"), 0);
    let warning = "warning: the server declined --compression on 2 of 2 connections";
    assert!(outcome.stderr.contains(warning), "{}", outcome.stderr);
}
