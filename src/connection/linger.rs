//! Closing a connection so that the peer gets everything that it was sent.

use std::pin::pin;

use futures_util::future::{Either, select};
use monoio::io::{AsyncReadRent, AsyncWriteRent};

use super::{
    Control,
    quota::{Quota, noting_waits},
};
use crate::config::RECEIVE_BUFFER_START;

/// Ends the write side, and waits until the peer has ended its side too.
///
/// Closing a socket with unread bytes in it resets the connection, and a reset can destroy what the
/// peer has not read yet. So bytes are read and discarded until the peer's end, or until the close
/// timeout has passed.
pub async fn linger(
    reader: &mut impl AsyncReadRent,
    writer: &mut impl AsyncWriteRent,
    control: &Control,
) {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
    //# After both sending and receiving a Close message, an endpoint considers the WebSocket
    //# connection closed and MUST close the underlying TCP connection.
    control.closing();
    //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
    //# The server MUST close the underlying TCP connection immediately
    if writer.shutdown().await.is_err() {
        return;
    }
    let mut discarded = Vec::with_capacity(RECEIVE_BUFFER_START.in_memory());
    control.hold(discarded.capacity());
    let mut quota = Quota::default();
    loop {
        let (end, read) = (pin!(control.ended()), pin!(reader.read(discarded)));
        let (outcome, has_waited) = noting_waits(select(end, read)).await;
        let Either::Right(((Ok(1..), buffer), _)) = outcome else { return };
        discarded = buffer;
        quota.spend(discarded.len(), has_waited).await;
    }
}
