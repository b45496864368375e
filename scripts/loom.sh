#!/usr/bin/env bash
# Tries every order in which threads can meet where they share something: the balance between
# workers, and their pauses when descriptors are used up.
# Bounded is how often a thread is interrupted. Prints how many orders were tried.
#
#   scripts/loom.sh
#
# Builds below target/loom/, since `--cfg loom` is a flag of every crate.
#
# Exit code: 0 if every order is right.
set -euo pipefail
cd "$(dirname "$0")/.."

RUSTFLAGS='--cfg loom' cargo test --locked --package ringecho-loom --lib \
  --target-dir "${CARGO_TARGET_DIR:-target}/loom" --config 'profile.dev.opt-level=2' -- --nocapture
