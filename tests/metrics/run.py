#!/usr/bin/env python3
"""Metrics as an operator has them: a real Prometheus scrapes a server under load, and every query of the
dashboard and of the alerts returns something: run.py BIN PROMETHEUS PROMTOOL, where BIN is the folder of
both programs.

An alert's expression is empty while all is well. So its two sides are asked for apart, without the
comparison between them: each must have a value, unless it is a number. The whole expression is left to
Prometheus, which evaluates it as a rule, and must have no fault to find.

Prints a line for each query. The exit code is 0 if nothing failed. Ends by itself within two minutes.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parent.parent.parent
OPERATE = ROOT / "docs" / "operate"

SECONDS_MAX = 115
# Rates are of this time, for the dashboard and the alerts alike, so that a short load is enough.
WINDOW = "15s"
# Two scrapes of every family are within the window well before.
LOAD_SECONDS = 25

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

# Length, type, flags, stream.
HTTP2_SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
HTTP2_DATA_OF_NO_STREAM = b"\0\0\0\x00\0\0\0\0\0"

failures = 0


def main():
    binaries, prometheus, promtool = map(Path, sys.argv[1:])
    signal.alarm(SECONDS_MAX)
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports, admin = start_server(stack, binaries, work)
        rules = write_rules(work)
        check_command("the rules", [promtool, "check", "rules", OPERATE / "alerts.yml"])
        url = start_prometheus(stack, prometheus, work, admin, rules)
        put_under_load(stack, binaries, ports)
        check_exposition(promtool, admin)
        time.sleep(LOAD_SECONDS)
        check_queries(url)
        check_balance(url)
    print(f"{failures} failed" if failures else "every query has returned something")
    return 1 if failures else 0


def note(what, fault):
    global failures
    failures += bool(fault)
    print(f"{'FAILED' if fault else 'ok':6} {what}{': ' + fault if fault else ''}", flush=True)


def start(stack, arguments, **streams):
    process = subprocess.Popen([str(argument) for argument in arguments], **streams)

    def stop():
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(stop)
    return process


def start_server(stack, binaries, work):
    """Starts the server; returns where it echoes, without TLS and with it, and where it serves metrics."""
    log = work / "server.log"
    arguments = ["--listen", "127.0.0.1:0", "--listen", "tls+127.0.0.1:0", "--tls-self-signed"]
    arguments += ["--proxy-protocol", "optional", "--proxy-from", "127.0.0.1"]
    arguments += ["--admin-listen", "127.0.0.1:0", "--keep-alive-interval", "1s"]
    arguments += ["--access-log", work / "access.log", "--log-format", "json"]
    process = start(
        stack, [binaries / "ringecho", *arguments], stdout=subprocess.PIPE, stderr=log.open("w"), text=True
    )
    ready = process.stdout.readline() + process.stdout.readline()
    echo = re.findall(r"wss?://127\.0\.0\.1:(\d+)/", ready)
    # The log is written by a thread of its own.
    while not (served := re.search(r'"address":"127\.0\.0\.1:(\d+)"', log.read_text())):
        if not echo or process.poll() is not None:
            sys.exit(f"the server did not start: {ready}{log.read_text()}")
        time.sleep(0.1)
    return [int(port) for port in echo], int(served[1])


def write_rules(work):
    """The alerts with a shorter window, so that they have values soon."""
    rules = work / "alerts.yml"
    rules.write_text(in_window((OPERATE / "alerts.yml").read_text()))
    return rules


def in_window(expression):
    return re.sub(r"\[(?:\d+[smh]|\$__rate_interval)\]", f"[{WINDOW}]", expression)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start_prometheus(stack, prometheus, work, admin, rules):
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "ringecho", "static_configs": [{"targets": [f"127.0.0.1:{admin}"]}]}],
    }
    (work / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    arguments = [f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/data"]
    arguments += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    process = start(stack, [prometheus, *arguments], stderr=(work / "prometheus.log").open("w"))
    url = f"http://127.0.0.1:{port}"
    while True:
        try:
            fetch(f"{url}/-/ready")
            return url
        except OSError:
            if process.poll() is not None:
                sys.exit(f"Prometheus did not start: {(work / 'prometheus.log').read_text()}")
            time.sleep(0.1)


def fetch(url, headers=None):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=10) as response:
        return response.read().decode(), response.headers["Content-Type"]


def put_under_load(stack, binaries, ports):
    """The generator's messages and cycles, and clients that do everything else that is counted."""
    url, secure = f"ws://127.0.0.1:{ports[0]}/ws", f"wss://127.0.0.1:{ports[1]}/ws"
    generator = binaries / "ringecho-loadtest"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    duration = f"{LOAD_SECONDS + 20}s"
    load = ["--rate", "500", "--connections", "20", "--duration", duration]
    start(stack, [generator, url, *load], **quiet)
    start(stack, [generator, "churn", url, "--rate", "20", "--duration", duration], **quiet)
    for flags in (["--tls", "1.2"], ["--tls-resume"], ["--http2"]):
        cycles = ["--rate", "5", "--connections", "1", "--duration", duration]
        start(stack, [generator, "churn", secure, "--insecure", *cycles, *flags], **quiet)
    is_over = threading.Event()
    thread = threading.Thread(target=misbehave, args=(ports, is_over))
    thread.start()
    stack.callback(thread.join)
    stack.callback(is_over.set)


