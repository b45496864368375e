#!/usr/bin/env python3
"""ringecho behind real proxies, with the configurations that users copy from docs/operate/.

    run.py --programs FOLDER --haproxy PATH --nginx PATH --envoy PATH --caddy PATH --node FOLDER
           --chromium PATH [--picture FILE] [WORD...]

FOLDER has the server; --node is where page.mjs and playwright-core are. With words, only the ways whose
names have all of them are tried. --picture takes one of the page over wss behind nginx.

Each way is a proxy and two servers behind it. It is tried with Chromium on the page, with `websockets`
over HTTP/1.1, and over HTTP/2 with `h2` where the proxy has RFC 8441 for clients. Checks of a way run
beside each other, each on a proxy and servers of its own. Prints a line for each check and a table at
the end. The exit code is 0 if nothing failed. Ends by itself within SECONDS_MAX.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import websockets
from http2 import Http2Client
from websockets.asyncio.client import connect

ROOT = Path(__file__).resolve().parent.parent.parent
OPERATE = ROOT / "docs" / "operate"

SECONDS_MAX = 170
# Much of a way's time is waiting.
WAYS_AT_ONCE = 2
# The proxies cut a connection that is silent for so long; their files say minutes.
PROXY_TIMEOUT_SECONDS = 3
# What is kept open must outlive the proxy's timeout by far more than a timer's step.
IDLE_SECONDS = 8
DRAIN_DELAY_SECONDS = 6
MIB = 1 << 20
MESSAGE_SIZE_MAX = 2 * MIB
CLOSE_CODES = [1000, 3000, 3999, 4000, 4999]
# The address that clients connect from where the server has to know it.
CLIENT = "127.0.0.7"
CLIENTS = {1: "websockets, HTTP/1.1", 2: "h2, HTTP/2"}


@dataclass
class Way:
    """One proxy in one configuration, and how the servers behind it are started."""

    name: str
    file: str
    # A function from an Instance to what has to be replaced in the file, each with what stands for it.
    changes: callable
    # The command line of the proxy, from the programs' paths and an Instance.
    command: callable
    server_flags: list
    prefix: str = ""
    # HTTP versions over which clients get WebSockets.
    versions: tuple = (1,)
    listens_on: str = "tcp"
    # Whether the client's port arrives too, or its address alone.
    tells_port: bool = False
    asks_for_health: bool = True
    cuts_silent: bool = True
    pages: tuple = ("/",)
    takes_picture: bool = False
    results: dict = field(default_factory=dict)


def haproxy_command(programs, instance):
    return [programs.haproxy, "-f", instance.configuration]


def nginx_command(programs, instance):
    return [programs.nginx, "-p", f"{instance.work}/", "-c", "nginx-main.conf", "-e", "stderr"]


def envoy_command(programs, instance):
    return [programs.envoy, "-c", instance.configuration, "--disable-hot-restart", "--concurrency", "1"] + [
        "--log-level", "warning",
    ]  # fmt: skip


def haproxy_changes(instance):
    a, b = instance.places
    return {
        "bind :443 ": f"bind 127.0.0.1:{instance.port} ",
        "/etc/haproxy/echo.pem": f"{instance.certificate}/both.pem",
        "    server a 127.0.0.1:9001": f"    server a {a}",
        "    server b 127.0.0.1:9002": f"    server b {b}",
        "timeout tunnel 5m": f"timeout tunnel {PROXY_TIMEOUT_SECONDS}s",
    }


def haproxy_with_http2_changes(instance):
    return haproxy_changes(instance) | {"default-server proto h1 ws h1": "default-server proto h2 ws h2"}


def haproxy_tcp_changes(instance):
    a, b = instance.places
    return {
        "bind :443\n": f"bind 127.0.0.1:{instance.port}\n",
        "    server a 127.0.0.1:9001": f"    server a {a}",
        "    server b 127.0.0.1:9002": f"    server b {b}",
        "timeout client 5m": f"timeout client {PROXY_TIMEOUT_SECONDS}s",
        "timeout server 5m": f"timeout server {PROXY_TIMEOUT_SECONDS}s",
    }


def nginx_changes(instance):
    a, b = instance.places
    # What stands around a file of conf.d/.
    (instance.work / "nginx-main.conf").write_text(
        "daemon off; pid nginx.pid; events {} http { access_log off;"
        + "".join(f"{kind}_temp_path {kind};" for kind in ["client_body", "proxy", "fastcgi", "scgi", "uwsgi"])
        + f"include {instance.configuration}; }}"
    )
    return {
        "listen 443 ": f"listen 127.0.0.1:{instance.port} ",
        "/etc/nginx/echo.pem": f"{instance.certificate}/certificate.pem",
        "/etc/nginx/echo.key": f"{instance.certificate}/key.pem",
        "server unix:/run/ringecho/a.sock": f"server {a}",
        "server unix:/run/ringecho/b.sock": f"server {b}",
        "proxy_read_timeout 5m": f"proxy_read_timeout {PROXY_TIMEOUT_SECONDS}s",
    }


def envoy_changes(instance):
    a, b = (place.rsplit(":", 1)[1] for place in instance.places)
    return {
        "address: 0.0.0.0, port_value: 443": f"address: 127.0.0.1, port_value: {instance.port}",
        "/etc/envoy/echo.pem": f"{instance.certificate}/certificate.pem",
        "/etc/envoy/echo.key": f"{instance.certificate}/key.pem",
        "port_value: 9001": f"port_value: {a}",
        "port_value: 9002": f"port_value: {b}",
        "stream_idle_timeout: 300s": f"stream_idle_timeout: {PROXY_TIMEOUT_SECONDS}s",
    }


def caddy_command(programs, instance):
    # Where it keeps what it keeps.
    return ["env", f"HOME={instance.work}", programs.caddy, "run", "--adapter", "caddyfile"] + [
        "--config", instance.configuration,
    ]  # fmt: skip


def caddy_changes(instance):
    a, b = instance.places
    return {
        # Several run here, so each takes no port but its own.
        "echo.example.org {": "{\n\tadmin off\n\tauto_https disable_redirects\n\tdefault_bind 127.0.0.1\n}\n"
        f"https://127.0.0.1:{instance.port} {{",
        "/etc/caddy/echo.pem": f"{instance.certificate}/certificate.pem",
        "/etc/caddy/echo.key": f"{instance.certificate}/key.pem",
        "reverse_proxy 127.0.0.1:9001 127.0.0.1:9002": f"reverse_proxy {a} {b}",
    }


FROM_PROXY = ["--proxy-protocol", "required", "--proxy-from", "127.0.0.0/8"]

WAYS = [
    Way("HAProxy, HTTP/1.1 and PROXY v2 behind", "haproxy.cfg", haproxy_changes, haproxy_command,
        FROM_PROXY, versions=(1, 2), tells_port=True),
    Way("HAProxy, HTTP/2 and PROXY v2 behind", "haproxy.cfg", haproxy_with_http2_changes, haproxy_command,
        FROM_PROXY, versions=(1, 2), tells_port=True),
    Way("HAProxy in TCP mode, TLS and PROXY v2 behind", "haproxy-tcp.cfg", haproxy_tcp_changes, haproxy_command,
        FROM_PROXY, listens_on="tls", versions=(1, 2), tells_port=True),
    Way("nginx below a path, Unix sockets behind", "nginx.conf", nginx_changes, nginx_command,
        ["--unix-mode", "666", "--forwarded-from", "unix"], listens_on="unix", prefix="/tools/echo", asks_for_health=False,
        pages=("/tools/echo/", "/tools/echo"), takes_picture=True),
    Way("Envoy, the client's HTTP version behind", "envoy.yaml", envoy_changes, envoy_command,
        ["--forwarded-from", "127.0.0.0/8"], versions=(1, 2)),
    Way("Caddy below a path", "Caddyfile", caddy_changes, caddy_command,
        ["--forwarded-from", "127.0.0.0/8"], prefix="/tools/echo", pages=("/tools/echo/",), cuts_silent=False),
]  # fmt: skip


class Server:
    """One ringecho, that offers its own name as subprotocol, so that a client knows whom it reached."""

    def __init__(self, stack, programs, instance, name, flags):
        self.name = name
        self.access_log = instance.work / f"{name}.access.log"
        self.log = instance.work / f"{name}.log"
        listen, flags = instance.listen(name), list(flags)
        if listen.startswith("tls+"):
            certificate = instance.certificate
            flags += ["--tls-cert", f"{certificate}/certificate.pem", "--tls-key", f"{certificate}/key.pem"]
        arguments = ["--listen", listen, "--subprotocol", name, "--access-log", self.access_log]
        arguments += ["--workers", "1", "--message-size-max", MESSAGE_SIZE_MAX]
        self.process = start(
            stack, [programs.programs / "ringecho", *arguments, *flags],
            stdout=subprocess.PIPE, stderr=self.log.open("w"), text=True,
        )  # fmt: skip
        ready = self.process.stdout.readline()
        if not ready:
            raise RuntimeError(f"the server did not start: {self.log.read_text()}")
        self.place = listen if listen.startswith("unix:") else ready.split("://")[1].split("/")[0]

    def records(self):
        return [json.loads(line) for line in self.access_log.read_text().splitlines()]


class Instance:
    """A proxy in front of two servers, all of them stopped when the stack is left."""

    def __init__(self, stack, programs, way, certificate, flags=()):
        self.way, self.certificate = way, certificate
        self.work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proxies-")))
        # Proxies may have become another user.
        self.work.chmod(0o755)
        self.port = free_port()
        flags = [*way.server_flags, *flags]
        self.servers = [Server(stack, programs, self, name, flags) for name in ("a", "b")]
        self.places = [server.place for server in self.servers]
        self.configuration = self.work / way.file
        self.configuration.write_text(changed((OPERATE / way.file).read_text(), way.changes(self)))
        self.log = self.work / "proxy.log"
        self.proxy = start(stack, way.command(programs, self), stdout=self.log.open("w"), stderr=subprocess.STDOUT)

    def listen(self, name):
        kind = self.way.listens_on
        if kind == "unix":
            return f"unix:{self.work}/{name}.sock"
        return {"tcp": "", "tls": "tls+"}[kind] + "127.0.0.1:0"

    async def until_ready(self):
        """Until the page comes through the proxy, which some give to no server before they know its health."""
        deadline = time.monotonic() + 20
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls())
                writer.write(f"GET {self.way.prefix}/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                head = await asyncio.wait_for(reader.readline(), 5)
                writer.close()
                if b" 200 " in head:
                    return
            except (OSError, TimeoutError) as error:
                head = error
            if self.proxy.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the proxy does not serve ({head}): {self.log.read_text()}")
            await asyncio.sleep(0.1)

    def tls(self):
        return ssl.create_default_context(cafile=f"{self.certificate}/certificate.pem")

    async def connect(self, version, local=None, subprotocols=()):
        path = f"{self.way.prefix}/ws"
        if version == 2:
            return await Http2Client.open("127.0.0.1", self.port, path, self.tls(), local, subprotocols)
        return await Http1Client.open(f"wss://127.0.0.1:{self.port}{path}", self.tls(), local, subprotocols)


class Http1Client:
    """A client of `websockets` that sends nothing by itself but Pongs, with the interface of `Http2Client`."""

    @classmethod
    async def open(cls, url, tls, local, subprotocols):
        client = cls()
        client.connection = await connect(
            url, ssl=tls, compression=None, max_size=None, ping_interval=None, close_timeout=10, proxy=None,
            subprotocols=subprotocols or None, **({"local_addr": (local, 0)} if local else {}),
        )  # fmt: skip
        client.local_address = client.connection.local_address
        client.subprotocol = client.connection.subprotocol
        return client

    async def send(self, message):
        try:
            await self.connection.send(message)
        except websockets.ConnectionClosed as error:
            raise ConnectionError(str(error)) from error

    async def recv(self):
        try:
            return await self.connection.recv()
        except websockets.ConnectionClosed as error:
            raise ConnectionError(str(error)) from error

    async def close(self, code, reason):
        await self.connection.close(code, reason)
        return await self.wait_closed()

    async def wait_closed(self):
        await self.connection.wait_closed()
        return self.connection.close_code, self.connection.close_reason


def changed(text, changes):
    for old, new in changes.items():
        if old not in text:
            sys.exit(f"the configuration lacks what has to be changed: {old}")
        text = text.replace(old, new)
    return text


def start(stack, arguments, **streams):
    process = subprocess.Popen([str(argument) for argument in arguments], **streams)

    def stop():
        # Twice ends the server at once.
        for _ in range(2):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.3)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(stop)
    return process


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


async def try_page(instance, programs, version):
    """The page as Chromium has it, and what Chromium itself says of the WebSockets' way."""
    for path in instance.way.pages:
        net_log = instance.work / "net-log.json"
        environment = {
            "RINGECHO_URL": f"https://127.0.0.1:{instance.port}{path}",
            "CHROMIUM": programs.chromium,
            "NET_LOG": str(net_log),
        }
        if programs.picture and instance.way.takes_picture and path == instance.way.pages[0]:
            environment["SCREENSHOT"] = str(programs.picture.resolve())
        page = await asyncio.create_subprocess_exec(
            "node", programs.node / "page.mjs", env=os.environ | environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await asyncio.wait_for(page.communicate(), 100)
        if page.returncode != 0:
            raise AssertionError(said.decode())
        over_http2 = net_log.read_text(errors="replace").count('":protocol: websocket"')
        expected = 2 in instance.way.versions
        assert (over_http2 > 0) == expected, f"Chromium says that {over_http2} WebSockets went over HTTP/2"
    return f"{said.decode().count('ok  ')} checks" + (f", {over_http2} sockets over HTTP/2" if over_http2 else "")


async def try_echoes(instance, programs, version):
    """Messages of 1 MiB, all sent while their echoes are received."""
    messages = [os.urandom(MIB) for _ in range(8)] + ["ä" * (MIB // 2)]
    client = await instance.connect(version)

    async def receive():
        for message in messages:
            assert await client.recv() == message

    receiving = asyncio.create_task(receive())
    for message in messages:
        await client.send(message)
    await receiving
    assert await client.close(1000, "") == (1000, "")
    return f"{len(messages)} of 1 MiB"


async def try_close_codes(instance, programs, version):
    for code in CLOSE_CODES:
        client = await instance.connect(version)
        ended = await client.close(code, f"because {code}")
        assert ended == (code, f"because {code}"), ended
    client = await instance.connect(version)
    with contextlib.suppress(ConnectionError):
        await client.send(bytes(MESSAGE_SIZE_MAX + 1))
    code, reason = await client.wait_closed()
    assert code == 1009, (code, reason)
    return ", ".join(map(str, CLOSE_CODES)) + " back, 1009"


async def try_peer(instance, programs, version):
    """The access log has the client's address, and not the proxy's."""
    client = await instance.connect(version, local=CLIENT)
    host, port = client.local_address[:2]
    await client.close(1000, "who am I")
    expected = f"{host}:{port}" if instance.way.tells_port else host
    for _ in range(100):
        peers = [record["peer"] for server in instance.servers for record in server.records()]
        if any(peer == expected or (peer.startswith(host) and not instance.way.tells_port) for peer in peers):
            return f"{CLIENT} and port" if instance.way.tells_port else CLIENT
        await asyncio.sleep(0.05)
    raise AssertionError(f"no {expected} among {sorted(set(peers))[-20:]}")


async def try_idle_with_pings(instance, programs, version):
    client = await instance.connect(version)
    await asyncio.sleep(IDLE_SECONDS)
    await client.send("still here")
    assert await client.recv() == "still here"
    await client.close(1000, "")
    return f"open after {IDLE_SECONDS} s"


async def try_idle_without_pings(instance, programs, version):
    if not instance.way.cuts_silent:
        return await try_idle_with_pings(instance, programs, version)
    client = await instance.connect(version)
    code, _ = await asyncio.wait_for(client.wait_closed(), 4 * IDLE_SECONDS)
    assert code == 1006, code
    return "cut"


async def try_drain(instance, programs, version):
    """One server is told to stop: its clients get 1001, new ones come to the other, and none fails."""
    way, clients = instance.way, {}
    for _ in range(100):
        client = await instance.connect(version, subprotocols=("a", "b"))
        if client.subprotocol in clients:
            await client.close(1000, "")
            await asyncio.sleep(0.05)
        clients[client.subprotocol] = client
        if len(clients) == 2:
            break
    assert clients.keys() == {"a", "b"}, f"the proxy uses {list(clients)} alone"
    stopping, _ = instance.servers
    stopping.process.send_signal(signal.SIGTERM)
    told_at = time.monotonic()
    noticed = ""
    # A proxy that takes turns gives the stopping server half of them, as long as it has not noticed.
    while way.asks_for_health and not noticed:
        assert time.monotonic() - told_at < DRAIN_DELAY_SECONDS, "the proxy goes on with a server that is not ready"
        visited = await asyncio.gather(*(visit(instance, version) for _ in range(4)))
        if set(visited) == {"b"}:
            noticed = ", left out before"
    await clients["a"].send("served until then")
    assert await clients["a"].recv() == "served until then"
    code, reason = await asyncio.wait_for(clients["a"].wait_closed(), DRAIN_DELAY_SECONDS + 10)
    assert code == 1001, (code, reason)
    assert await asyncio.to_thread(stopping.process.wait, 20) == 0
    assert {await visit(instance, version) for _ in range(4)} == {"b"}
    await clients["b"].send("not concerned")
    assert await clients["b"].recv() == "not concerned"
    await clients["b"].close(1000, "")
    return "1001" + noticed


async def visit(instance, version):
    """Opens a connection, has an echo, closes it; returns the server's name."""
    client = await instance.connect(version, subprotocols=("a", "b"))
    await client.send("hello")
    assert await client.recv() == "hello"
    await client.close(1000, "")
    return client.subprotocol


PINGS = ["--keep-alive-interval", "1s"]
NO_PINGS = ["--keep-alive-interval", "0s"]
DRAIN = [*PINGS, "--drain-delay", f"{DRAIN_DELAY_SECONDS}s", "--drain-timeout", "5s"]

# A check is tried for each HTTP version of the clients; the instances of a way are made for their flags.
CHECKS = [
    ("1 MiB both ways", try_echoes, PINGS),
    ("close codes", try_close_codes, PINGS),
    ("the client's address", try_peer, PINGS),
    ("idle, with Pings", try_idle_with_pings, PINGS),
    ("idle, without", try_idle_without_pings, NO_PINGS),
    ("one server stops", try_drain, DRAIN),
]


async def try_ways(ways, programs, certificate):
    places = asyncio.Semaphore(WAYS_AT_ONCE)

    async def try_in_turn(way):
        async with places:
            await try_way(way, programs, certificate)

    await asyncio.gather(*map(try_in_turn, ways))


async def try_way(way, programs, certificate):
    with contextlib.ExitStack() as stack:
        instances = {}

        def instance_with(flags):
            # A drain ends a server, so each has an instance to itself.
            key = tuple(flags) if flags is not DRAIN else object()
            if key not in instances:
                instances[key] = Instance(stack, programs, way, certificate, flags)
            return instances[key]

        try:
            tries = [(name, CLIENTS[version], check, instance_with(flags), version)
                     for name, check, flags in CHECKS for version in way.versions]  # fmt: skip
            tries.append(("page", "Chromium", try_page, instance_with(PINGS), None))
            for instance in instances.values():
                await instance.until_ready()
        except RuntimeError as error:
            print(f"FAILED {way.name}: {error}", flush=True)
            way.results["none"] = {"start": "FAILED"}
            return
        await asyncio.gather(*(try_check(way, programs, *parts) for parts in tries))


async def try_check(way, programs, name, client, check, instance, version):
    try:
        result = await check(instance, programs, version)
        print(f"ok     {way.name}: {client}: {name}: {result}", flush=True)
    except Exception as error:  # whatever it is, the other checks go on
        result = "FAILED"
        logs = [instance.log, *(server.log for server in instance.servers)]
        said = "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in logs)
        print(f"FAILED {way.name}: {client}: {name}: {type(error).__name__}: {error}\n{said}", flush=True)
    way.results.setdefault(client, {})[name] = result


def print_table(ways):
    names = ["page", *(name for name, _, _ in CHECKS)]
    print(f"\n| proxy | client | {' | '.join(names)} |\n|{' --- |' * (len(names) + 2)}")
    for way in ways:
        for client in ["Chromium", *CLIENTS.values()]:
            if results := way.results.get(client):
                print(f"| {way.name} | {client} | {' | '.join(results.get(name, '') for name in names)} |")


def make_certificate(folder):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        + ["-keyout", folder / "key.pem", "-out", folder / "certificate.pem"],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    both = (folder / "certificate.pem").read_text() + (folder / "key.pem").read_text()
    (folder / "both.pem").write_text(both)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ["programs", "node"]:
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ["haproxy", "nginx", "envoy", "caddy", "chromium"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("words", nargs="*")
    programs = parser.parse_args()
    ways = [way for way in WAYS if all(word.lower() in way.name.lower() for word in programs.words)]
    with tempfile.TemporaryDirectory() as folder:
        make_certificate(Path(folder))
        asyncio.run(asyncio.wait_for(try_ways(ways, programs, folder), SECONDS_MAX))
    print_table(ways)
    results = [result for way in ways for row in way.results.values() for result in row.values()]
    failed = results.count("FAILED")
    print(f"\n{len(results) - failed} passed, {failed} failed")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
