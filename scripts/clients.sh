#!/usr/bin/env bash
# Other people's clients against a real server, on each data plane, with and without compression:
# Python's websockets, node's ws, and the page in headless Chromium. PLANES=portable leaves the engine
# out, where the kernel has none. Installs them below .tools/ (Chromium from Debian's packages, if missing).
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$PWD/.tools
python=$tools/python
node=$tools/node

[ -x "$python/bin/python" ] || python3 -m venv "$python"
"$python/bin/pip" install --quiet --disable-pip-version-check --requirement tests/clients/requirements.txt
mkdir -p "$node"
cp tests/clients/package.json tests/clients/*.mjs "$node"
npm install --prefix "$node" --no-audit --no-fund --no-package-lock --loglevel=error
chromium=${CHROMIUM:-$(command -v chromium || true)}
if [ -z "$chromium" ]; then
  apt-get update --quiet=2
  apt-get install --quiet=2 --yes --no-install-recommends chromium
  chromium=$(command -v chromium)
fi

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
    page=http://${url#ws://}
    page=${page%/ws}/

    "$python/bin/python" tests/clients/python.py "$url" "$compression"
    node "$node/node.mjs" "$url" "$compression"
    RINGECHO_URL=$page CHROMIUM=$chromium COMPRESSION=$compression node "$node/page.mjs"

    kill "$server_pid"
    wait "$server_pid"
    server_pid=
  done
done
