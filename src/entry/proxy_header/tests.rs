//! The decoder on headers of other people's encoder, on the specification's examples, and on headers
//! that are wrong in one place; the reading on streams that deliver them in pieces.

use std::{collections::VecDeque, net::SocketAddr};

use futures_executor::block_on;
use monoio::{
    BufResult,
    buf::{IoBufMut, IoVecBufMut},
};
use proptest::prelude::*;
use proxy_header::{Protocol, ProxiedAddress, ProxyHeader as Encoder, Tlv};

use super::*;

/// A header of version 2 with its command, family and transport, and a block of this length.
fn version_2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let len = u16::try_from(block.len()).unwrap().to_be_bytes();
    [v2::SIGNATURE, &[0x20 | command, family], &len, block].concat()
}

/// The addresses 192.0.2.1 port 4711 and 192.0.2.2 port 443.
const IPV4: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x67, 0x01, 0xbb];

fn field(kind: u8, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &len[..], value].concat()
}

/// A header for a client of `IPV4`, with these fields.
fn with_fields(fields: &[Vec<u8>]) -> Vec<u8> {
    version_2(1, 0x11, &[IPV4, &fields.concat()].concat())
}

/// The same with its checksum as the last field.
fn with_checksum(fields: &[Vec<u8>]) -> Vec<u8> {
    let mut header = with_fields(&[fields.concat(), field(3, &[0; 4])]);
    let checksum = crc32c::crc32c([&header[..]]).to_be_bytes();
    let at = header.len() - 4;
    header[at..].copy_from_slice(&checksum);
    header
}

fn peer(text: &str) -> Peer {
    text.parse::<SocketAddr>().unwrap().into()
}

/// Decodes a header, and sees that bytes are missing until it is whole, and that those behind it change
/// nothing.
#[track_caller]
fn decode_whole(bytes: &[u8]) -> ProxyHeader<'_> {
    for received_len in 0..bytes.len() {
        assert_eq!(decode(&bytes[..received_len]), Ok(Decoded::Incomplete), "{received_len}");
    }
    let longer = [bytes, b"GET / HTTP/1.1\r\n"].concat();
    let Ok(Decoded::Whole { header, len }) = decode(bytes) else {
        panic!("{:?} instead of a header", decode(bytes))
    };
    assert_eq!(len, bytes.len());
    assert_eq!(decode(&longer), Ok(Decoded::Whole { header, len }));
    header
}

/// Sees that bytes are refused with the last of them, and that those behind them change nothing.
#[track_caller]
fn decode_fault(bytes: &[u8]) -> HeaderFault {
    for received_len in 0..bytes.len() {
        let shown = bytes[..received_len].escape_ascii();
        assert_eq!(decode(&bytes[..received_len]), Ok(Decoded::Incomplete), "{shown}");
    }
    let fault = decode(bytes).expect_err("a fault");
    assert_eq!(decode(&[bytes, b" 0\r\n\r\n"].concat()), Err(fault));
    fault
}

#[test]
fn headers_of_version_1_name_their_client() {
    // Those of the specification, section 2.1: the longest of each kind, and what else it says.
    let ipv6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY UNKNOWN {ipv6} {ipv6} 65535 65535\r\n");
    assert_eq!(longest.len(), v1::LEN_MAX);
    for (line, client) in [
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            Some("255.255.255.255:65535"),
        ),
        (&format!("PROXY TCP6 {ipv6} {ipv6} 65535 65535\r\n"), Some(&format!("[{ipv6}]:65535"))),
        ("PROXY UNKNOWN\r\n", None),
        (&longest, None),
        ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", Some("192.168.0.1:56324")),
        // What follows UNKNOWN is ignored.
        ("PROXY UNKNOWN not an address\r\n", None),
        ("PROXY TCP6 ::1 ::2 0 1\r\n", Some("[::1]:0")),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2\r\n", Some("192.0.2.1:1")),
    ] {
        assert_eq!(decode_whole(line.as_bytes()).client, client.map(peer), "{line}");
    }
}

