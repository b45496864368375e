#!/usr/bin/env bash
# Other people's clients against a real server, on each data plane, with and without compression:
# Python's websockets, node's ws, and the page in headless Chromium, each with TLS and without, and
# OpenSSL's client; over HTTP/2 node's http2, Python's h2, nghttp and h2load, and over TLS Chromium's WebSockets, shown
# by its own log; curl, ApacheBench and Python's http.client for plain requests on connections that
# go on. WAYS: see each-server.sh. Proxies are scripts/proxies.sh's.
# Installs the clients below .tools/ (Chromium, ab and h2load from Debian's packages, if missing).
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$PWD/.tools
python=$tools/python
node=$tools/node
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
package_of() {
  case $1 in
    ab) echo apache2-utils ;;
    h2load) echo nghttp2-client ;;
    *) echo "$1" ;;
  esac
}
for tool in curl ab h2load; do
  if ! command -v "$tool" >/dev/null; then
    apt-get update --quiet=2
    apt-get install --quiet=2 --yes --no-install-recommends "$(package_of "$tool")"
  fi
done

run_clients() {
  local url=$1 compression=$2 page=http:${1#ws:}
  "$python/bin/python" tests/clients/python.py "$url" "$compression"
  node "$node/node.mjs" "$url" "$compression"
  "$python/bin/python" tests/clients/python_http2.py "$url" "$compression"
  node "$node/node-http2.mjs" "$url" "$compression"
  run_nghttp2 "${page%/ws}"
  run_page "${page%ws}" "$compression"
  run_requests "${page%/ws}"
  run_over_tls "$compression"
}

# The page and the health check over HTTP/2 with prior knowledge.
run_nghttp2() {
  local server=$1 output
  [ "$(nghttp --no-dep "$server/healthz")" = ok ]
  nghttp --no-dep "$server/" | tail -n 1 | grep -q '</html>'
  output=$(h2load --requests=10000 --clients=4 --max-concurrent-streams=50 "$server/")
  grep -q '^requests: .* 10000 succeeded, 0 failed, 0 errored, 0 timeout' <<<"$output"
  printf 'nghttp and h2load: ok, 10000 pages on 4 connections\n'
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
  RINGECHO_URL=${page%ws} CHROMIUM=$chromium node "$node/chromium-http2.mjs"
  url=${url#wss://}
  for version in tls1_2 tls1_3; do
    printf 'GET /healthz HTTP/1.0\r\n\r\n' |
      openssl s_client -connect "${url%/ws}" "-$version" -CAfile "$tls/certificate.pem" \
        -verify_return_error -alpn http/1.1 -quiet 2>/dev/null |
      grep --quiet '^HTTP/1.1 200'
  done
}

# Plain requests, many on one connection.
run_requests() {
  local url=$1 answers
  "$python/bin/python" tests/clients/requests.py "$url/"
  answers=$(curl --silent --show-error --fail --data hello --header 'Expect: 100-continue' \
    --write-out '%{num_connects}\n' "$url/http" "$url/http" | grep --extended-regexp --only-matching '^[0-9]+$')
  [ "$answers" = $'1\n0' ] || { echo "curl opened connections: $answers" >&2; return 1; }
  printf 'curl: ok, one connection for two requests\n'
  # -k: HTTP/1.0 with keep-alive; ab opens a connection anew only where one was closed.
  answers=$(ab -q -k -n 500 -c 5 "$url/")
  for line in 'Complete requests: +500' 'Failed requests: +0' 'Keep-Alive requests: +500'; do
    grep --extended-regexp --quiet "^$line$" <<<"$answers" || { echo "$answers" >&2; return 1; }
  done
  printf 'ab: ok, 500 requests on 5 connections\n'
}

run_page() {
  RINGECHO_URL=$1 CHROMIUM=$chromium COMPRESSION=$2 node "$node/page.mjs"
}

mkdir -p "$tls"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
  -keyout "$tls/key.pem" -out "$tls/certificate.pem" 2>/dev/null
# shellcheck disable=SC2034  # each_server reads it
SERVER_FLAGS=(--http-echo /http --listen tls+127.0.0.1:0 --tls-cert "$tls/certificate.pem" --tls-key "$tls/key.pem")
. scripts/each-server.sh
each_server run_clients
