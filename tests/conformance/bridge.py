"""A bridge from WebSocket over HTTP/1.1 to WebSocket over HTTP/2, so that the Autobahn cases, whose
client speaks HTTP/1.1, are run over HTTP/2.

bridge.py ws://HOST:PORT/PATH prints the URL at which it listens, and runs until it is killed.
Each connection becomes a stream of one HTTP/2 connection. Frames go through unseen, and an end or a
reset of either side becomes one of the other.
"""

import asyncio
import base64
import hashlib
import pathlib
import sys
import urllib.parse

sys.path.append(str(pathlib.Path(__file__).parent.parent / "clients"))
from http2_tunnels import Reset, Tunnels  # noqa: E402

ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


async def read_head(reader):
    """The header fields of a request, by name in lower case."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    lines = head.split("\r\n")[1:-2]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def upstream(reader, tunnel):
    while data := await reader.read(1 << 16):
        await tunnel.write(data)
    tunnel.end()


async def downstream(tunnel, writer):
    while data := await tunnel.read():
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def bridge(tunnels, path, reader, writer):
    fields = await read_head(reader)
    accept = base64.b64encode(
        hashlib.sha1(fields["sec-websocket-key"].encode() + ACCEPT_SUFFIX).digest()
    )
    passed_on = [
        (name, fields[name])
        for name in ("sec-websocket-extensions", "sec-websocket-protocol", "origin")
        if name in fields
    ]
    response, tunnel = await tunnels.open(path, passed_on)
    assert response[":status"] == "200", response
    head = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept.decode()}\r\n"
    )
    for name in ("sec-websocket-extensions", "sec-websocket-protocol"):
        if name in response:
            head += f"{name}: {response[name]}\r\n"
    writer.write(f"{head}\r\n".encode())
    try:
        await asyncio.gather(upstream(reader, tunnel), downstream(tunnel, writer))
    except Reset:
        writer.transport.abort()
    except ConnectionError:
        tunnel.reset()
    writer.close()
    del tunnels.tunnels[tunnel.id]


async def main(url):
    url = urllib.parse.urlsplit(url)
    tunnels = await Tunnels.connect(url.hostname, url.port)
    server = await asyncio.start_server(
        lambda reader, writer: bridge(tunnels, url.path, reader, writer), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    print(f"ws://127.0.0.1:{port}{url.path}", flush=True)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
