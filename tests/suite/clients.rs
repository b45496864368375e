//! Other people's clients: two equal bugs of ours would agree with each other.

use std::net::TcpStream;

use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, Role, WebSocket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tungstenite::{
    Message, client,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::peer::{TestServer, UPGRADE, config, with_server};

#[test]
fn tungstenite_has_its_messages_back() {
    with_server(&config(), |server| {
        let stream = TcpStream::connect(server.address).unwrap();
        let (mut socket, response) =
            client(format!("ws://{}/ws", server.address), stream).expect("an upgrade");
        assert_eq!(response.status(), 101);
        for message in [
            Message::text("hello"),
            Message::text("héllo wörld ✓".repeat(3000)),
            Message::binary(vec![]),
            Message::binary(vec![0xfe; 200_000]),
        ] {
            socket.send(message.clone()).unwrap();
            assert_eq!(socket.read().unwrap(), message);
        }
        socket.send(Message::Ping(b"beat"[..].into())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong(b"beat"[..].into()));

        let close = CloseFrame { code: CloseCode::Library(4000), reason: "enough".into() };
        socket.close(Some(close.clone())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Close(Some(close)));
        let end = socket.read().unwrap_err();
        assert!(matches!(end, tungstenite::Error::ConnectionClosed), "{end}");
    });
}

#[test]
fn fastwebsockets_has_its_messages_back() {
    with_server(&config(), |server| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(converse_with_fastwebsockets(server));
    });
}

async fn converse_with_fastwebsockets(server: &TestServer) {
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    stream.write_all(UPGRADE.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    let mut socket = FragmentCollector::new(WebSocket::after_handshake(stream, Role::Client));
    for len in [0, 1, 125, 126, 4096, 65_535, 65_536, 300_000] {
        let payload: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
        socket.write_frame(Frame::binary(Payload::Borrowed(&payload))).await.unwrap();
        let echo = socket.read_frame().await.unwrap();
        assert_eq!(echo.opcode, OpCode::Binary);
        assert!(echo.payload == &payload[..], "{len} bytes");
    }
    // Fragments: the collector puts them together again.
    for (fin, opcode, piece) in [
        (false, OpCode::Text, "in "),
        (false, OpCode::Continuation, "three "),
        (true, OpCode::Continuation, "pieces"),
    ] {
        let payload = Payload::Borrowed(piece.as_bytes());
        socket.write_frame(Frame::new(fin, opcode, None, payload)).await.unwrap();
    }
    let echo = socket.read_frame().await.unwrap();
    assert_eq!((echo.opcode, &*echo.payload), (OpCode::Text, &b"in three pieces"[..]));

    socket.write_frame(Frame::close(1000, b"done")).await.unwrap();
    let echo = socket.read_frame().await.unwrap();
    assert_eq!((echo.opcode, &*echo.payload), (OpCode::Close, &b"\x03\xe8done"[..]));
}
