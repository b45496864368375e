#!/usr/bin/env bash
# Other people's clients against a real server, on each data plane, with and without compression:
# Python's websockets, node's ws, and the page in headless Chromium. PLANES: see each-server.sh.
# Installs the clients below .tools/ (Chromium from Debian's packages, if missing).
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

run_clients() {
  local url=$1 compression=$2 page=http://${1#ws://}
  "$python/bin/python" tests/clients/python.py "$url" "$compression"
  node "$node/node.mjs" "$url" "$compression"
  RINGECHO_URL=${page%/ws}/ CHROMIUM=$chromium COMPRESSION=$compression node "$node/page.mjs"
}

. scripts/each-server.sh
each_server run_clients
