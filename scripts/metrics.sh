#!/usr/bin/env bash
# Metrics as an operator has them: a real Prometheus scrapes a server under the generator's load. Every
# query of docs/operate/grafana.json and every side of an alert in docs/operate/alerts.yml must return a
# number, promtool must accept metrics and alerts, and the totals must balance.
#
#   scripts/metrics.sh          builds both programs first
#   BIN=DIR scripts/metrics.sh  with the programs in that folder
#
# Prometheus comes from Debian's packages if it is missing; it is only unpacked, below .tools/, since
# installing it would start it. Ends by itself within two minutes, once the programs are built.
#
# Exit code: 0 if nothing failed.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$PWD/.tools
python=$tools/python/bin
package=$tools/prometheus

[ -x "$python/python" ] || python3 -m venv "$tools/python"
"$python/python" -m pip install --quiet --disable-pip-version-check --requirement tests/metrics/requirements.txt

prometheus=$(command -v prometheus || true)
promtool=$(command -v promtool || true)
if [ -z "$prometheus" ] || [ -z "$promtool" ]; then
  prometheus=$package/usr/bin/prometheus
  promtool=$package/usr/bin/promtool
  if [ ! -x "$prometheus" ]; then
    mkdir -p "$package"
    apt-get update --quiet=2
    (cd "$package" && apt-get download --quiet=2 prometheus && dpkg --extract prometheus_*.deb . && rm prometheus_*.deb)
  fi
fi

if [ -z "${BIN:-}" ]; then
  cargo build --release --locked --bins
  BIN=${CARGO_TARGET_DIR:-target}/release
fi
exec "$python/python" tests/metrics/run.py "$BIN" "$prometheus" "$promtool"