#[test]
fn what_is_no_header_of_version_1_is_refused() {
    let malformed = |expected: &str, line: &str| match decode_fault(line.as_bytes()) {
        HeaderFault::Malformed(needs) => assert!(needs.contains(expected), "{line:?}: {needs}"),
        HeaderFault::TooLong | HeaderFault::ChecksumWrong => panic!("{line:?}"),
    };
    for line in ["PROXY TCP4\n", "PROXY UNKNOWN\r\r", "PROXY \t", "PROXY \0", "PROXY \u{7f}"] {
        malformed("CR and LF", line);
    }
    for line in ["", "TCP", " TCP4 ", "tcp4 1.1.1.1 1.1.1.2 1 2", "UNKNOWNS", "UDP4"] {
        malformed("TCP4, TCP6 or UNKNOWN", &format!("PROXY {line}\r\n"));
    }
    for rest in ["", " ", " 1.1.1.1 1.1.1.2 1", " 1.1.1.1 1.1.1.2 1 2 3", "  1.1.1.1 1.1.1.2 1 2"] {
        malformed("two addresses and two ports", &format!("PROXY TCP4{rest}\r\n"));
    }
    for rest in [
        "TCP4 ::1 ::1 1 2",
        "TCP6 1.1.1.1 1.1.1.2 1 2",
        "TCP4 1.1.1.256 1.1.1.2 1 2",
        "TCP4 1.1.1.1 1.1.1 1 2",
        "TCP4 01.1.1.1 1.1.1.2 1 2",
        "TCP6 [::1] ::1 1 2",
        "TCP6 fe80::1%1 ::1 1 2",
    ] {
        malformed("of its family", &format!("PROXY {rest}\r\n"));
    }
    for ports in ["65536 1", "1 65536", "-1 1", "+1 1", "01 1", "1 00", "1x 1", "1 "] {
        malformed("ports", &format!("PROXY TCP4 1.1.1.1 1.1.1.2 {ports}\r\n"));
    }
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(v1::LEN_MAX));
    assert_eq!(decode_fault(&endless.as_bytes()[..v1::LEN_MAX]), HeaderFault::TooLong);
    // Its line ends one byte too late.
    let late = format!("{}\r", &endless[..v1::LEN_MAX - 1]);
    assert_eq!(decode_fault(late.as_bytes()), HeaderFault::TooLong);
}

#[test]
fn headers_of_version_2_name_their_client() {
    let unix = [[b'/'; 108], [b'x'; 108]].concat();
    let ipv6 = [&[0x20; 16][..], &[0x21; 16], &[0, 80, 1, 187]].concat();
    let source = "[2020:2020:2020:2020:2020:2020:2020:2020]:80";
    for (command, family, block, client) in [
        (1, 0x11, IPV4, Some(peer("192.0.2.1:4711"))),
        // A client that has come by UDP, as by HTTP/3.
        (1, 0x12, IPV4, Some(peer("192.0.2.1:4711"))),
        (1, 0x10, IPV4, Some(peer("192.0.2.1:4711"))),
        (1, 0x21, &ipv6, Some(peer(source))),
        (1, 0x22, &ipv6, Some(peer(source))),
        (1, 0x31, &unix, Some(Peer::Local)),
        (1, 0x32, &unix, Some(Peer::Local)),
        (1, 0x00, &[], None),
        (1, 0x01, b"ignored", None),
        // The block of LOCAL is ignored, with its family.
        (0, 0x00, &[], None),
        (0, 0x11, IPV4, None),
        (0, 0x11, b"short", None),
        (0, 0xff, b"anything", None),
    ] {
        let bytes = version_2(command, family, block);
        assert_eq!(decode_whole(&bytes).client, client, "{command} {family:#x}");
    }
    let mapped = [&[0; 10][..], &[0xff; 2], &[192, 0, 2, 1], &[0; 16], &[0, 1, 0, 2]].concat();
    assert_eq!(decode_whole(&version_2(1, 0x21, &mapped)).client, Some(peer("192.0.2.1:1")));
}

