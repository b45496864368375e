#!/usr/bin/env bash
# Builds ringecho, its peers and the load generator, and compares them on this machine, in turns:
# what a message costs each server, beside what it costs a raw TCP echo.
#
#   scripts/compare.sh                               every server, every case
#   scripts/compare.sh uws='./uws-echo {port}'       with a server of yours
#   scripts/compare.sh --rates                       at 5,000, 20,000 and 50,000 messages/s
#   scripts/compare.sh --sweep payload --svg FILE    the cost over one thing, as a plot
#   scripts/compare.sh --boards                      as public boards do: many connections, memory
#   scripts/compare.sh --case churn                  connections that come and go
#   scripts/compare.sh --help                        all flags
#
# The peer on node's ws takes part if node and npm are there; it is installed below .tools/, which
# git ignores.
#
# Environment: PROFILE (release) that all programs are built with. What is compared means something for
#              release alone.
set -euo pipefail

# Files are named as seen from here, also those of the results.
root=$(dirname "$(dirname "$(realpath "$0")")")

PROFILE=${PROFILE:-release}
(cd "$root" && cargo build --profile "$PROFILE" --locked --workspace --bins)

node_ws=()
if command -v node >/dev/null && command -v npm >/dev/null; then
  directory=$root/.tools/node-ws
  mkdir -p "$directory"
  cp "$root"/benches/peers/node-ws/* "$directory"
  if npm install --prefix "$directory" --no-audit --no-fund --no-package-lock --loglevel=error >&2; then
    node_ws=(--node-ws "$directory/echo.mjs")
  else
    echo "npm cannot install ws, so node-ws takes no part" >&2
  fi
fi

exec "${CARGO_TARGET_DIR:-$root/target}/${PROFILE/#dev/debug}/ringecho-compare" "${node_ws[@]}" "$@"
