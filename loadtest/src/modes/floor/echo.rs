//! An echo of this process, for the floor: a thread that always polls, and has one connection at a
//! time.
//!
//! It knows as much of RFC 6455 as the generator sends it: frames of at most 125 bytes that are
//! whole messages, and Close frames, which it answers and ends TCP after. It ends by itself after
//! [`ECHO_MAX`], whatever happens.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::wire::handshake::accept_of;

/// How long the echo lives at most.
const ECHO_MAX: Duration = Duration::from_secs(1);

/// The longest request head that the echo answers.
const REQUEST_HEAD_LEN_MAX: usize = 4 << 10;

/// Octets before the payload of a frame that is masked and has a length of 7 bits.
const FRAME_HEADER_LEN: usize = 6;

const MASK: u8 = 0x80;
const LEN_7_BIT_MAX: u8 = 125;
pub(super) const OPCODE: u8 = 0x0f;
pub(super) const CLOSE: u8 = 0x8;

/// Serves one connection until it ends, or the deadline comes.
pub(super) type ServeOne = fn(TcpStream, &Deadline) -> io::Result<()>;

/// The thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Echo {
    is_over: Arc<AtomicBool>,
    /// `None` once it has been waited for.
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Echo {
    /// Starts an echo whose connections are served by `serve_one`, and says where it listens.
    pub(super) fn start(serve_one: ServeOne) -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let deadline = Deadline { is_over: Arc::clone(&is_over), end: Instant::now() + ECHO_MAX };
        let thread = thread::Builder::new()
            .name("loadtest-floor".into())
            .spawn(move || serve(&listener, serve_one, &deadline))?;
        Ok((Self { is_over, thread: Some(thread) }, address))
    }

    /// Ends it, and returns what went wrong.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.is_over.store(true, Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the echo panicked")))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
    }
}

/// When the echo ends.
pub(super) struct Deadline {
    is_over: Arc<AtomicBool>,
    end: Instant,
}

impl Deadline {
    /// The outcome of `poll`, which is called until it does not block; `None` if the echo is over.
    pub(super) fn until<T>(
        &self,
        mut poll: impl FnMut() -> io::Result<T>,
    ) -> Option<io::Result<T>> {
        loop {
            match poll() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                outcome => return Some(outcome),
            }
            if self.is_over.load(Relaxed) || Instant::now() >= self.end {
                return None;
            }
        }
    }
}

/// Serves one connection after the other until the deadline.
fn serve(listener: &TcpListener, serve_one: ServeOne, deadline: &Deadline) -> io::Result<()> {
    while let Some(accepted) = deadline.until(|| listener.accept()) {
        let (stream, _) = accepted?;
        match serve_one(stream, deadline) {
            // A cycle with --close abort ends with a reset.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            served => served?,
        }
    }
    Ok(())
}

/// Answers the opening handshake of a connection, and echoes its messages until it ends.
pub(super) fn echo(mut stream: TcpStream, deadline: &Deadline) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let mut received = Vec::new();
    while !received.ends_with(b"\r\n\r\n") {
        if !receive(&mut stream, &mut received, deadline)? {
            return Ok(());
        }
        if received.len() > REQUEST_HEAD_LEN_MAX {
            return Err(ErrorKind::InvalidData.into());
        }
    }
    // A client has one small frame under way, so no write blocks.
    stream.write_all(&response(&received)?)?;
    received.clear();
    loop {
        while let Some(reply) = take_reply(&mut received)? {
            stream.write_all(&reply)?;
            if reply[0] & OPCODE == CLOSE {
                return Ok(());
            }
        }
        if !receive(&mut stream, &mut received, deadline)? {
            return Ok(());
        }
    }
}

/// Appends what there is to `received`, and says whether there can be more.
fn receive(
    stream: &mut TcpStream,
    received: &mut Vec<u8>,
    deadline: &Deadline,
) -> io::Result<bool> {
    let mut chunk = [0; 4096];
    let Some(read) = deadline.until(|| stream.read(&mut chunk)) else { return Ok(false) };
    let len = read?;
    received.extend_from_slice(&chunk[..len]);
    Ok(len > 0)
}

/// Takes the first frame out of `received`, and returns the same one as a server sends it; `None`
/// if it is not all there.
pub(super) fn take_reply(received: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let &[first, second, ..] = &**received else { return Ok(None) };
    let payload_len = second & !MASK;
    if second & MASK == 0 || payload_len > LEN_7_BIT_MAX {
        return Err(ErrorKind::InvalidData.into());
    }
    let frame_len = FRAME_HEADER_LEN + usize::from(payload_len);
    if received.len() < frame_len {
        return Ok(None);
    }
    let frame: Vec<u8> = received.drain(..frame_len).collect();
    let (frame_header, payload) = frame.split_at(FRAME_HEADER_LEN);
    let masking_key = frame_header[2..].iter().cycle();
    let unmasked = payload.iter().zip(masking_key).map(|(octet, key)| octet ^ key);
    Ok(Some([first, payload_len].into_iter().chain(unmasked).collect()))
}

/// The response that accepts a request.
fn response(request_head: &[u8]) -> io::Result<Vec<u8>> {
    let request_head = String::from_utf8_lossy(request_head);
    let mut fields = request_head.lines().filter_map(|line| line.split_once(':'));
    let key = fields.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
    let (_, key) = key.ok_or(ErrorKind::InvalidData)?;
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept_of(key.trim())
    );
    Ok(response.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_answered_once_they_are_whole() {
        let frame = [0x82, 0x83, 1, 2, 3, 4, b'a' ^ 1, b'b' ^ 2, b'c' ^ 3];
        let mut received = Vec::new();
        for octet in &frame[..8] {
            received.push(*octet);
            assert_eq!(take_reply(&mut received).unwrap(), None);
        }
        received.extend([frame[8], 0x88, 0x80]);
        assert_eq!(take_reply(&mut received).unwrap(), Some(b"\x82\x03abc".to_vec()));
        assert_eq!(take_reply(&mut received).unwrap(), None);
        received.extend([0; 4]);
        assert_eq!(take_reply(&mut received).unwrap(), Some(b"\x88\x00".to_vec()));
        assert!(take_reply(&mut vec![0x82, 0x03]).is_err(), "frames of clients are masked");
    }
}
