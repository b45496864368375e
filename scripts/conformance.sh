#!/usr/bin/env bash
# The Autobahn conformance cases (PyPI's kosoku) against a real server, on each data plane, with and
# without compression. Installs the suite below .tools/. PLANES=portable leaves the engine out, where
# the kernel has none; WHOLE=1 runs the cases too that take longer than all others together.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=$PWD/.tools/conformance
[ -x "$suite/bin/python" ] || python3 -m venv "$suite"
"$suite/bin/pip" install --quiet --disable-pip-version-check --requirement tests/conformance/requirements.txt

cargo build --release --locked --package ringecho
server_pid=
trap '[ -z "$server_pid" ] || kill "$server_pid"' EXIT

for plane in ${PLANES:-engine portable}; do
  for compression in off pass-through; do
    printf -- '-- %s, compression %s\n' "$plane" "$compression"
    coproc server { exec target/release/ringecho --listen 127.0.0.1:0 --data-plane "$plane" \
      --compression "$compression" --log-level warn; }
    server_pid=$!
    read -r _ _ url _ <&"${server[0]}"
    "$suite/bin/python" tests/conformance/run.py "$url" "$compression"
    kill "$server_pid"
    wait "$server_pid"
    server_pid=
  done
done
