//! A client of HTTP/2 that opens streams by extended CONNECT (RFC 8441) and has messages echoed on them.
//! What it sends is fixed bytes, and windows are so large that nothing waits for them.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use socket2::SockRef;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_HEADERS: u8 = 4;

const WINDOW_LEN_MAX: u32 = (1 << 31) - 1;

const REPLY_TIMEOUT: Duration = Duration::from_mins(1);
const SEND_BUFFER_LEN: usize = 4 << 20;

pub(crate) struct Http2Client {
    stream: TcpStream,
    /// What has come on each stream and has not been looked at.
    received: Vec<Vec<u8>>,
    /// What has come and is no whole frame yet.
    bytes: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The header block of an extended CONNECT to `/ws`.
fn connect_block() -> Vec<u8> {
    let field = |name: &str, value: &str| {
        [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    [
        b"\x02\x07CONNECT".to_vec(),
        field(":protocol", "websocket"),
        b"\x86\x04\x03/ws\x01\x01a".to_vec(),
        field("sec-websocket-version", "13"),
    ]
    .concat()
}

impl Http2Client {
    /// Opens a connection with so many streams; `None` if the server does not speak HTTP/2.
    pub(crate) fn open(address: SocketAddr, streams: usize) -> Option<Self> {
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(REPLY_TIMEOUT)).expect("SO_RCVTIMEO");
        SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_LEN).expect("SO_SNDBUF");
        let initial_window = [&[0, 4][..], &WINDOW_LEN_MAX.to_be_bytes()].concat();
        let mut beginning = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        beginning.extend(frame(SETTINGS, 0, 0, &initial_window));
        let more = (WINDOW_LEN_MAX - 65_535).to_be_bytes();
        beginning.extend(frame(WINDOW_UPDATE, 0, 0, &more));
        for at in 0..streams {
            beginning.extend(frame(HEADERS, END_HEADERS, Self::id(at), &connect_block()));
        }
        stream.write_all(&beginning).ok()?;
        let mut client = Self { stream, received: vec![Vec::new(); streams], bytes: Vec::new() };
        let mut opened = 0;
        let mut is_first = true;
        while opened < streams {
            for (kind, ..) in client.read_frames()? {
                if is_first && kind != SETTINGS {
                    return None;
                }
                is_first = false;
                opened += usize::from(kind == HEADERS);
            }
        }
        Some(client)
    }

    fn id(at: usize) -> u32 {
        2 * at as u32 + 1
    }

    /// Reads until a frame is whole; the type and the stream of each that is. `None` at the end, or if
    /// what comes is no HTTP/2.
    fn read_frames(&mut self) -> Option<Vec<(u8, u32)>> {
        let mut frames = Vec::new();
        while frames.is_empty() {
            let mut piece = [0; 16 << 10];
            let len = self.stream.read(&mut piece).ok().filter(|len| *len > 0)?;
            self.bytes.extend_from_slice(&piece[..len]);
            if self.bytes.starts_with(b"HTTP/") {
                return None;
            }
            while let Some(head) = self.bytes.first_chunk::<9>() {
                let [high, middle, low, kind, _, id @ ..] = *head;
                let frame_len = 9 + u32::from_be_bytes([0, high, middle, low]) as usize;
                if self.bytes.len() < frame_len {
                    break;
                }
                let id = u32::from_be_bytes(id);
                if kind == DATA {
                    self.received[id as usize / 2].extend_from_slice(&self.bytes[9..frame_len]);
                }
                self.bytes.drain(..frame_len);
                frames.push((kind, id));
            }
        }
        Some(frames)
    }

    /// Sends a message `depth` times on each stream, in one write.
    pub(crate) fn send(&mut self, message: &[u8], depth: usize) {
        let mut bytes = Vec::new();
        for at in 0..self.received.len() {
            bytes.extend(frame(DATA, 0, Self::id(at), message).repeat(depth));
        }
        self.stream.write_all(&bytes).expect("the server reads");
    }

    /// Reads the same echo from each stream.
    pub(crate) fn receive(&mut self, expected: &[u8]) {
        while self.received.iter().any(|received| received.len() < expected.len()) {
            self.read_frames().expect("the server echoes");
        }
        for received in &mut self.received {
            assert!(*received == expected, "the reply is the echo");
            received.clear();
        }
    }
}
