#!/usr/bin/env bash
# The Autobahn conformance cases (PyPI's kosoku) against a real server, on each data plane. Installs
# the suite below .tools/. PLANES=portable leaves the engine out, where the kernel has none.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=$PWD/.tools/conformance
[ -x "$suite/bin/python" ] || python3 -m venv "$suite"
"$suite/bin/pip" install --quiet --disable-pip-version-check --requirement tests/conformance/requirements.txt

cargo build --release --locked --package ringecho
server_pid=
trap '[ -z "$server_pid" ] || kill "$server_pid"' EXIT

for plane in ${PLANES:-engine portable}; do
  printf -- '-- %s\n' "$plane"
  coproc server { exec target/release/ringecho --listen 127.0.0.1:0 --data-plane "$plane" --log-level warn; }
  server_pid=$!
  read -r _ _ url _ <&"${server[0]}"
  "$suite/bin/python" tests/conformance/run.py "$url" 1 2 3 4 5 6 7 9 10
  kill "$server_pid"
  wait "$server_pid"
  server_pid=
done
