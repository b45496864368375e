"""Both programs in every odd place: run.py DIRECTORY, which holds them. See scripts/where.sh."""

import concurrent.futures
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from place import PATIENCE_SECONDS, Failure, Place, Program, Skipped, in_mounts, make_bare_root, refusing
from refusals import (
    GENERATOR_CALLS, GENERATOR_NEEDS, IO_URING_CALLS, SERVER_CALLS, SERVER_MAY_NEED, SERVER_NEEDS, SERVER_SAYS,
)
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

# Checks at a time; they wait more than they work.
CHECKS_AT_ONCE = 4

REST_SECONDS = 0.3
REST_CPU_SECONDS_MAX = 0.15

NOBODY = 65534
PLANES = {
    "default": [],
    "epoll": ["--driver=epoll"],
    "portable": ["--data-plane=portable"],
    "portable on epoll": ["--driver=epoll", "--data-plane=portable"],
}

# What neither program says in any place.
NEVER_SAID = re.compile(r"panicked|fatal runtime error|defect|assertion")


# What is checked of a server.


def check_serves(programs, place, flags=(), says=()):
    """It starts, serves, and says each of `says` in one line."""
    with start(programs, place, flags) as server:
        if not is_ready(server):
            server.fail(f"it ended with exit code {server.exit_code()} instead of serving")
        check_life(server)
        check_said(server, [*says, "stopped connections="])


def check_refuses(programs, place, flags, message):
    """It does not start, and says why in one line."""
    with start(programs, place, flags) as server:
        if is_ready(server):
            server.fail("it started")
        check_failure(server, f"^error: .*{message}")


def check_serves_or_refuses(programs, place, flags):
    """It serves, or it does not start and names what it could not do beside the kernel's error."""
    with start(programs, place, flags) as server:
        if is_ready(server):
            check_life(server)
            check_said(server, ["stopped connections="])
        else:
            check_failure(server, r"^error: (?!Operation not permitted).*Operation not permitted")


def check_unheard_serves(programs, place, stream, output):
    """It serves all the same where nobody takes what it says, which is a lot."""
    port = free_port()
    with (
        unheard(stream, output) as streams,
        start(programs, place, ["--log-level=trace"], port, streams) as server,
    ):
        server.wait_for("a listener", lambda: is_listening(port))
        check_life(server)


def start(programs, place, flags, port=None, streams=None):
    port = port or free_port()
    server = Program(place, [programs / "ringecho", f"--listen=127.0.0.1:{port}", *flags], **(streams or {}))
    server.port = port
    return server


def is_ready(server):
    ready = re.compile(rf"^listening on ws://127\.0\.0\.1:{server.port}/ws ", re.MULTILINE)
    return server.wait_for("the ready line", lambda: ready.search(server.stdout))


@contextlib.contextmanager
def unheard(stream, output):
    """The stream as Program takes it; without an `output` the place itself sees to it."""
    with output() if output else contextlib.nullcontext() as descriptor:
        yield {stream: descriptor}


