#!/usr/bin/env python3
"""A soak of the server: see scripts/soak.sh, which says what it does and when it fails."""

import argparse
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import clients
import series

# How long the server may take to say that it is ready, and to stop beyond its own deadlines.
PATIENCE_SECONDS = 60

# A mix lasts so long, and then everything rests for this long: long enough for the server to have
# swept twice, which is when it gives memory back.
MIX_SECONDS = (5, 9)
REST_SECONDS = 3.5
# Connections that are closed may linger for --close-timeout, and for a tick or two.
SETTLED_WITHIN_SECONDS = 15

# What a client may see of a server that is replaced: no wrong echo, no violation of RFC 6455.
ERRORS_NEVER = ("wrong", "protocol")

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


class Failure(Exception):
    """What is not as it should be."""


class Server:
    """The process that serves, and those that did before."""

    def __init__(self, programs, flags, out, scratch):
        self.program = programs / "ringecho"
        self.help = subprocess.run([self.program, "--help"], capture_output=True, text=True, check=True).stdout
        self.port = free_port()
        self.flags = flags
        self.log = open(out / "server.log", "w")
        self.out = out
        self.takeover_path = scratch / "takeover"
        self.is_changing = False
        self.replaced = {"takeover": 0, "drain": 0}
        self.process = self.start()

    def has(self, flag):
        return f" {flag} " in self.help or f" {flag}\n" in self.help

    def start(self):
        command = [self.program, f"--listen=127.0.0.1:{self.port}", *self.flags]
        if self.has("--takeover"):
            command.append(f"--takeover={self.takeover_path}")
        self.admin = free_port() if self.has("--admin-listen") else None
        if self.admin:
            command.append(f"--admin-listen=127.0.0.1:{self.admin}")
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        ready = process.stdout.readline()
        if not ready.startswith("listening on "):
            raise Failure(f"the server did not start; {self.out}/server.log says why")
        return process

    def replace(self):
        """Has another process serve, by a takeover if there is such a thing, or by a drain and a start."""
        old, self.is_changing = self.process, True
        how = "takeover" if self.has("--takeover") else "drain"
        if how == "takeover":
            self.process = self.start()
        else:
            old.send_signal(signal.SIGTERM)
        self.wait(old)
        if how == "drain":
            self.process = self.start()
        self.replaced[how] += 1
        self.is_changing = False

    def wait(self, process):
        """Waits for the end of a process that is to stop."""
        try:
            code = process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failure(f"the server does not stop within {PATIENCE_SECONDS} s") from None
        if code != 0:
            raise Failure(f"the server stopped with exit code {code}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.wait(self.process)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def totals(self):
        """What each process said at its end; checks that it balances."""
        said = (self.out / "server.log").read_text()
        lines = re.findall(r"stopped connections=(\d+).*? ended=\[([^]]*)\]", said)
        for accepted, ended in lines:
            if int(accepted) != sum(map(int, re.findall(r", (\d+)\)", ended))):
                raise Failure(f"the totals do not balance: {accepted} accepted, ended {ended}")
        if re.search(r"panicked|worker died", said):
            raise Failure(f"a worker or a task died; {self.out}/server.log says why")
        return lines


class Mix:
    """What clients do, all of it chosen by the seed."""

    def __init__(self, server, programs, seed, scratch):
        self.server = server
        self.scratch = scratch
        self.generator = programs / "ringecho-loadtest"
        self.random = random.Random(seed)
        self.phase = "mix"
        self.counts = {}
        self.is_over = False
        self.children = set()

    def run(self, seconds):
        began = time.monotonic()
        until = began + seconds
        calm_from = began + seconds * series.JUDGED_FROM
        while time.monotonic() < until and not self.is_over:
            is_storm = time.monotonic() < calm_from
            self.mix(min(self.random.uniform(*MIX_SECONDS), max(1, until - time.monotonic())), is_storm)
            if not is_storm:
                self.rest(until)

    def mix(self, seconds, is_storm):
        """Some loads and some hostile clients at a time; in a storm, the server is replaced meanwhile."""
        self.phase = "storm" if is_storm else "mix"
        loads = [*self.random.sample(self.loads(seconds), self.random.randint(1, 2))]
        hostile = self.random.sample(clients.ALL, self.random.randint(1, 3))
        seeds = [self.random.random() for _ in hostile]
        replaces_after = self.random.uniform(0.5, seconds / 2) if is_storm else None
        until = time.monotonic() + seconds
        threads = [
            threading.Thread(target=actor, args=(self.server.port, random.Random(seed), until))
            for actor, seed in zip(hostile, seeds, strict=True)
        ]
        for actor in hostile:
            self.count(actor.__name__)
        for thread in threads:
            thread.start()
        running = [self.start(*load) for load in loads]
        if replaces_after:
            time.sleep(replaces_after)
            self.server.replace()
        for name, process, result in running:
            self.finish(name, process, result, seconds, is_storm)
        for thread in threads:
            thread.join()

    def loads(self, seconds):
        """Names and flags of loads by the generator."""
        pick, some = self.random.choice, self.random.randint
        texts = ["--text", "--fragments", some(1, 3), "--payload=16..4KiB"]
        last = ["--duration", f"{seconds:.1f}s"]
        full = ["--warmup=0s", "--threads=1", *last]
        return [
            ("echo", ["--connections", some(1, 100), "--depth", pick([1, 4, 16]), "--payload=16..64KiB", *full]),
            ("texts", ["--connections", some(1, 100), *texts, *full]),
            ("rate", ["--connections", some(1, 200), f"--rate={pick([1, 5])}k", "--wait=sleep", *full]),
            ("churn", ["churn", "--connections", some(1, 40), *full]),
            ("abort", ["churn", "--connections", some(1, 40), "--close=abort", *full]),
            ("idle", ["idle", "--connections", some(100, 1000), "--threads=1", *last]),
        ]

    def start(self, name, flags):
        self.count(name)
        result = self.scratch / f"{name}.json"
        result.unlink(missing_ok=True)
        url = f"ws://127.0.0.1:{self.server.port}/ws"
        command, flags = ([flags[0]], flags[1:]) if flags[0] in ("churn", "idle") else ([], flags)
        process = subprocess.Popen(
            [self.generator, *command, url, *map(str, flags), "--json", result],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        self.children.add(process)
        return name, process, result

    def finish(self, name, process, result, seconds, is_storm):
        try:
            _, said = process.communicate(timeout=seconds + PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failure(f"{name}: the generator does not come to its end") from None
        self.children.discard(process)
        errors = json.loads(result.read_text()).get("errors", {}) if result.exists() else {}
        found = {kind: errors[kind] for kind in ERRORS_NEVER if errors.get(kind)}
        if not is_storm and process.returncode != 0:
            found = {"exit code": process.returncode, **{kind: count for kind, count in errors.items() if count}}
        if found:
            raise Failure(f"{name}: {found}; {said.strip()[-300:]}")

    def rest(self, until):
        """Waits until all connections are over, and a while longer; the last second of it is a point."""
        settled_by = time.monotonic() + SETTLED_WITHIN_SECONDS
        before = None
        self.phase = "settling"
        while time.monotonic() < settled_by and not self.is_over:
            now = self.server.descriptors()
            if now == before:
                break
            before = now
            time.sleep(1)
        time.sleep(REST_SECONDS)
        self.phase = "rest"
        time.sleep(1)

    def count(self, name):
        self.counts[name] = self.counts.get(name, 0) + 1

    def kill(self):
        self.is_over = True
        for process in self.children:
            process.kill()


def sample(server, second, phase):
    """A line of the file; nothing while the process is being replaced."""
    process, admin = server.process, server.admin
    directory = Path(f"/proc/{process.pid}")
    try:
        status = dict(re.findall(r"^(\w+):\s+(\d+)", (directory / "status").read_text(), re.MULTILINE))
        times = (directory / "stat").read_text().rpartition(") ")[2].split()[11:13]
        row = {
            "second": round(second, 1),
            "phase": phase,
            "pid": process.pid,
            "resident_kib": int(status["VmRSS"]),
            "descriptors": len(os.listdir(directory / "fd")),
            "threads": int(status["Threads"]),
            "cpu_seconds": sum(map(int, times)) / TICKS_PER_SECOND,
            **kernel_memory(),
        }
        if admin:
            row |= metrics(admin)
    except (OSError, KeyError):
        return None
    return row


def kernel_memory():
    """The kernel's memory for TCP and its own objects, and TCP's sockets: the whole machine's."""
    line = re.search("^TCP: .*$", Path("/proc/net/sockstat").read_text(), re.MULTILINE)[0]
    sockets = dict(re.findall(r"(\w+) (\d+)", line))
    slab = re.search(r"^Slab:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "tcp_memory_kib": int(sockets["mem"]) * PAGE_KIB,
        "tcp_in_use": int(sockets["inuse"]),
        "tcp_orphans": int(sockets["orphan"]),
        "tcp_time_wait": int(sockets["tw"]),
        "slab_kib": int(slab[1]) if slab else "",
    }


def metrics(port):
    """Every counter and gauge, by its name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=1) as response:
        text = response.read().decode()
    values = re.findall(r"^([a-z_]+(?:\{[^}]*\})?) (\S+)", text, re.MULTILINE)
    return {name: value for name, value in values if "_bucket{" not in name}


def check_balance(rows):
    """accepted = open + ended wherever nothing happened."""
    accepted, still_open = "ringecho_connections_accepted_total", "ringecho_connections_open"
    for row in rows:
        if row["phase"] != "rest" or accepted not in row:
            continue
        ended = sum(float(value) for name, value in row.items() if name.startswith("ringecho_connections_ended_total"))
        if float(row[accepted]) != float(row[still_open]) + ended:
            raise Failure(f"at {row['second']} s the metrics do not balance: {row[accepted]} accepted, {ended} ended")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def soak(arguments, scratch):
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    seconds = arguments.minutes * 60
    print(f"seed {arguments.seed}, {arguments.minutes:g} minutes; {out}/ has what is recorded", flush=True)
    rows, failures = [], []
    server = Server(arguments.programs, arguments.flags.split(), out, scratch)
    mix = Mix(server, arguments.programs, arguments.seed, scratch)

    def run():
        try:
            mix.run(seconds)
        except Exception as error:  # A thread's exception would otherwise be lost.
            failures.append(error if isinstance(error, Failure) else repr(error))

    mixing = threading.Thread(target=run)
    began = time.monotonic()
    mixing.start()
    try:
        for second in range(1, 1 << 30):
            mixing.join(max(0, began + second - time.monotonic()))
            if not mixing.is_alive():
                break
            if row := sample(server, time.monotonic() - began, mix.phase):
                rows.append(row)
            if server.process.poll() is not None and not server.is_changing:
                failures.append(f"the server ended by itself, with {server.process.returncode}")
                break
        if not failures:
            server.stop()
            totals = server.totals()
            accepted = sum(int(accepted) for accepted, _ in totals)
            print(f"{len(totals)} processes, {accepted} connections; the last one's ends: {totals[-1][1]}")
            check_balance(rows)
    except Failure as error:
        failures.append(error)
    finally:
        mix.kill()
        server.kill()
        mixing.join()
    print("mixed:", ", ".join(f"{name} {count}" for name, count in sorted(mix.counts.items())))
    print("replaced:", ", ".join(f"{count} by {how}" for how, count in server.replaced.items()))
    series.write(out / "soak.csv", rows)
    lines, is_flat = series.check(rows)
    print(*lines, sep="\n")
    if rows:
        title = f"ringecho {' '.join(server.flags)} under a mix of clients, seed {arguments.seed}"
        series.draw(out / "soak.svg", rows, title)
    for failure in failures:
        print(f"FAILED {failure}")
    return is_flat and not failures


def minutes(text):
    value = float(text)
    if not 0.5 <= value <= 10_000:
        raise argparse.ArgumentTypeError(f"{text} minutes are not from 0.5 to 10000")
    return value


def main():
    parser = argparse.ArgumentParser(prog="scripts/soak.sh", description="A soak of the server.")
    parser.add_argument("--minutes", type=minutes, default=30, help="how long (0.5 to 10000; default 30)")
    parser.add_argument("--seed", type=int, default=16, help="what is mixed, and in which order (default 16)")
    parser.add_argument("--out", type=Path, default=Path("target/soak"), help="where the file and the picture go")
    parser.add_argument("--flags", default="", help="further flags of the server")
    parser.add_argument("--programs", type=Path, help="the folder of both programs")
    parser.add_argument("--check", type=Path, metavar="FILE", help="judge a file that was recorded before")
    arguments = parser.parse_args()
    if arguments.check:
        lines, is_flat = series.check(series.read(arguments.check))
        print(*lines, sep="\n")
        return 0 if is_flat else 1
    if not arguments.programs:
        parser.error("--programs is needed")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="ringecho-soak-") as scratch:
        return 0 if soak(arguments, Path(scratch)) else 1


if __name__ == "__main__":
    sys.exit(main())
