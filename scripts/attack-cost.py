#!/usr/bin/env python3
"""What one attacking connection, frame or byte costs the server: docs/operate/security.md.

Prints for each attack the instructions of the program (callgrind, on epoll), its system calls (strace, on
epoll and on a ring) and the memory that it keeps (resident, for what stays), each of one more unit: a run
with many units less a run with few, divided by the difference. No time is measured.

    cargo build --release && scripts/attack-cost.py target/release/ringecho [ATTACK...]

Needs valgrind and strace. The program and this one share the machine; how the bytes are cut into receives
differs from run to run, and with it the counts by some per cent.
"""

import re
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from pathlib import Path

KEY = bytes([0x37, 0xFA, 0x21, 0x3D])
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
# Between the bytes of a slow peer, so that each is received alone.
PAUSE = 0.004
TEXT, BINARY, CONTINUATION, PING, PONG = 0x81, 0x82, 0x00, 0x89, 0x8A
PATIENCE = 120


def connect(port, said=b""):
    peer = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.sendall(said)
    return peer


def upgraded(peer):
    """The peer, after its opening handshake."""
    peer.sendall(UPGRADE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += peer.recv(1)
    assert head.startswith(b"HTTP/1.1 101 "), head
    return peer


def open_websocket(port):
    return upgraded(connect(port))


def read(peer, length):
    while length > 0:
        received = len(peer.recv(min(length, 1 << 18)))
        assert received > 0, "the server ended the connection"
        length -= received


def read_to_end(peer):
    while peer.recv(1 << 16):
        pass


def frame(first, payload, key=KEY):
    masked = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    if len(payload) < 126:
        return bytes([first, 0x80 | len(payload)]) + key + masked
    return bytes([first, 0x80 | 126]) + struct.pack(">H", len(payload)) + key + masked


def send_all(peer, writes, reading, *arguments):
    """Sends, while another thread reads the replies; what either meets is raised."""
    with ThreadPoolExecutor(1) as other:
        replies = other.submit(reading, *arguments)
        for write in writes:
            peer.sendall(write)
        replies.result()


def send_and_read(peer, request, times, reply_len):
    """Sends a request again and again, and reads the replies meanwhile."""
    send_all(peer, repeat(request, times), read, peer, times * reply_len)


def echoed(first, payload, units_per_frame=1, opening=b""):
    """Frames of one kind, 100 in a write."""

    def attack(port, units):
        peer = open_websocket(port)
        if opening:
            peer.sendall(opening)
            read(peer, len(opening) - 4)
        one = frame(first, payload)
        reply_len = 0 if first == PONG else 100 * (len(one) - 4)
        send_and_read(peer, one * 100, units // units_per_frame // 100, reply_len)
        # What came before is answered when this is.
        peer.sendall(frame(PING, b""))
        read(peer, 2)
        return [peer]

    return attack


def each_connection(said, end):
    def attack(port, units):
        for _ in range(units):
            peer = connect(port, said)
            end(peer)
            peer.close()
        return []

    return attack


def reset(peer):
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def staying(begin):
    """Connections that stay."""
    return lambda port, units: [begin(port) for _ in range(units)]


def timed_out(port, units):
    for peer in [connect(port) for _ in range(units)]:
        read_to_end(peer)
    return []


def byte_by_byte(said):
    def attack(port, units):
        peer = connect(port) if said is None else open_websocket(port)
        whole = b"GET /ws HTTP/1.1\r\nX: " + b"x" * units if said is None else said
        for at in range(units):
            peer.sendall(whole[at : at + 1])
            time.sleep(PAUSE)
        return [peer]

    return attack


def begun(beginning):
    def begin(port):
        peer = open_websocket(port)
        # The Pong shows that the server has come so far.
        peer.sendall(frame(PING, b"") + beginning)
        read(peer, 2)
        return peer

    return begin


# A fragment for each byte of a character, which no vector instruction sees whole.
SPLIT = b"".join(
    frame(first, bytes([byte]))
    for first, byte in zip([0x01, 0x00, 0x00, 0x80], "😀".encode(), strict=True)
)


def split_characters(port, units):
    peer = open_websocket(port)
    send_and_read(peer, SPLIT * 100, units // 400, 100 * (len(SPLIT) - 16))
    return [peer]


FIRST_FRAGMENT = frame(TEXT & 0x7F, b"x")
ENDLESS = bytes([BINARY, 0xFF]) + struct.pack(">Q", (1 << 63) - 1) + KEY
MIXED = "aé漢😀".encode()

# HTTP/2: types of frames, and header blocks without Huffman codes.
H2_DATA, H2_HEADERS, H2_RESET, H2_SETTINGS, H2_PING, H2_GOAWAY, H2_WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS = 1, 4


def h2_frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def h2_field(name, value):
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


H2_GET = b"\x82\x86" + b"\x04\x08/healthz" + b"\x01\x01a"
H2_CONNECT = (
    b"\x02\x07CONNECT" + h2_field(b":protocol", b"websocket") + b"\x86\x04\x03/ws\x01\x01a"
    + h2_field(b"sec-websocket-version", b"13")
)
# As large windows as there may be, so that nothing waits for them.
H2_BEGIN = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + h2_frame(H2_SETTINGS, 0, 0, struct.pack(">HI", 4, (1 << 31) - 1))
    + h2_frame(H2_WINDOW, 0, 0, struct.pack(">I", (1 << 31) - 65_536))
)
H2_LAST = h2_frame(H2_PING, 0, 0, b"the last")


class H2:
    """A connection of HTTP/2, after the answer to all that is said at its beginning."""

    def __init__(self, port, said=b""):
        self.socket = connect(port, H2_BEGIN + said + H2_LAST)
        self.frames = self.socket.makefile("rb")
        self.read_to_last()

    def read_frame(self):
        header = self.frames.read(9)
        assert len(header) == 9 and header[3] != H2_GOAWAY, "the server ended the connection"
        return header[3], self.frames.read(int.from_bytes(header[:3], "big"))

    def read_to_last(self):
        """Reads until what came before has been answered."""
        while self.read_frame() != (H2_PING, b"the last"):
            pass

    def read_data(self, length):
        while length > 0:
            kind, payload = self.read_frame()
            length -= len(payload) if kind == H2_DATA else 0

    def sendall(self, said):
        self.socket.sendall(said)

    def close(self):
        self.frames.close()
        self.socket.close()


def h2_streams(count, block, flags=END_HEADERS, first=1):
    streams = range(first, first + 2 * count, 2)
    return b"".join(h2_frame(H2_HEADERS, flags, stream, block) for stream in streams)


def h2_websocket(port):
    return H2(port, h2_streams(1, H2_CONNECT))


def h2_websockets(port, units):
    return [H2(port, h2_streams(100, H2_CONNECT)) for _ in range(units // 100)]


def h2_each(piece, opening=b"", per_write=100):
    """One piece for each unit, of the unit's number."""

    def attack(port, units):
        peer = H2(port, opening)
        firsts = range(0, units, per_write)
        writes = (b"".join(map(piece, range(first, min(first + per_write, units)))) for first in firsts)
        send_all(peer, chain(writes, [H2_LAST]), peer.read_to_last)
        return [peer]

    return attack


def h2_reset_at_once(at):
    stream = 2 * at + 1
    return h2_streams(1, H2_GET, first=stream) + h2_frame(H2_RESET, 0, stream, b"\0\0\0\x08")


def h2_request(at):
    return h2_streams(1, H2_GET, END_HEADERS | END_STREAM, 2 * at + 1)


def h2_message(payload):
    """Messages, 100 in a write, which is within the server's windows."""

    def attack(port, units):
        peer, one = h2_websocket(port), frame(BINARY, payload)
        for _ in range(units // 100):
            peer.sendall(h2_frame(H2_DATA, 0, 1, one) * 100)
            peer.read_data(100 * (len(one) - 4))
        return [peer]

    return attack


class Tls:
    """A connection over TLS that trusts any server; its bytes are at hand, to be cut."""

    def __init__(self, port, ticket=None):
        # A ticket belongs to the context of the connection that was given it.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if ticket is None else ticket[0]
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.socket = connect(port)
        self.received, self.to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = context.wrap_bio(
            self.received, self.to_send, session=None if ticket is None else ticket[1])
        self.done(self.session.do_handshake)

    def ticket(self):
        """What another connection resumes this session with, once the server has said something."""
        return self.session.context, self.session.session

    def done(self, step):
        """What the step gives, once it has the bytes that it wants."""
        while True:
            wants_more, given = False, None
            try:
                given = step()
            except ssl.SSLWantReadError:
                wants_more = True
            # An empty send would wait for room all the same, while another thread has filled it.
            if self.to_send.pending:
                self.socket.sendall(self.to_send.read())
            if not wants_more:
                return given
            piece = self.socket.recv(1 << 18)
            assert piece, "the server ended the connection"
            self.received.write(piece)

    def sealed(self, message):
        self.session.write(message)
        return self.to_send.read()

    def sendall(self, message):
        self.socket.sendall(self.sealed(message))

    def recv(self, length):
        return self.done(lambda: self.session.read(length))

    def close(self):
        self.socket.close()


def tls_websocket(port):
    return upgraded(Tls(port))


def tls_handshakes(port, units):
    for _ in range(units):
        peer = Tls(port)
        reset(peer.socket)
        peer.close()
    return []


def tls_resumed(port, units):
    first = tls_websocket(port)
    for _ in range(units):
        peer = Tls(port, first.ticket())
        assert peer.session.session_reused
        reset(peer.socket)
        peer.close()
    return [first]


def tls_half_hello(port):
    to_send = ssl.MemoryBIO()
    hello = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), to_send, server_hostname="a")
    try:
        hello.do_handshake()
    except ssl.SSLWantReadError:
        said = to_send.read()
    return connect(port, said[: len(said) // 2])


def tls_begun(port):
    peer = tls_websocket(port)
    # The Pong shows that the server has come so far.
    peer.sendall(frame(PING, b""))
    read(peer, 2)
    peer.socket.sendall(b"\x17\x03\x03" + struct.pack(">H", 1 << 14) + bytes(1 << 13))
    return peer


def tls_messages(payload):
    """A record for each message, 100 in a write."""

    def attack(port, units):
        peer, one = tls_websocket(port), frame(BINARY, payload)
        writes = [b"".join(peer.sealed(one) for _ in range(100)) for _ in range(units // 100)]
        send_all(peer.socket, writes, read, peer, units * (len(one) - 4))
        return [peer]

    return attack


# Name: attack, few units, many units, whether what it leaves stays. The server speaks TLS for those that
# begin with it.
ATTACKS = {
    "connection that says nothing, until its 408": (timed_out, 20, 120, False),
    "connection that is reset at once": (each_connection(b"", reset), 50, 250, False),
    "request that is refused (404)": (
        each_connection(b"GET /no HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", read_to_end), 50, 250, False),
    "request for the page": (each_connection(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", read_to_end), 50, 250, False),
    "beginning of TLS on a plain port": (each_connection(b"\x16\x03\x01\x02\x00", read_to_end), 50, 250, False),
    "upgrade that is reset": (each_connection(UPGRADE, reset), 50, 250, False),
    "connection without a byte, kept": (staying(connect), 100, 1100, True),
    "half of a request head, kept": (staying(lambda port: connect(port, UPGRADE[:-2])), 100, 1100, True),
    "upgraded connection, kept": (staying(open_websocket), 100, 1100, True),
    "message without its end, kept": (staying(begun(FIRST_FRAGMENT)), 100, 1100, True),
    "frame of 2^63 - 1 bytes, begun, kept": (staying(begun(ENDLESS + b"x" * 100)), 100, 1100, True),
    "frame of 4 KiB, half of it, kept": (staying(begun(frame(BINARY, b"x" * 4096)[:2048])), 100, 1100, True),
    "byte of a request head, alone": (byte_by_byte(None), 100, 500, False),
    "byte of a held frame, alone": (byte_by_byte(frame(BINARY, b"x" * 4096)), 100, 500, False),
    "fragment of one byte": (echoed(CONTINUATION, b"x", opening=FIRST_FRAGMENT), 20_000, 220_000, False),
    "fragment without payload": (echoed(CONTINUATION, b"", opening=FIRST_FRAGMENT), 20_000, 220_000, False),
    "fragment of a quarter of a character": (split_characters, 20_000, 220_000, False),
    "message without payload": (echoed(BINARY, b""), 20_000, 220_000, False),
    "Ping without payload": (echoed(PING, b""), 20_000, 220_000, False),
    "Ping of 125 bytes": (echoed(PING, b"p" * 125), 20_000, 120_000, False),
    "Pong without payload": (echoed(PONG, b""), 20_000, 220_000, False),
    "Pong of 125 bytes": (echoed(PONG, b"p" * 125), 20_000, 120_000, False),
    "byte of a binary message": (echoed(BINARY, b"\x9f" * 1000, 1000), 2_000_000, 22_000_000, False),
    "byte of an ASCII text": (echoed(TEXT, b"a" * 1000, 1000), 2_000_000, 22_000_000, False),
    "byte of a text of all lengths": (echoed(TEXT, MIXED * 100, 1000), 2_000_000, 22_000_000, False),
    "TLS: full handshake": (tls_handshakes, 20, 120, False),
    "TLS: resumed handshake": (tls_resumed, 20, 120, False),
    "TLS: half of a ClientHello, kept": (staying(tls_half_hello), 100, 600, True),
    "TLS: handshake without a request, kept": (staying(Tls), 100, 600, True),
    "TLS: upgraded connection, kept": (staying(tls_websocket), 100, 600, True),
    "TLS: record of 16 KiB, half of it, kept": (staying(tls_begun), 100, 600, True),
    "TLS: message without payload, a record each": (tls_messages(b""), 5_000, 25_000, False),
    "TLS: message of 64 bytes, a record each": (tls_messages(b"x" * 64), 5_000, 25_000, False),
    "TLS: message of 1 KiB, a record each": (tls_messages(b"x" * 1024), 2_000, 12_000, False),
    "HTTP/2: connection without a request, kept": (staying(H2), 100, 600, True),
    "HTTP/2: connection with one WebSocket, kept": (staying(h2_websocket), 100, 600, True),
    "HTTP/2: one of 100 WebSockets on a connection, kept": (h2_websockets, 500, 2500, True),
    "HTTP/2: PING": (h2_each(lambda _: h2_frame(H2_PING, 0, 0, b"nothing.")), 500, 3500, False),
    "HTTP/2: SETTINGS": (h2_each(lambda _: h2_frame(H2_SETTINGS, 0, 0, b"")), 500, 3500, False),
    "HTTP/2: PRIORITY": (h2_each(lambda _: h2_frame(2, 0, 1, b"\0\0\0\0\1")), 500, 3500, False),
    "HTTP/2: WINDOW_UPDATE": (h2_each(
        lambda _: h2_frame(H2_WINDOW, 0, 1, b"\0\0\0\1"), h2_streams(1, H2_CONNECT)), 500, 3500, False),
    "HTTP/2: stream that is opened and reset": (h2_each(h2_reset_at_once, per_write=10), 10, 90, False),
    "HTTP/2: health check": (h2_each(h2_request, per_write=10), 10, 90, False),
    "HTTP/2: message without payload, a DATA frame each": (h2_message(b""), 20_000, 120_000, False),
    "HTTP/2: message of 64 bytes, a DATA frame each": (h2_message(b"x" * 64), 20_000, 120_000, False),
    "HTTP/2: message of 1 KiB, a DATA frame each": (h2_message(b"x" * 1024), 2_000, 12_000, False),
    "message of 64 bytes": (echoed(BINARY, b"x" * 64), 20_000, 120_000, False),
    "message of 1 KiB": (echoed(BINARY, b"x" * 1024), 2_000, 12_000, False),
}


class Server:
    def __init__(self, program, flags, wrapper=()):
        flags = [*flags, "--workers=1", "--log-level=warn", "--handshake-timeout=2s"]
        self.process = subprocess.Popen(
            [*wrapper, program, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.port = int(re.search(r":(\d+)/ws", self.process.stdout.readline())[1])

    def stop(self):
        child = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        children = Path(child).read_text().split()
        target = int(children[0]) if children else self.process.pid
        subprocess.run(["kill", "-TERM", str(target)], check=True)
        return self.process.communicate(timeout=PATIENCE)[1]

    def resident(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) << 10


def run(server, attack, units, at_end=lambda: None):
    peers = attack(server.port, units)
    seen = at_end()
    for peer in peers:
        peer.close()
    return seen, server.stop()


def instructions(program, flags, attack, units):
    with tempfile.NamedTemporaryFile() as out:
        wrapper = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}"]
        _, log = run(Server(program, flags, wrapper), attack, units)
        return int(re.search(r"Collected : (\d+)", log)[1])


def system_calls(program, flags, attack, units):
    with tempfile.NamedTemporaryFile("r") as out:
        run(Server(program, flags, ["strace", "-f", "-c", "-o", out.name]), attack, units)
        return int(re.search(r"(\d+)(?:\s+\d+)? total", out.read())[1])


def memory(program, flags, attack, units):
    server = Server(program, flags)
    return run(server, attack, units, server.resident)[0]


def text(cost):
    """A cost; what is less than a hundredth is within what runs differ by."""
    return "< 0.01" if cost < 0.01 else f"{cost:,.0f}" if cost >= 100 else f"{cost:.2g}"


def main():
    program, *wanted = sys.argv[1:]
    print("| attack | instructions | system calls: epoll | ring | bytes: epoll | ring | portable |")
    print("| --- | --: | --: | --: | --: | --: | --: |")
    for name, (attack, few, many, stays) in ATTACKS.items():
        if wanted and not any(word in name for word in wanted):
            continue

        def each(count):
            return (count(many) - count(few)) / (many - few)

        is_tls = name.startswith("TLS")
        listen = ["--listen=tls+127.0.0.1:0", "--tls-self-signed"] if is_tls else ["--listen=127.0.0.1:0"]
        epoll, ring, portable = (
            [*listen, way] for way in ["--driver=epoll", "--driver=auto", "--data-plane=portable"])
        cells = [each(lambda units: instructions(program, epoll, attack, units))]
        for flags in [epoll, ring]:
            cells.append(each(lambda units: system_calls(program, flags, attack, units)))
        for flags in [epoll, ring, portable] if stays else []:
            cells.append(each(lambda units: memory(program, flags, attack, units)))
        shown = [text(cell) for cell in cells] + ["–"] * (6 - len(cells))
        print(f"| {name} | {' | '.join(shown)} |", flush=True)


main()
