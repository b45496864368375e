"""Clients that misbehave: each takes a server's port, a generator of random numbers and the time until
which it goes on. Whatever the server does to them is right. See scripts/soak.sh."""

import contextlib
import socket
import struct
import time

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

# The begin of a binary frame of 1 TiB, with a masking key of zero.
ENDLESS = b"\x82\xff" + struct.pack(">Q", 1 << 40) + bytes(4)

# No resource of the server's is held longer than its deadlines allow, and nobody waits for that here.
PATIENCE_SECONDS = 5


@contextlib.contextmanager
def connected(port, receive_buffer=None):
    """A socket that is reset when it is let go."""
    with socket.socket() as client:
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.settimeout(PATIENCE_SECONDS)
        client.connect(("127.0.0.1", port))
        yield client


def open_many(stack, port, count, request, **options):
    clients = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            client = stack.enter_context(connected(port, **options))
            client.sendall(request)
            clients.append(client)
    return clients


def slow_readers(port, random, until):
    """Send without end, and read a little now and then, or nothing."""
    with contextlib.ExitStack() as stack:
        clients = open_many(stack, port, random.randrange(5, 30), UPGRADE + ENDLESS, receive_buffer=16 << 10)
        for client in clients:
            client.setblocking(False)
        while time.monotonic() < until:
            for number, client in enumerate(clients):
                with contextlib.suppress(OSError):
                    client.send(bytes(256 << 10))
                if number % 3:
                    with contextlib.suppress(OSError):
                        client.recv(random.randrange(1, 20_000))
            time.sleep(0.02)


def half_heads(port, random, until):
    """Never send the end of their request."""
    with contextlib.ExitStack() as stack:
        open_many(stack, port, random.randrange(10, 200), UPGRADE[: random.randrange(len(UPGRADE) - 1)])
        time.sleep(max(0, until - time.monotonic()))


def violators(port, random, until):
    """Say anything at all, and stay until the server has had enough."""
    while time.monotonic() < until:
        with contextlib.suppress(OSError), connected(port) as client:
            client.sendall((UPGRADE if random.random() < 0.8 else b"") + random.randbytes(random.randrange(1, 2000)))
            client.settimeout(0.05)
            while client.recv(1 << 16):
                pass


def resets(port, random, until):
    """Leave with a reset, before, in or behind their handshake."""
    while time.monotonic() < until:
        with contextlib.suppress(OSError), connected(port) as client:
            client.sendall(UPGRADE[: random.choice([0, 30, len(UPGRADE)])])
            if random.random() < 0.5:
                client.settimeout(0.01)
                client.recv(1)


ALL = (slow_readers, half_heads, violators, resets)
