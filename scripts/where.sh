#!/usr/bin/env bash
# Starts both programs in odd places: as an ordinary user with little lockable memory, with few
# descriptors, where a container's filter refuses system calls, where nobody reads the log or the disk
# is full, as PID 1, without /proc, on a read-only or bare root, on one CPU. Each has to echo, to say
# once what it does without, and to stop in order, or to refuse to start and say why.
#
#   scripts/where.sh            every check
#   scripts/where.sh WORD...    those whose name has all of these words, such as `epoll recvfrom`
#
# Prints a line for each check, and the program's own output if it failed. What this machine cannot
# make is skipped, with the reason. Wants root, whom most places need. Installs the client of the
# checks, Python's websockets, below .tools/.
#
# Exit code: 0 if no check failed.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$PWD/.tools/python
[ -x "$python/bin/python" ] || python3 -m venv "$python"
"$python/bin/pip" install --quiet --disable-pip-version-check --requirement tests/clients/requirements.txt

cargo build --release --locked --bins
exec "$python/bin/python" tests/where/run.py "${CARGO_TARGET_DIR:-target}/release" "$@"