def misbehave(ports, is_over):
    """Until it is over: a refused request, a text message with a Ping, a violation, of HTTP/2 too, a wrong PROXY
    header, no TLS where it is spoken, a client that does not read."""
    echo, secure = ports
    with contextlib.ExitStack() as stack:
        while not is_over.wait(0.2):
            for port, request, frames in [
                (secure, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
                (echo, b"PROXY TCP9\r\n", b""),
                (echo, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP2_SETTINGS + HTTP2_DATA_OF_NO_STREAM),
                (echo, b"GET /no HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b""),
                (echo, b"GET /healthz HTTP/1.0\r\n\r\n", b""),
                (echo, UPGRADE, frame(0x81, b"hello") + frame(0x89, b"") + frame(0x8A, b"") + frame(0x88, b"\x03\xe8")),
                (echo, UPGRADE, frame(0x83, b"")),
            ]:
                with contextlib.suppress(OSError), connect(port) as client:
                    client.sendall(request + frames)
                    while client.recv(4096):
                        pass
            client = stack.enter_context(connect(echo))
            client.setblocking(False)
            with contextlib.suppress(OSError):
                client.sendall(UPGRADE + 64 * frame(0x82, bytes(60000)))


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def frame(first, payload):
    """A client's frame whose masking key is zero."""
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return bytes([first]) + length + bytes(4) + payload


def check_exposition(promtool, admin):
    """Both formats, each by a parser that is not ours."""
    url = f"http://127.0.0.1:{admin}/metrics"
    text, content_type = fetch(url)
    note("OpenMetrics has its media type", "" if "openmetrics-text; version=1.0.0" in content_type else content_type)
    try:
        families = list(text_string_to_metric_families(text))
        note(f"OpenMetrics with {len(families)} families is parsed by prometheus_client", "")
    except ValueError as error:
        note("OpenMetrics is parsed by prometheus_client", str(error))
    text, _ = fetch(url, {"Accept": "text/plain;version=0.0.4"})
    check_command("the older format", [promtool, "check", "metrics"], text)


def check_command(what, arguments, text=None):
    ran = subprocess.run([str(argument) for argument in arguments], input=text, capture_output=True, text=True)
    note(f"promtool accepts {what}", "" if ran.returncode == 0 else ran.stdout + ran.stderr)


def check_queries(url):
    dashboard = json.loads((OPERATE / "grafana.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = in_window(target["expr"].replace("$instance", ".*"))
            note(f"dashboard, {panel['title']}: {expression}", fault_of(url, expression))
    groups = yaml.safe_load((OPERATE / "alerts.yml").read_text())["groups"]
    for rule in [rule for group in groups for rule in group["rules"]]:
        for part in parts(in_window(rule["expr"])):
            note(f"alert, {rule['alert']}: {part}", fault_of(url, part))
    body, _ = fetch(f"{url}/api/v1/rules")
    for rule in [rule for group in json.loads(body)["data"]["groups"] for rule in group["rules"]]:
        note(f"{rule['name']} is evaluated", "" if rule["health"] == "ok" else rule.get("lastError", rule["health"]))


def parts(expression):
    """The sides of the comparison at the top of an expression that are no numbers."""
    depth, quoted, start, found = 0, False, 0, []
    for at, character in enumerate(expression):
        quoted ^= character == '"'
        if quoted:
            continue
        depth += (character in "({[") - (character in ")}]")
        if depth == 0 and character in "<>=!":
            found.append(expression[start:at])
            start = at + 1
    found.append(expression[start:])
    found = [part.strip() for part in found]
    return [part for part in found if part and not re.fullmatch(r"[\d.e+-]+", part)]


def query(url, expression):
    address = f"{url}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    return json.loads(fetch(address)[0])["data"]["result"]


def fault_of(url, expression):
    """Why a query is of no use; nothing if it returns a number."""
    try:
        result = query(url, expression)
    except urllib.error.HTTPError as error:
        return error.read().decode()
    if not result:
        return "returns nothing"
    return "" if any(sample["value"][1] != "NaN" for sample in result) else "returns no number"


def check_balance(url):
    balance = "ringecho_connections_accepted_total - ringecho_connections_open - on (instance) "
    balance += "sum by (instance) (ringecho_connections_ended_total)"
    result = query(url, f"max_over_time(abs({balance})[20s:1s])")
    is_even = bool(result) and all(float(sample["value"][1]) == 0 for sample in result)
    note("accepted = open + ended in each of 20 scrapes", "" if is_even else str(result))


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