def check_life(server):
    """It echoes, rests, and stops in order."""
    with contextlib.ExitStack() as clients:
        conversations = [clients.enter_context(converse(server)) for _ in range(3)]
        check_rest(server)
        server.signal(signal.SIGTERM)
        for conversation in conversations:
            expect_going_away(server, conversation)
        if (code := server.exit_code()) != 0:
            server.fail(f"exit code {code} after SIGTERM instead of 0")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def is_listening(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


@contextlib.contextmanager
def converse(server):
    """A client that has had its echoes."""
    # One that takes several turns, and enough that a server busy with them waits in its other way.
    messages = [os.urandom(100_000), *(os.urandom(100) for _ in range(100))]
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(connect(
                f"ws://127.0.0.1:{server.port}/ws", compression=None, proxy=None, ping_interval=None,
                open_timeout=PATIENCE_SECONDS, close_timeout=1,
            ))
            for message in messages:
                client.send(message)
                if client.recv(timeout=PATIENCE_SECONDS) != message:
                    server.fail("the echo is not the message")
        except (OSError, TimeoutError, WebSocketException) as error:
            server.fail(f"no echo: {error!r}")
        yield client


def check_rest(server):
    """With nothing to do, it does nothing."""
    before = server.cpu_seconds()
    time.sleep(REST_SECONDS)
    burnt = server.cpu_seconds() - before
    if burnt > REST_CPU_SECONDS_MAX:
        server.fail(f"{burnt} s of CPU in {REST_SECONDS} s without a message")


def expect_going_away(server, client):
    try:
        client.recv(timeout=PATIENCE_SECONDS)
    except ConnectionClosed as closed:
        if closed.rcvd and closed.rcvd.code == 1001:
            return
        server.fail(f"SIGTERM ended a connection with {closed} instead of close code 1001")
    except TimeoutError:
        server.fail(f"no Close frame within {PATIENCE_SECONDS} s of SIGTERM")
    server.fail("a message that nobody sent")


# What is checked of the generator, mostly against a server in an ordinary place.


def check_drives(programs, place):
    """It measures, and finds every echo right."""
    with ordinary_server(programs) as url, Program(place, drive(programs, url)) as generator:
        report = result(generator, 0)
        if not report["messages"] or report["errors"]["total"]:
            generator.fail("no messages, or errors")
        check_said(generator, [])


def check_unheard_drives(programs, place, stream, output):
    """It tells its result all the same where nobody takes its warning that nobody listens."""
    url = f"ws://127.0.0.1:{free_port()}/ws"
    with unheard(stream, output) as streams, Program(place, drive(programs, url), **streams) as generator:
        report = result(generator, 1)
        if report["errors"]["total"] != report["errors"]["connect"]:
            generator.fail("errors that are none of connecting")


def result(generator, code):
    """What it measured, if it ends with this exit code."""
    if (ended := generator.exit_code()) != code:
        generator.fail(f"exit code {ended} instead of {code}")
    try:
        return json.loads(generator.stdout)
    except ValueError as error:
        generator.fail(f"no result: {error}")


def check_result_is_lost(programs, place, output):
    """A result that cannot be written is an error, which is named."""
    with (
        ordinary_server(programs) as url,
        output() as stdout,
        Program(place, drive(programs, url), stdout=stdout) as generator,
    ):
        check_failure(generator, "No space left")


def check_does_not_drive(programs, place, message):
    """It cannot measure, and says why in one line."""
    with ordinary_server(programs) as url, Program(place, drive(programs, url)) as generator:
        check_failure(generator, message)


def check_failure(program, message):
    if (code := program.exit_code()) != 1:
        program.fail(f"exit code {code} instead of 1")
    check_said(program, [message])


def drive(programs, url):
    return [
        programs / "ringecho-loadtest", url, "--connections=4", "--threads=2",
        "--warmup=50ms", "--duration=300ms", "--json=-",
    ]


@contextlib.contextmanager
def ordinary_server(programs):
    with start(programs, Place(), ["--workers=1"]) as server:
        if not is_ready(server):
            server.fail("the server in an ordinary place has not started")
        yield f"ws://127.0.0.1:{server.port}/ws"


def check_said(program, patterns):
    """Each pattern is in one line of the log, and no line is there twice but for its time."""
    lines = [re.sub(r"^\d{4}-\d\d-\d\dT\S+", "", line) for line in program.stderr.splitlines()]
    for pattern in patterns:
        if (count := sum(bool(re.search(pattern, line)) for line in lines)) != 1:
            program.fail(f"{count} lines say {pattern!r} instead of one")
    for line in lines:
        if NEVER_SAID.search(line):
            program.fail("it said what is never said")
        if line.strip() and lines.count(line) > 1:
            program.fail(f"said more than once: {line}")


# The places.


def checks(programs, work):
    """Each check: its name, its place, the function, and what it is called with."""
    yield from limits()
    yield from filters()
    yield from outputs()
    yield from systems(programs, work)


def limits():
    memory = "lockable memory|RLIMIT_MEMLOCK|ulimit -l"
    # The kernel counts the memory of all processes of a user, and that of rings for a while after their end.
    users = itertools.count(NOBODY, -1)
    cases = [(8192, 28, []), (8192, 96, [memory]), (1024, 3, []), (256, 3, [memory]), (64, 2, [memory])]
    for kib, workers, says in cases:
        server, generator = (
            Place(launch=(f"--user={next(users)}", f"--limit=MEMLOCK={kib << 10}")) for _ in range(2)
        )
        name = f"a user with {kib} KiB of lockable memory"
        yield f"server, {name}, {workers} workers", server, check_serves, [f"--workers={workers}"], says
        yield f"generator, {name}", generator, check_drives
    for descriptors in [64, 1024]:
        place = Place(launch=(f"--limit=NOFILE={descriptors}",))
        yield f"server, {descriptors} descriptors", place, check_serves
        yield f"generator, {descriptors} descriptors", place, check_drives


def filters():
    for error in ["EPERM", "ENOSYS"]:
        for calls in [*([call] for call in IO_URING_CALLS), IO_URING_CALLS]:
            place, name = refusing(error, *calls), f"{error} for {', '.join(calls)}"
            yield f"server, {name}", place, check_serves, [], ["the engine uses epoll"]
            yield f"generator, {name}", place, check_drives
    for call in SERVER_CALLS:
        for plane, flags in PLANES.items():
            name, place = f"server, {plane}, EPERM for {call}", refusing("EPERM", call)
            if message := SERVER_NEEDS.get(call):
                yield name, place, check_refuses, flags, message
            elif call in SERVER_MAY_NEED:
                yield name, place, check_serves_or_refuses, flags
            else:
                yield name, place, check_serves, flags, SERVER_SAYS.get(call, [])
    for call in GENERATOR_CALLS:
        name, place = f"generator, EPERM for {call}", refusing("EPERM", call)
        if message := GENERATOR_NEEDS.get(call):
            yield name, place, check_does_not_drive, message
        else:
            yield name, place, check_drives


def outputs():
    """The log and the ready line where nobody takes them. A result that nobody takes is an error."""
    for stream in ["stdout", "stderr"]:
        for name, place, output in [
            ("closed", Place(launch=(f"--close={stream}",)), None),
            ("/dev/full", Place(), full_device),
            ("a pipe without a reader", Place(), pipe_without_reader),
            ("a pipe whose reader stands still", Place(), pipe_that_is_full),
            ("on a full disk", on_full_disk(stream), None),
        ]:
            yield f"server, {stream} {name}", place, check_unheard_serves, stream, output
            if stream == "stderr":
                yield f"generator, {stream} {name}", place, check_unheard_drives, stream, output
    yield "generator, stdout /dev/full", Place(), check_result_is_lost, full_device


@contextlib.contextmanager
def full_device():
    with open("/dev/full", "wb") as device:
        yield device


@contextlib.contextmanager
def pipe_without_reader():
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


@contextlib.contextmanager
def pipe_that_is_full():
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, bytes(4096))
    os.set_blocking(write, True)
    yield write
    os.close(read)
    os.close(write)


