"""Python's `websockets` against a running server: python.py ws://HOST:PORT/PATH"""

import asyncio
import sys

import websockets

MESSAGES = [
    "hello",
    "",
    "héllo wörld ✓ " * 10_000,
    b"",
    bytes(range(256)) * 65_536,
]


async def converse(url):
    async with websockets.connect(url, compression=None, max_size=None) as client:
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


asyncio.run(converse(sys.argv[1]))
print("websockets for Python: ok")
