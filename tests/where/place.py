"""A place for a program: limits, privileges, refused system calls, namespaces. And a program in one."""

import dataclasses
import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LAUNCH = Path(__file__).with_name("launch.py")

# Far longer than anything here takes; what is not over by then hangs.
PATIENCE_SECONDS = 15


class Failure(Exception):
    """What is not as it should be, and what the program said."""


class Skipped(Exception):
    """Why this machine cannot make a place."""


@dataclasses.dataclass(frozen=True)
class Place:
    """The flags of launch.py, and a command around it that makes namespaces and mounts."""

    launch: tuple = ()
    around: tuple = ()

    def command(self, program):
        return [*self.around, sys.executable, str(LAUNCH), *self.launch, "--", *program]

    def check(self):
        """Raises Skipped if this place is refused here."""
        if os.geteuid() != 0 and any(flag.startswith(("--user", "--root")) for flag in self.launch):
            raise Skipped("another user and another root take root")
        if self.around:
            tried = subprocess.run([*self.around, "true"], capture_output=True, text=True)
            if tried.returncode != 0:
                raise Skipped(" ".join(tried.stderr.split()))


def _system_calls():
    """The numbers of the system calls, by name."""
    macros = subprocess.run(
        ["cc", "-E", "-dM", "-include", "sys/syscall.h", "-xc", "/dev/null"],
        capture_output=True, text=True, check=True,
    )
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", macros.stdout)}


SYSTEM_CALLS = _system_calls()


def refusing(error, *calls):
    """Where these calls fail with an error such as "EPERM"; one may be "setsockopt TCP_NODELAY"."""
    refused = []
    for call in calls:
        call, _, option = call.partition(" ")
        # An option is the call's third argument.
        argument = f":2={getattr(socket, option)}" if option else ""
        refused.append(f"--refuse={getattr(errno, error)}:{SYSTEM_CALLS[call]}{argument}")
    return Place(launch=tuple(refused))


def in_mounts(script, redirection=""):
    """Where a shell script has changed the mounts of this process alone."""
    return Place(around=("unshare", "--mount", "sh", "-ec", f'{script}; exec "$@" {redirection}', "sh"))


def make_bare_root(root, programs):
    """A root with nothing but the programs and their libraries, as in an image made from scratch."""
    linked = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    for path in [*map(str, programs), *set(re.findall(r"(/\S+\.so\S*)", linked))]:
        copy = root / path.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


class Program:
    """A running program. What it says is kept in files, unless it is given other descriptors."""

    def __init__(self, place, command, stdout=None, stderr=None):
        self._said = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]
        self.process = subprocess.Popen(
            place.command(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=self._said[0] if stdout is None else stdout,
            stderr=self._said[1] if stderr is None else stderr,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.kill()
        self.process.wait()
        for file in self._said:
            file.close()

    @property
    def stdout(self):
        return self._read(0)

    @property
    def stderr(self):
        return self._read(1)

    def _read(self, stream):
        # Not by seeking: the program writes where this file's position is.
        file = self._said[stream]
        return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")

    def fail(self, what):
        raise Failure(f"{what}\n{self.stdout}{self.stderr}".rstrip())

    def pid(self):
        """That of the program: what makes a PID namespace for it remains its parent."""
        pid = self.process.pid
        while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            pid = int(children[0])
        return pid

    def signal(self, number):
        try:
            os.kill(self.pid(), number)
        except (FileNotFoundError, ProcessLookupError):
            pass  # It has just ended, which whoever waits for it finds out.

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.pid()}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def exit_code(self):
        try:
            return self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.fail(f"it has not ended within {PATIENCE_SECONDS} s")

    def wait_for(self, what, condition):
        """Whether the condition comes to hold before the program ends."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > end:
                self.fail(f"{what} has not come within {PATIENCE_SECONDS} s")
            time.sleep(0.02)
        return True
