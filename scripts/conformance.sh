#!/usr/bin/env bash
# The Autobahn conformance cases (PyPI's kosoku) against a real server, on each data plane, with and
# without compression. Installs the suite below .tools/. WAYS: see each-server.sh; WHOLE=1 runs the
# cases too that take longer than all others together. HTTP2=1 runs them over HTTP/2 (RFC 8441), through
# a bridge that gives each connection of the suite a stream; HTTP2=both runs them over each.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=$PWD/.tools/conformance
mkdir --parents .tools
(
  # ci.sh runs two of these at once: the first one installs.
  flock 9
  [ -x "$suite/bin/python" ] || python3 -m venv "$suite"
  "$suite/bin/pip" install --quiet --disable-pip-version-check --requirement tests/conformance/requirements.txt
) 9<.tools

# Cases send up to 16 MiB before they read anything.
SERVER_FLAGS=(--unsent-max 32MiB)
. scripts/each-server.sh

over_http2() {
  local url=$1 compression=$2 bridge bridge_pid
  exec {bridge}< <(exec "$suite/bin/python" tests/conformance/bridge.py "$url")
  bridge_pid=$!
  read -r url <&"$bridge"
  "$suite/bin/python" tests/conformance/run.py "$url" "$compression"
  kill "$bridge_pid"
  exec {bridge}<&-
}

over_each() {
  case ${HTTP2:-} in
    1) over_http2 "$@" ;;
    both)
      "$suite/bin/python" tests/conformance/run.py "$@"
      printf -- '-- the same, over HTTP/2\n'
      over_http2 "$@"
      ;;
    *) "$suite/bin/python" tests/conformance/run.py "$@" ;;
  esac
}

each_server over_each