def on_full_disk(stream):
    descriptor = {"stdout": 1, "stderr": 2}[stream]
    return in_mounts(
        "mount -t tmpfs -o size=4k full /mnt; ! dd if=/dev/zero of=/mnt/log 2>/dev/null",
        redirection=f"{descriptor}>>/mnt/log",
    )


def systems(programs, work):
    """Namespaces, roots, directories, CPUs."""
    root = Path(work) / "root"
    make_bare_root(root, [programs / name for name in ["ringecho", "ringecho-loadtest"]])
    cpus = sorted(os.sched_getaffinity(0))
    for name, place in [
        ("an ordinary place", Place()),
        ("PID 1", Place(around=("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"))),
        ("no /proc", in_mounts("mount -t tmpfs none /proc")),
        ("no /proc and no /sys", in_mounts("mount -t tmpfs none /proc; mount -t tmpfs none /sys")),
        ("a read-only root", in_mounts("mount -o remount,bind,ro /")),
        ("a root with nothing but the programs", Place(launch=(f"--root={root}",))),
        ("that root, as nobody", Place(launch=(f"--root={root}", f"--user={NOBODY}"))),
        ("root in a user namespace", Place(around=("unshare", "--user", "--map-root-user"))),
        ("a deleted current directory", Place(launch=("--in-deleted-directory",))),
        ("no environment", Place(launch=("--without-environment",))),
        *((f"CPU {cpu} alone", Place(launch=(f"--cpu={cpu}",))) for cpu in {cpus[0], cpus[-1]}),
    ]:
        yield f"server, {name}", place, check_serves
        yield f"generator, {name}", place, check_drives


def main():
    programs = Path(sys.argv[1]).absolute()
    words = sys.argv[2:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    counts = dict.fromkeys(["passed", "failed", "skipped"], 0)
    with tempfile.TemporaryDirectory() as work:
        # Whoever the programs run as, they may be read there.
        os.chmod(work, 0o755)
        copies = Path(work) / "bin"
        copies.mkdir()
        for name in ["ringecho", "ringecho-loadtest"]:
            shutil.copy(programs / name, copies)
        with concurrent.futures.ThreadPoolExecutor(CHECKS_AT_ONCE) as pool:
            chosen = (check for check in checks(copies, work) if all(word in check[0] for word in words))
            running = [(check[0], pool.submit(run, copies, *check[1:])) for check in chosen]
            try:
                for name, check in running:
                    counts[tell(name, check)] += 1
            finally:
                pool.shutdown(cancel_futures=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    sys.exit(counts["failed"] > 0)


def run(programs, place, check, *arguments):
    place.check()
    check(programs, place, *arguments)


def tell(name, check):
    """Prints what became of a check, and returns the word for it."""
    try:
        check.result()
    except Skipped as reason:
        print(f"skipped: {name}: {reason}", flush=True)
        return "skipped"
    except Exception as failure:
        what = (str(failure) or repr(failure)).replace("\n", "\n    ")
        print(f"FAILED {name}: {what}", flush=True)
        return "failed"
    print(f"ok {name}", flush=True)
    return "passed"


main()
