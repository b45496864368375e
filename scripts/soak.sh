#!/usr/bin/env bash
# Runs the server for long under everything that clients do, mixed by a seed at full rate: connecting,
# echoing, reading slowly, violating the protocol, aborting, idling; in the first third the server is
# also drained and replaced, or taken over where it can be. Each second is a line of soak.csv: resident
# memory, descriptors, threads, the kernel's memory for TCP, and every counter where there are metrics.
#
#   scripts/soak.sh                      30 minutes
#   scripts/soak.sh --minutes 3          so many
#   scripts/soak.sh --seed 7             another mix; the seed is printed
#   scripts/soak.sh --out FOLDER         soak.csv, soak.svg and server.log go there (target/soak)
#   scripts/soak.sh --flags='--driver epoll'   further flags of the server
#   scripts/soak.sh --check FILE.csv     judges what was recorded before
#
# Fails if memory, descriptors or threads grow (by a line through the last two thirds; the bounds and
# their reasons are in tests/soak/series.py), if an echo is wrong, if a client other than the hostile
# ones is ended, or if the totals do not balance. Needs python3 alone.
#
# Environment: BIN (none), a folder with both programs; without it a release build is made.
# Exit code:   0 if nothing failed, 1 if something did, 2 if a flag is wrong.
set -euo pipefail
cd "$(dirname "$0")/.."

case " $* " in *' --check '* | *' --help '* | *' -h '*) exec python3 -B tests/soak/run.py "$@" ;; esac

if [[ -z ${BIN:-} ]]; then
    cargo build --release --locked --bins
    BIN=${CARGO_TARGET_DIR:-target}/release
fi
exec python3 -B tests/soak/run.py --programs "$BIN" "$@"
