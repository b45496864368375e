#!/usr/bin/env bash
# Runs the tests under AddressSanitizer, on the system's allocator, which it watches: it finds memory
# that is used after it was freed or beyond its end. It does not see what the kernel does by itself, as
# for a ring; what the kernel of the simulation does, it sees.
#
#   scripts/asan.sh            all tests of both programs that do not measure memory or time
#   scripts/asan.sh --quick    those of the libraries, with the simulation, and of the engine
#
# What is found in a program that a test starts counts too, whatever the test makes of it. Wants a
# nightly compiler.
#
# Exit code: 0 if no test failed and nothing was found.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  '') tests=(--lib --test allocations --test engine --test suite --test program) ;;
  --quick) tests=(--lib --test allocations --test engine) ;;
  *)
    echo "asan.sh: $1: there is no option but --quick" >&2
    exit 2
    ;;
esac

work=$PWD/target/asan
reports=$work/reports
rm -rf "$reports"
mkdir -p "$reports"
# Leaks are not looked for: when a worker ends, monoio keeps the tasks that are not finished, and with them
# the worker; and of each ring it keeps two boxes.
export ASAN_OPTIONS="detect_leaks=0:log_path=$reports/report"
export RUSTFLAGS='-Zsanitizer=address -Cforce-frame-pointers=yes'

fail() {
  printf 'asan.sh: %s\n' "$*" >&2
  exit 1
}

# With a target that is named, procedural macros and build scripts are not watched: the compiler, which
# loads them, is not.
run_cargo() {
  cargo +nightly test --target "$(rustc +nightly --print host-tuple)" --target-dir "$work" --locked \
    --package ringecho --package ringecho-loadtest --no-default-features --features ringecho/server \
    "${tests[@]}" "$@"
}

# Shows that the sanitizer works: it has to find a use after a free.
try_sanitizer() {
  rustc +nightly -Zsanitizer=address -o "$work/faulty" - <<'EOF'
fn main() {
    let boxed = Box::new(1);
    let freed = &raw const *boxed;
    drop(boxed);
    println!("{}", unsafe { freed.read_volatile() });
}
EOF
  ! "$work/faulty" || fail 'a use after a free was not found'
  grep -q heap-use-after-free "$reports"/report.* || fail 'a use after a free was not reported'
  rm "$reports"/report.*
}

# A program that is not watched, or takes its memory from mimalloc, would pass whatever it did.
check_executables() {
  local executables executable symbols
  executables=$(run_cargo --no-run --message-format=json | grep -o '"executable":"[^"]*"' | cut -d '"' -f 4)
  for executable in $executables; do
    symbols=$(nm "$executable")
    grep -q ' __asan_report_load8$' <<<"$symbols" || fail "$executable is not watched"
    ! grep -q ' mi_free$' <<<"$symbols" || fail "$executable is on mimalloc"
  done
}

try_sanitizer
check_executables
code=0
# hostile:: measures the server's memory, most of which is the sanitizer's here, a memory group bounds it,
# fairness:: measures what is served in a time, and those of ports have a second. The sanitizer cannot do
# without /proc, nor without any one system call, which is what those of the sandbox are about. The last
# one deflates and inflates for minutes, in miniz_oxide, which has no unsafe code.
run_cargo --no-fail-fast -- --skip hostile:: --skip program_in_a_memory_group --skip fairness:: --skip sandbox \
  --skip start::server_needs_neither_proc_nor_sys_nor_a_writable_root \
  --skip refused::each_call_may_be_refused_without_a_panic_or_a_hang \
  --skip port_that_is_still_being_closed --skip port_of_a_program_that_was_killed \
  --skip deflate::tests::what_is_deflated_is_inflated_again_wherever_it_is_cut || code=$?
for report in "$reports"/report.*; do
  [ -e "$report" ] || continue
  code=1
  cat "$report" >&2
done
exit "$code"
