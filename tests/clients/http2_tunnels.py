"""Tunnels over one HTTP/2 connection (RFC 8441), by Python's `h2`: each an extended CONNECT.

A tunnel is read and written like a connection. Windows are opened as bytes are read, and bytes are
sent as windows allow.
"""

import asyncio

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes


class Reset(Exception):
    """The server has reset the stream, or the connection is over."""


class Tunnel:
    """A stream, after or before its response."""

    def __init__(self, tunnels, stream_id):
        self.tunnels, self.id = tunnels, stream_id
        self.response = asyncio.get_running_loop().create_future()
        self.received = asyncio.Queue()

    async def read(self):
        """Some bytes; none at the end."""
        data, flow_controlled_len = await self.received.get()
        if isinstance(data, Exception):
            raise data
        if data:
            self.tunnels.http2.acknowledge_received_data(flow_controlled_len, self.id)
            self.tunnels.flush()
        return data

    async def write(self, data):
        """Sends all of it, as the windows allow."""
        http2 = self.tunnels.http2
        while data:
            room = min(http2.local_flow_control_window(self.id), http2.max_outbound_frame_size)
            if room <= 0:
                await self.tunnels.changed()
                continue
            http2.send_data(self.id, data[:room])
            self.tunnels.flush()
            await self.tunnels.writer.drain()
            data = data[room:]

    def end(self):
        """Ends this side."""
        self.tunnels.http2.end_stream(self.id)
        self.tunnels.flush()

    def reset(self):
        """Ends the stream at once."""
        self.tunnels.http2.reset_stream(self.id, ErrorCodes.CANCEL)
        self.tunnels.flush()


class Tunnels:
    """One connection."""

    @classmethod
    async def connect(cls, host, port):
        self = cls()
        self.host, self.port = host, port
        self.reader, self.writer = await asyncio.open_connection(host, port)
        self.http2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.tunnels = {}
        self.change = asyncio.Event()
        self.http2.initiate_connection()
        self.http2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
        self.http2.increment_flow_control_window((1 << 30) - 65_535)
        self.flush()
        self.is_ready = asyncio.Event()
        self.task = asyncio.create_task(self.receive())
        await self.is_ready.wait()
        return self

    def flush(self):
        self.writer.write(self.http2.data_to_send())

    async def changed(self):
        """Waits until a window may have grown."""
        self.change.clear()
        await self.change.wait()

    async def request(self, headers, end_stream=False):
        """The response's header fields, and the stream."""
        stream_id = self.http2.get_next_available_stream_id()
        tunnel = self.tunnels[stream_id] = Tunnel(self, stream_id)
        self.http2.send_headers(stream_id, headers, end_stream=end_stream)
        self.flush()
        return dict(await tunnel.response), tunnel

    async def open(self, path, fields=()):
        """The response to an extended CONNECT, and the tunnel."""
        authority = f"{self.host}:{self.port}"
        pseudo = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", authority),
            (":path", path),
        ]
        return await self.request([*pseudo, ("sec-websocket-version", "13"), *fields])

    async def receive(self):
        while data := await self.reader.read(1 << 16):
            try:
                events = self.http2.receive_data(data)
            except ProtocolError:
                # Behind a GOAWAY, also one that lets streams go on, the library takes no more frames.
                break
            for event in events:
                self.handle(event)
            self.flush()
        for tunnel in self.tunnels.values():
            tunnel.received.put_nowait((Reset("the connection is over"), 0))

    def handle(self, event):
        tunnel = self.tunnels.get(getattr(event, "stream_id", None))
        match event:
            case RemoteSettingsChanged() if (
                self.http2.remote_settings.enable_connect_protocol == 1
            ):
                self.is_ready.set()
                self.change.set()
            case RemoteSettingsChanged() | WindowUpdated():
                self.change.set()
            case ResponseReceived() if tunnel:
                tunnel.response.set_result(event.headers)
            case DataReceived() if tunnel:
                tunnel.received.put_nowait((event.data, event.flow_controlled_length))
            case StreamEnded() if tunnel:
                tunnel.received.put_nowait((b"", 0))
            case StreamReset() if tunnel:
                if not tunnel.response.done():
                    tunnel.response.set_exception(Reset(event.error_code))
                tunnel.received.put_nowait((Reset(event.error_code), 0))
            case ConnectionTerminated(error_code=code) if code:
                raise Reset(f"GOAWAY {code}")

    async def close(self):
        self.http2.close_connection()
        self.flush()
        self.writer.close()
        await self.task
