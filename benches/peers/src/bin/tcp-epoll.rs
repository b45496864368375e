//! A raw TCP echo on epoll: what the bytes cost when nobody looks at them, see
//! [`ringecho_peers::raw_tcp`]. Its loop is [`ringecho_peers::on_epoll`].

use std::{io, ops::Range};

use ringecho_peers::on_epoll::{self, Answer, Echo};

/// Sends back what it is given.
#[derive(Default)]
struct Bytes;

impl Echo for Bytes {
    const SCHEME: &'static str = "tcp";

    fn answer(&mut self, _: &mut [u8], received: Range<usize>) -> io::Result<Answer> {
        Ok(Answer { reply: received, is_last: false })
    }
}

fn main() -> anyhow::Result<()> {
    on_epoll::serve::<Bytes>()
}
