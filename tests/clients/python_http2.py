"""Python's `h2` against a running server, with `wsproto` for the frames on its streams (RFC 8441):
python_http2.py ws://HOST:PORT/PATH off|pass-through"""

import asyncio
import sys
import urllib.parse

from http2_tunnels import Tunnels
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

STREAMS = 20
MESSAGES = [
    TextMessage("hello"),
    TextMessage(""),
    TextMessage("héllo wörld ✓ " * 10_000),
    BytesMessage(b""),
    BytesMessage(bytes(range(256)) * 4096),
]


async def next_event(client, tunnel):
    """The next whole message or control frame."""
    pieces = None
    while True:
        for event in client.events():
            if not isinstance(event, (TextMessage, BytesMessage)):
                return event
            pieces = event.data if pieces is None else pieces + event.data
            if event.message_finished:
                return type(event)(pieces)
        client.receive_data(await tunnel.read() or None)


async def converse(tunnels, path):
    response, tunnel = await tunnels.open(path)
    assert response[":status"] == "200", response
    assert "sec-websocket-accept" not in response
    client = Connection(ConnectionType.CLIENT)
    for message in MESSAGES:
        writing = asyncio.create_task(tunnel.write(client.send(message)))
        echo = await next_event(client, tunnel)
        assert echo == message, (type(echo), len(echo.data))
        await writing
    await tunnel.write(client.send(Ping(b"beat")))
    assert await next_event(client, tunnel) == Pong(bytearray(b"beat"))
    await tunnel.write(client.send(CloseConnection(4000, "enough")))
    assert await next_event(client, tunnel) == CloseConnection(4000, "enough")
    assert await tunnel.read() == b""
    tunnel.end()


async def get(tunnels, path):
    pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", path)]
    response, stream = await tunnels.request(pseudo, end_stream=True)
    body = b""
    while piece := await stream.read():
        body += piece
    return response, body


async def main(url, compression):
    url = urllib.parse.urlsplit(url)
    tunnels = await Tunnels.connect(url.hostname, url.port)
    await asyncio.gather(*(converse(tunnels, url.path) for _ in range(STREAMS)))
    offer = [("sec-websocket-extensions", "permessage-deflate")]
    response, tunnel = await tunnels.open(url.path, offer)
    agreed = response.get("sec-websocket-extensions", "")
    assert agreed.startswith("permessage-deflate") == (compression == "pass-through"), agreed
    tunnel.reset()
    response, page = await get(tunnels, "/")
    assert response[":status"] == "200" and response["content-length"] == str(len(page))
    assert page.rstrip().endswith(b"</html>")
    response, _ = await get(tunnels, "/nowhere")
    assert response[":status"] == "404"
    await tunnels.close()


asyncio.run(main(*sys.argv[1:]))
print(f"h2 for Python: ok, {STREAMS} streams at a time")