#[test]
fn what_is_no_header_of_version_2_is_refused_at_the_byte_that_shows_it() {
    let fault = |end: &[u8]| match decode_fault(&[v2::SIGNATURE, end].concat()) {
        HeaderFault::Malformed(needs) => needs,
        HeaderFault::TooLong => "too long",
        HeaderFault::ChecksumWrong => "checksum",
    };
    for version in [0x00, 0x01, 0x11, 0x22, 0x2f, 0x31, 0xff] {
        assert!(fault(&[version]).contains("version 2"), "{version:#x}");
    }
    for family in [0x13, 0x1f, 0x41, 0x40, 0xff, 0x03] {
        assert!(fault(&[0x21, family]).contains("family"), "{family:#x}");
    }
    for (family, addresses_len) in [(0x11, 12), (0x21, 36), (0x31, 216)] {
        let [high, low] = u16::to_be_bytes(addresses_len - 1);
        assert!(fault(&[0x21, family, high, low]).contains("room"), "{family:#x}");
        assert!(fault(&[0x21, family, 0, 0]).contains("room"), "{family:#x}");
    }
    for len in [4081, 4096, 65_535_u16] {
        let [high, low] = len.to_be_bytes();
        for version in [0x20, 0x21] {
            assert_eq!(fault(&[version, 0x11, high, low]), "too long", "{len}");
        }
    }
}

#[test]
fn longest_header_of_version_2_is_read() {
    let filling = HEADER_LEN_MAX - 16 - IPV4.len() - 3;
    let bytes = with_fields(&[field(4, &vec![0; filling])]);
    assert_eq!(bytes.len(), HEADER_LEN_MAX);
    assert_eq!(decode_whole(&bytes).client, Some(peer("192.0.2.1:4711")));
    // As many fields as there is room for.
    let bytes = with_checksum(&vec![field(0xee, &[]); (filling - 7) / 3]);
    assert!(bytes.len() > HEADER_LEN_MAX - 10);
    decode_whole(&bytes);
}

#[test]
fn fields_end_with_their_header() {
    for fields in [&[1][..], &[1, 0], &[1, 0, 1], &[1, 0, 1, b'a', 2], &[1, 0xff, 0xff, b'a']] {
        let bytes = with_fields(&[fields.to_vec()]);
        let fault = HeaderFault::Malformed("fields that end where it ends");
        assert_eq!(decode_fault(&bytes), fault, "{fields:?}");
    }
}

#[test]
fn header_with_a_checksum_is_refused_if_any_bit_of_it_is_another() {
    let bytes = with_checksum(&[field(2, b"example.org"), field(4, b"\0\0")]);
    let announced = decode_whole(&bytes).announced();
    assert_eq!(announced.authority.as_deref(), Some("example.org"));
    // The signature and the length are looked at before.
    let fixed = [12, 13].into_iter().chain(16..bytes.len());
    for bit in fixed.flat_map(|at| (0..8).map(move |bit| 8 * at + bit)) {
        let mut wrong = bytes.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        // LOCAL has its block ignored, another transport is as good, and so is another type of field,
        // if that is not the checksum's.
        match decode(&wrong) {
            Err(_) => {}
            Ok(Decoded::Whole { header, .. }) => {
                assert!(header.client.is_none() || bit / 8 == bytes.len() - 7, "bit {bit}");
            }
            other => panic!("{other:?} with bit {bit}"),
        }
    }
    let twice = with_checksum(&[field(3, &[0; 4])]);
    assert_eq!(decode_fault(&twice), HeaderFault::Malformed("one checksum, of four bytes"));
    let short = with_fields(&[field(3, &[0; 3])]);
    assert_eq!(decode_fault(&short), HeaderFault::Malformed("one checksum, of four bytes"));
    let wrong = with_fields(&[field(3, &[0; 4])]);
    assert_eq!(decode_fault(&wrong), HeaderFault::ChecksumWrong);
}

#[test]
fn fields_say_what_an_operator_may_want_to_see() {
    let tls = [&[7][..], &[0; 4], &field(0x23, b"X"), &field(0x21, b"TLSv1.3")].concat();
    let bytes = with_fields(&[
        field(1, b"h2"),
        field(1, b"http/1.1"),
        field(2, b"ex\r\nample\xff"),
        field(0x20, &tls),
        field(5, &[b'u'; 400]),
        field(0xe5, b"own"),
    ]);
    let announced = decode_whole(&bytes).announced();
    assert_eq!(announced.alpn.as_deref(), Some("h2"));
    assert_eq!(announced.authority.as_deref(), Some("ex\\u{d}\\u{a}ample\u{fffd}"));
    assert_eq!(announced.tls.as_deref(), Some("TLSv1.3"));
    assert_eq!(announced.unique_id.as_deref().map(str::len), Some(256));
    // Fields inside of that of TLS are not checked, and then not read.
    for tls in [&[][..], &[7, 0], &[7, 0, 0, 0, 0, 0x21, 0, 9, b'T']] {
        let bytes = with_fields(&[field(0x20, tls)]);
        assert_eq!(decode_whole(&bytes).announced(), Announced::default());
    }
    let local = version_2(0, 0x00, &field(2, b"example.org"));
    assert_eq!(decode_whole(&local).announced(), Announced::default());
}

