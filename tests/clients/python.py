"""Python's `websockets` against a running server: python.py ws://HOST:PORT/PATH off|pass-through"""

import asyncio
import sys

import websockets
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory as Deflate,
)

MESSAGES = [
    "hello",
    "",
    "héllo wörld ✓ " * 10_000,
    b"",
    bytes(range(256)) * 65_536,
]

OFFERS = [
    Deflate(),
    Deflate(client_no_context_takeover=True),
    Deflate(server_no_context_takeover=True),
    Deflate(server_max_window_bits=12),
    Deflate(server_max_window_bits=9, client_max_window_bits=9),
    Deflate(server_no_context_takeover=True, server_max_window_bits=10),
]


async def converse(url, extensions, agrees):
    async with websockets.connect(
        url, compression=None, extensions=extensions, max_size=None
    ) as client:
        agreed = [extension.name for extension in client.protocol.extensions]
        assert agreed == (["permessage-deflate"] if agrees else []), agreed
        for message in MESSAGES:
            await client.send(message)
            assert await client.recv() == message
        await client.send(["in ", "three ", "pieces"])
        assert await client.recv() == "in three pieces"
        await (await client.ping(b"beat"))
        for number in range(1000):
            await client.send(str(number))
        for number in range(1000):
            assert await client.recv() == str(number)
        await client.close(4000, "enough")
    assert (client.close_code, client.close_reason) == (4000, "enough")


async def main(url, compression):
    await converse(url, [], agrees=False)
    for offer in OFFERS:
        await converse(url, [offer], agrees=compression == "pass-through")
    # A client that cannot be told to use a smaller window cannot have one for its echoes.
    cannot_shrink = Deflate(server_max_window_bits=10, client_max_window_bits=None)
    await converse(url, [cannot_shrink], agrees=False)


asyncio.run(main(*sys.argv[1:]))
print(f"websockets for Python: ok, {len(OFFERS)} offers")
