#!/usr/bin/env bash
# What is worth trying before a release and takes too long for scripts/ci.sh, some 5 hours in all.
# Run by hand; the kernels' logs and the comparison's results are kept below target/long/.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step 'fuzzing (90 min)'
scripts/fuzz.sh

step 'every test under AddressSanitizer (35 min)'
RINGECHO_TESTS_TLS_SEEDS=10000 scripts/asan.sh

step 'conformance, all of it (40 min)'
WHOLE=1 HTTP2=both scripts/conformance.sh

step 'hostile input (5 min)'
scripts/hostile.sh

step 'a soak (30 min)'
scripts/soak.sh --out target/long/soak

step 'every kernel of both series (60 min)'
# A point release can break what the one before did right.
mapfile -t kernels < <(apt-cache search '^linux-image-6\.(1|12)\..*-cloud-amd64$' | awk '{ print $1 }')
LOGS=target/long scripts/kernels.sh "${kernels[@]}"

step 'comparison (60 min)'
scripts/compare.sh --rounds 15 --svg target/long/ratios.svg
