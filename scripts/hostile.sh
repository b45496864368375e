#!/usr/bin/env bash
# What hostile input costs the server, on each data plane and driver: its memory before, how much more it takes
# at the most, and CPU. The tests of tests/suite/hostile.rs, on a release build.
set -euo pipefail
cd "$(dirname "$0")/.."

echo '| input | flag | memory before | more, at the most | CPU |'
echo '| --- | --- | --: | --: | --: |'
cargo test --release --locked --package ringecho --test suite -- \
  hostile --nocapture --test-threads=1 | sed --quiet 's/^[^|]*|/|/p'
