//! Writing all of something to a peer that may take it slowly, or never.

use std::{ops::Range, pin::pin};

use futures_util::future::{Either, select};
use monoio::{
    buf::{IoBuf, Slice},
    io::AsyncWriteRent,
};

use super::{ConnectionEnd, Control};

/// Writes `range` of `buffer`, however slowly the peer takes it, and returns the buffer.
pub async fn write_all<T: IoBuf>(
    writer: &mut impl AsyncWriteRent,
    buffer: T,
    range: Range<usize>,
    control: &Control,
) -> Result<T, ConnectionEnd> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-6.1
    //# The frame(s) that have been formed MUST be transmitted over the underlying network
    //# connection.
    let _under_way = control.begin_sending();
    let end = range.end;
    let mut unsent = buffer.slice(range);
    loop {
        let unsent_at = unsent.begin();
        // Demands come first, since a peer that reads quickly always takes something.
        let (result, written) =
            match select(pin!(control.ended()), pin!(writer.write(unsent))).await {
                Either::Left((end, _)) => return Err(end),
                Either::Right((completion, _)) => completion,
            };
        let buffer = Slice::into_inner(written);
        match result {
            Ok(len) if unsent_at + len == end => return Ok(buffer),
            Ok(len) => {
                control.taken();
                unsent = buffer.slice(unsent_at + len..end);
            }
            Err(error) => return Err(ConnectionEnd::of_failure(&error)),
        }
    }
}