#[test]
fn every_other_beginning_is_no_header_as_soon_as_it_shows() {
    for signature in [v1::SIGNATURE, v2::SIGNATURE] {
        for shared in 0..signature.len() {
            for byte in 0..=u8::MAX {
                let bytes = [&signature[..shared], &[byte]].concat();
                let begins = v1::SIGNATURE.starts_with(&bytes) || v2::SIGNATURE.starts_with(&bytes);
                let expected = if begins { Decoded::Incomplete } else { Decoded::Absent };
                assert_eq!(decode(&bytes), Ok(expected), "{}", bytes.escape_ascii());
            }
        }
    }
    for request in
        ["GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PROXYING", "\x16\x03\x01"]
    {
        assert_eq!(decode(request.as_bytes()), Ok(Decoded::Absent));
    }
}

/// Delivers one piece with each read, and then the end.
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncReadRent for Pieces {
    async fn read<T: IoBufMut>(&mut self, buffer: T) -> BufResult<usize, T> {
        let piece = self.0.pop_front().unwrap_or_default();
        let mut reader = &piece[..];
        reader.read(buffer).await
    }

    async fn readv<T: IoVecBufMut>(&mut self, buffers: T) -> BufResult<usize, T> {
        (Err(std::io::ErrorKind::Unsupported.into()), buffers)
    }
}

/// Reads the beginning of a connection that arrives in pieces; also how many pieces were left.
fn open(
    pieces: impl IntoIterator<Item = impl AsRef<[u8]>>,
    expected: Expected,
) -> (Result<Opening, OpeningError>, usize) {
    let pieces = pieces.into_iter().map(|piece| piece.as_ref().to_vec()).collect();
    let mut pieces = Pieces(pieces);
    let has_begun = Cell::new(false);
    let opening = block_on(read_opening(&mut pieces, expected, &has_begun));
    assert!(has_begun.get());
    (opening, pieces.0.len())
}

#[test]
fn header_and_request_of_one_segment_take_one_read() {
    let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n".to_vec();
    for header in [line, with_checksum(&[]), version_2(0, 0, &[]), b"PROXY UNKNOWN\r\n".to_vec()] {
        for request in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01", b"PROXY ", b""] {
            let segment = [&header, request].concat();
            for expected in [Expected::Header, Expected::HeaderOrNone] {
                let (opening, left) = open([&segment[..], b"more"], expected);
                let opening = opening.unwrap();
                assert_eq!((&opening.behind[..], left), (request, 1));
                let client = decode_whole(&header).client;
                assert_eq!(opening.client.map(|(client, _)| client), client);
            }
        }
    }
    // Without a header nothing is taken from what has arrived.
    for (expected, request) in [
        (Expected::HeaderOrNone, "GET / HTTP/1.1\r\n"),
        (Expected::HeaderOrNone, "G"),
        (Expected::NoHeader, "PROPFIND / HTTP/1.1\r\n"),
        (Expected::NoHeader, "\x16"),
    ] {
        let (opening, left) = open([request, "more"], expected);
        let opening = opening.unwrap();
        assert_eq!((&opening.behind[..], left), (request.as_bytes(), 1));
        assert!(opening.client.is_none());
    }
}

