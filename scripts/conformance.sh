#!/usr/bin/env bash
# The Autobahn conformance cases (PyPI's kosoku) against a real server, on each data plane, with and
# without compression. Installs the suite below .tools/. WAYS: see each-server.sh; WHOLE=1 runs the
# cases too that take longer than all others together.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=$PWD/.tools/conformance
[ -x "$suite/bin/python" ] || python3 -m venv "$suite"
"$suite/bin/pip" install --quiet --disable-pip-version-check --requirement tests/conformance/requirements.txt

# Cases send up to 16 MiB before they read anything.
SERVER_FLAGS=(--unsent-max 32MiB)
. scripts/each-server.sh
each_server "$suite/bin/python" tests/conformance/run.py
