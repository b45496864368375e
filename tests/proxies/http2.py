"""A WebSocket over HTTP/2 (RFC 8441) as a client has it: HTTP/2 is Python's `h2`, frames are those of
`websockets`. One connection has one WebSocket; the certificate is checked as the given context says."""

import asyncio
import contextlib

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RemoteSettingsChanged, ResponseReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes
from websockets.frames import CloseCode, Opcode
from websockets.protocol import CLIENT, Protocol

# What the peer may send before it is read, as browsers have it. With the 64 KiB that HTTP/2 begins with,
# HAProxy 2.6 between two connections of HTTP/2 stalls when much goes both ways: the frames that would
# widen the window wait behind data for which it has no room.
STREAM_WINDOW = 6 << 20
CONNECTION_WINDOW = 15 << 20

# The type of the frame (RFC 9113 6.8).
GOAWAY = 7


class Http2Client:
    """`open` is the way to one; then as a connection of `websockets`: send, recv, close, wait_closed."""

    @classmethod
    async def open(cls, host, port, path, tls, local=None, subprotocols=()):
        client = cls()
        tls.set_alpn_protocols(["h2"])
        client.reader, client.writer = await asyncio.open_connection(
            host, port, ssl=tls, local_addr=(local, 0) if local else None
        )
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        client.local_address = client.writer.get_extra_info("sockname")
        client.http2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        client.http2.initiate_connection()
        client.http2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW})
        client.http2.increment_flow_control_window(CONNECTION_WINDOW - 65_535)
        client.frames = Protocol(CLIENT, max_size=None)
        client.messages = asyncio.Queue()
        client.outgoing = bytearray()
        client.unread = bytearray()
        client.changed = asyncio.Event()
        client.is_offered = client.has_ended = False
        client.response = None
        client.stream = None
        client.subprotocol = None
        client._flush()
        client.reading = asyncio.create_task(client._read())
        await client._until(lambda: client.is_offered, "SETTINGS_ENABLE_CONNECT_PROTOCOL")
        client.stream = client.http2.get_next_available_stream_id()
        request = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":authority", f"{host}:{port}"),
            (":path", path),
            ("sec-websocket-version", "13"),
        ]
        if subprotocols:
            request.append(("sec-websocket-protocol", ", ".join(subprotocols)))
        client.http2.send_headers(client.stream, request)
        client._flush()
        await client._until(lambda: client.response is not None, "a response")
        assert client.response[":status"] == "200", client.response
        client.subprotocol = client.response.get("sec-websocket-protocol")
        return client

    async def send(self, message):
        if isinstance(message, str):
            self.frames.send_text(message.encode())
        else:
            self.frames.send_binary(message)
        await self._send_frames()

    async def recv(self):
        """The next message; ConnectionError if none comes any more."""
        message = await self.messages.get()
        if message is None:
            self.messages.put_nowait(None)
            raise ConnectionError("the connection has ended")
        return message

    async def close(self, code, reason):
        """Sends the Close frame and awaits the server's."""
        self.frames.send_close(code, reason)
        await self._send_frames()
        return await self.wait_closed()

    async def wait_closed(self):
        """The code and reason of the server's Close frame, or 1006, once the stream has ended."""
        await self._until(lambda: self.has_ended, "the end of the stream", None)
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()
        self.reading.cancel()
        received = self.frames.close_rcvd
        return (received.code, received.reason) if received else (CloseCode.ABNORMAL_CLOSURE, "")

    async def _until(self, is_so, what, seconds=10):
        async def wait():
            while not is_so():
                if self.has_ended and self.reading.done():
                    raise ConnectionError(f"the connection ended before {what} came")
                self.changed.clear()
                await self.changed.wait()

        await asyncio.wait_for(wait(), seconds)

    async def _send_frames(self):
        self._send_what_fits()
        await self.writer.drain()
        await self._until(lambda: not self.outgoing or self.has_ended, "room", None)
        if self.has_ended:
            raise ConnectionError("the connection has ended")

    def _send_what_fits(self):
        """Of what waits, as much as the flow control of stream and connection allows, in order."""
        self.outgoing += b"".join(self.frames.data_to_send())
        while self.outgoing and (room := self._room()) > 0:
            self.http2.send_data(self.stream, bytes(self.outgoing[:room]))
            del self.outgoing[:room]
        self._flush()

    def _room(self):
        if self.has_ended:
            return 0
        return min(self.http2.local_flow_control_window(self.stream), self.http2.max_outbound_frame_size)

    def _flush(self):
        self.writer.write(self.http2.data_to_send())

    async def _read(self):
        try:
            while received := await self.reader.read(65536):
                for event in self.http2.receive_data(self._without_goaway(received)):
                    self._take(event)
                self._give_out()
                # Pongs and the echo of a Close frame too, and the HTTP/2 connection's own frames.
                self._send_what_fits()
                self.changed.set()
        except OSError:
            pass
        finally:
            self._end()

    def _without_goaway(self, received):
        """Whole frames, without GOAWAY: it lets streams go on (RFC 9113 6.8), but h2 takes no frame behind it."""
        self.unread += received
        frames = bytearray()
        while len(self.unread) >= 9:
            length = 9 + int.from_bytes(self.unread[:3])
            if len(self.unread) < length:
                break
            if self.unread[3] != GOAWAY:
                frames += self.unread[:length]
            del self.unread[:length]
        return bytes(frames)

    def _end(self):
        if not self.has_ended:
            self.has_ended = True
            self.messages.put_nowait(None)
        self.changed.set()

    def _take(self, event):
        if isinstance(event, RemoteSettingsChanged):
            setting = event.changed_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL)
            self.is_offered |= bool(setting and setting.new_value)
        elif isinstance(event, ResponseReceived):
            self.response = dict(event.headers)
        elif isinstance(event, DataReceived):
            self.http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.frames.receive_data(event.data)
        elif isinstance(event, StreamEnded | StreamReset):
            self._end()

    def _give_out(self):
        for frame in self.frames.events_received():
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._gather(frame)

    def _gather(self, frame):
        if frame.opcode != Opcode.CONT:
            self.parts, self.is_text = [], frame.opcode == Opcode.TEXT
        self.parts.append(frame.data)
        if frame.fin:
            message = b"".join(self.parts)
            self.messages.put_nowait(message.decode() if self.is_text else message)