#[test]
fn connections_are_refused_for_their_headers() {
    use ProxyHeaderRefusal::{ChecksumWrong, Malformed, Missing, TooLong, Untrusted};
    let refused = |bytes: &[u8], expected| {
        let (whole, _) = open([bytes], expected);
        let (in_pieces, _) = open(bytes.chunks(1), expected);
        assert_eq!(whole.as_ref().err(), in_pieces.as_ref().err());
        match whole {
            Err(OpeningError::Refused(refusal)) => Some(refusal),
            Ok(_) | Err(OpeningError::PeerLeft) => None,
        }
    };
    let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n";
    let too_long = [v2::SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
    let wrong = with_fields(&[field(3, &[0; 4])]);
    for expected in [Expected::Header, Expected::HeaderOrNone] {
        assert_eq!(refused(line, expected), None);
        assert_eq!(refused(&too_long, expected), Some(TooLong));
        assert_eq!(refused(&wrong, expected), Some(ChecksumWrong));
        assert!(matches!(refused(b"PROXY x\r\n", expected), Some(Malformed(_))));
    }
    for request in ["GET / HTTP/1.1\r\n\r\n", "\x16\x03", "\r\nG", "PROXYX"] {
        assert_eq!(refused(request.as_bytes(), Expected::Header), Some(Missing), "{request}");
        assert_eq!(refused(request.as_bytes(), Expected::HeaderOrNone), None, "{request}");
        assert_eq!(refused(request.as_bytes(), Expected::NoHeader), None, "{request}");
    }
    for begun in [&b"PROXY "[..], line, v2::SIGNATURE, &too_long, &wrong] {
        assert_eq!(refused(begun, Expected::NoHeader), Some(Untrusted));
    }
    let (ended, _) = open(["PROXY TCP4", ""], Expected::Header);
    assert_eq!(ended.unwrap_err(), OpeningError::PeerLeft);
}

/// An address, and what the other encoder knows as one.
fn addresses() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    prop_oneof![
        any::<([u8; 4], u16, [u8; 4], u16)>()
            .prop_map(|(from, port, to, other)| ((from, port).into(), (to, other).into())),
        any::<([u8; 16], u16, [u8; 16], u16)>()
            .prop_map(|(from, port, to, other)| ((from, port).into(), (to, other).into())),
    ]
}

proptest! {
    #[test]
    fn headers_of_another_encoder_are_understood(
        addresses in prop::option::of(addresses()), is_datagram: bool,
        authority in prop::option::of("[a-z.]{0,60}"), behind in prop::collection::vec(any::<u8>(), 0..40),
        cut in 1_usize..300,
    ) {
        let address = |protocol| addresses.map(|(source, destination)| {
            ProxiedAddress { protocol, source, destination }
        });
        let encoder = |protocol| address(protocol).map_or_else(Encoder::with_local, Encoder::with_address);
        let mut first = Vec::new();
        encoder(Protocol::Stream).encode_v1(&mut first).unwrap();
        let transport = if is_datagram { Protocol::Datagram } else { Protocol::Stream };
        let mut encoder = encoder(transport);
        if let Some(authority) = &authority {
            encoder.append_tlv(Tlv::Authority(authority.as_str().into()));
        }
        let mut second = Vec::new();
        encoder.encode_v2(&mut second).unwrap();
        for (header, authority) in [(first, None), (second, authority)] {
            decode_whole(&header);
            let bytes = [&header[..], &behind].concat();
            let (front, back) = bytes.split_at(cut.min(bytes.len()));
            let (opening, left) = open([front, back].into_iter().filter(|it| !it.is_empty()), Expected::Header);
            let opening = opening.unwrap();
            let client = opening.client.clone().map(|(client, _)| client);
            prop_assert_eq!(client, addresses.map(|(source, _)| Peer::from(source)));
            if let Some((_, announced)) = &opening.client {
                prop_assert_eq!(announced.authority.as_deref(), authority.as_deref());
            }
            let arrived = if left == 0 { &bytes[..] } else { front };
            prop_assert_eq!(&opening.behind[..], &arrived[header.len()..]);
        }
    }

    /// Whatever the bytes, more of them never change what is known.
    #[test]
    fn verdict_on_any_bytes_stands(
        signature in prop::sample::select(vec![v1::SIGNATURE, v2::SIGNATURE, b""]),
        version in prop::sample::select(vec![0x20, 0x21]), bytes in prop::collection::vec(any::<u8>(), 0..80),
        is_version_2: bool,
    ) {
        let mut bytes = [signature, &bytes].concat();
        if is_version_2 && bytes.len() > 16 {
            (bytes[12], bytes[14], bytes[13]) = (version, 0, bytes[13] & 0x32);
        }
        let mut known = Ok(Decoded::Incomplete);
        for received_len in 0..=bytes.len() {
            let now = decode(&bytes[..received_len]);
            if known != Ok(Decoded::Incomplete) {
                prop_assert_eq!(&now, &known);
            }
            known = now;
        }
    }
}
