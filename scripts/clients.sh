#!/usr/bin/env bash
# Other people's clients against a real server, on each data plane, with and without compression:
# Python's websockets, node's ws, and the page in headless Chromium, each with TLS and without, and
# OpenSSL's client; and once the page behind nginx, over TLS and below a prefix. WAYS: see
# each-server.sh.
# Installs the clients below .tools/ (Chromium from Debian's packages, if missing; nginx from them is
# only unpacked there, since installing it would start it).
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$PWD/.tools
python=$tools/python
node=$tools/node
proxy=$tools/nginx
tls=$tools/tls

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
nginx=${NGINX:-$(command -v nginx || true)}
if [ -z "$nginx" ]; then
  nginx=$proxy/usr/sbin/nginx
  if [ ! -x "$nginx" ]; then
    mkdir -p "$proxy"
    apt-get update --quiet=2
    (cd "$proxy" && apt-get download --quiet=2 nginx && dpkg --extract nginx_*.deb . && rm nginx_*.deb)
  fi
fi

run_clients() {
  local url=$1 compression=$2 page=http:${1#ws:}
  "$python/bin/python" tests/clients/python.py "$url" "$compression"
  node "$node/node.mjs" "$url" "$compression"
  run_page "${page%ws}" "$compression"
  run_over_tls "$compression"
  [ -n "$proxy_ran" ] || run_behind_proxy "$url" "$compression"
  proxy_ran=1
}

# The same clients at the server's second listener, which speaks TLS.
run_over_tls() {
  local compression=$1 url page version
  # shellcheck disable=SC2154  # each_server has it
  read -r _ _ url _ <&"${server[0]}"
  page=https:${url#wss:}
  printf -- '-- over TLS\n'
  SSL_CERT_FILE=$tls/certificate.pem "$python/bin/python" tests/clients/python.py "$url" "$compression"
  NODE_EXTRA_CA_CERTS=$tls/certificate.pem node "$node/node.mjs" "$url" "$compression"
  run_page "${page%ws}" "$compression"
  url=${url#wss://}
  for version in tls1_2 tls1_3; do
    printf 'GET /healthz HTTP/1.0\r\n\r\n' |
      openssl s_client -connect "${url%/ws}" "-$version" -CAfile "$tls/certificate.pem" \
        -verify_return_error -alpn http/1.1 -quiet 2>/dev/null |
      grep --quiet '^HTTP/1.1 200'
  done
}

run_page() {
  RINGECHO_URL=$1 CHROMIUM=$chromium COMPRESSION=$2 node "$node/page.mjs"
}

# The page as nginx has it at /echo/ and at /echo.
run_behind_proxy() {
  local server=${1#ws://} compression=$2 port
  server=${server%/ws}
  port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
  printf -- '-- behind nginx\n'
  mkdir -p "$proxy/run"
  sed "s|PORT|$port|; s|SERVER|$server|" tests/clients/nginx.conf >"$proxy/run/nginx.conf"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
    -keyout "$proxy/run/key.pem" -out "$proxy/run/certificate.pem" 2>/dev/null
  (
    "$nginx" -p "$proxy/run/" -c nginx.conf -e stderr &
    nginx_pid=$!
    trap 'kill "$nginx_pid"' EXIT
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
      kill -0 "$nginx_pid"
      sleep 0.1
    done
    for page in "https://127.0.0.1:$port/echo/" "https://127.0.0.1:$port/echo"; do
      run_page "$page" "$compression"
    done
  )
}

mkdir -p "$tls"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
  -keyout "$tls/key.pem" -out "$tls/certificate.pem" 2>/dev/null
# shellcheck disable=SC2034  # each_server reads it
SERVER_FLAGS=(--listen tls+127.0.0.1:0 --tls-cert "$tls/certificate.pem" --tls-key "$tls/key.pem")

proxy_ran=
. scripts/each-server.sh
each_server run_clients
