//! What a server is asked before a load, with one connection: whether its connections should go
//! elsewhere.

use std::{io, sync::Arc, time::Duration};

use monoio::time::timeout;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use ringecho::protocol::{OpCode, close_code::CloseCode};

use super::{runtime::build_runtime, sender::append_control_frame};
use crate::wire::{
    connector::{Connector, OpenConnection},
    halves::{ReadHalf, WriteHalf},
    handshake::HandshakeError,
    opening_error::OpeningError,
    stream::Stream,
    thread_connector::ThreadConnector,
};

/// How long a server is given to end a connection that is not needed.
const GOODBYE_WAIT: Duration = Duration::from_millis(250);

/// Where the server redirects to, as it says; `None` if it accepts the connection, which is closed in
/// order then, or if it does neither: the load will say why.
pub(crate) fn location(connector: &Arc<Connector>) -> io::Result<Option<String>> {
    build_runtime()?.block_on(async {
        let connector = ThreadConnector::new(connector, 1, connector.transports().min(1));
        match connector.open(rand::rng().random()).await {
            Ok(OpenConnection { stream: Stream::Plain(reader, writer), .. }) => {
                Ok(take_leave(reader, writer).await)
            }
            Ok(OpenConnection { stream: Stream::Tls(halves), .. }) => {
                let (reader, writer) = *halves;
                Ok(take_leave(reader, writer).await)
            }
            Ok(OpenConnection { stream: Stream::Http2(halves), .. }) => {
                let (reader, writer) = *halves;
                Ok(take_leave(reader, writer).await)
            }
            Err(OpeningError::Handshake(
                HandshakeError::Refused(reason) | HandshakeError::StreamRefused(reason),
            )) => Ok(reason.redirect),
            Err(_) => Ok(None),
        }
    })
}

/// Sends a Close frame, and waits for the end of the connection.
async fn take_leave(mut reader: impl ReadHalf, mut writer: impl WriteHalf) -> Option<String> {
    let mut frame = Vec::new();
    let code = (CloseCode::NormalClosure as u16).to_be_bytes();
    let mut rng = SmallRng::from_rng(&mut rand::rng());
    append_control_frame(OpCode::Close, &code, &mut rng, &mut frame);
    let (_sent, _) = writer.write_all(frame).await;
    let drain = async { while let (Ok(1..), _) = reader.read(Vec::with_capacity(1024)).await {} };
    let _ = timeout(GOODBYE_WAIT, drain).await;
    None
}
