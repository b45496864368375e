#!/usr/bin/env bash
# Other people's clients against a real server: Python's websockets, node's ws, and the page in
# headless Chromium. Installs them below .tools/ (Chromium from Debian's packages, if missing).
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
coproc server { exec target/release/ringecho --listen 127.0.0.1:0 --log-level warn; }
server_pid=$!
trap 'kill "$server_pid"' EXIT
read -r _ _ url _ <&"${server[0]}"
page=http://${url#ws://}
page=${page%/ws}/

"$python/bin/python" tests/clients/python.py "$url"
node "$node/node.mjs" "$url"
RINGECHO_URL=$page CHROMIUM=$chromium node "$node/page.mjs"
