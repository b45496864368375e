#!/bin/sh
# What a kernel must do for ringecho: the tests, a load test and a wake-up test on each data plane
# and driver, and a load test over a bad network if NETEM is set. Runs on this machine and in the emulator, where busybox is all there is; see
# scripts/kernels.sh, which makes DIRECTORY.
#
#   trial.sh DIRECTORY
#
# DIRECTORY holds bin/ (both programs), tests/ (the tests' binaries) and exclusions.txt. Each check is
# one line on standard output, `ok ...` or `FAILED ...`, the output of a failed one indented below it.
# `start|KERNEL|FLAGS|READY LINE|LOG` tells what a server said. The last line is `done: N passed, N failed`.
set -u

directory=$1
work=$(mktemp -d)
# Debian's releases stay the same over several versions of Linux, which uname says elsewhere.
version=$(uname -v | sed -n 's/.*Debian \([^ ]*\).*/ (\1)/p')
kernel=$(uname -r)$version
passed=0
failed=0

# No echo takes so long, unless nothing announced its message and the sweep, once a second, found it.
readonly LATE_US=200000
# The tests of a binary, the server and a run of the generator are done well before.
readonly TESTS_WITHIN_SECONDS=600 READY_WITHIN_SECONDS=30

ok() {
    passed=$((passed + 1))
    echo "ok $*"
}

# failed_with FILE WHAT...: and FILE is the output that tells why.
failed_with() {
    output=$1
    shift
    failed=$((failed + 1))
    echo "FAILED $*"
    sed 's/^/    /' "$output"
}

# Runs all tests of a binary but the excluded ones, and counts that they ran.
run_tests() {
    binary=$1
    name=$(basename "$binary")
    : >"$work/stale"
    sed -n "s/^$name \([^ ]*\).*/\1/p" "$directory/exclusions.txt" >"$work/excluded"
    "$binary" --list 2>/dev/null | sed -n 's/: test$//p' >"$work/all"
    skips=
    while read -r part; do
        grep -qF "$part" "$work/all" || echo "$part is no test's name" >>"$work/stale"
        skips="$skips --skip $part"
    done <"$work/excluded"
    if [ -s "$work/excluded" ]; then
        grep -vFf "$work/excluded" "$work/all" >"$work/selected"
    else
        cp "$work/all" "$work/selected"
    fi
    selected=$(wc -l <"$work/selected")
    began=$(date +%s)
    # The names in $skips are words on purpose.
    # shellcheck disable=SC2086
    timeout "$TESTS_WITHIN_SECONDS" "$binary" $skips >"$work/tests" 2>&1 </dev/null
    status=$?
    took=$(($(date +%s) - began))
    if [ -s "$work/stale" ]; then
        failed_with "$work/stale" "$name: exclusions.txt is not up to date"
    elif [ "$status" -eq 0 ] && [ "$selected" -gt 0 ] &&
        grep -q "^test result: ok. $selected passed; 0 failed; 0 ignored;" "$work/tests"; then
        ok "$name: $selected tests, $took s"
    else
        failed_with "$work/tests" "$name: exit code $status, $selected tests to be run, $took s"
    fi
}

# Whether this kernel should carry an engine on a ring: from 6.12 on.
carries_ring() {
    IFS=.- read -r major minor _ <<EOF
$kernel
EOF
    [ $((major * 1000 + minor)) -ge 6012 ]
}

# number OBJECT KEY: a number of the generator's last result.
number() {
    awk -v object="\"$1\":" -v key="\"$2\":" '
        /^  "/ { inside = $1 == object }
        inside && $1 == key { sub(/,$/, "", $2); print $2; exit }
    ' "$work/result"
}

# Starts a server with these flags; sets server_pid and url.
start_server() {
    # The flags are words on purpose.
    # shellcheck disable=SC2086
    "$directory/bin/ringecho" --listen 127.0.0.1:0 $1 >"$work/ready" 2>"$work/log" &
    server_pid=$!
    waited=0
    url=
    while [ -z "$url" ] && [ "$waited" -lt "$READY_WITHIN_SECONDS" ] && kill -0 "$server_pid" 2>/dev/null; do
        sleep 1
        waited=$((waited + 1))
        url=$(sed -n 's/^listening on \(ws:[^ ]*\).*/\1/p' "$work/ready")
    done
    [ -n "$url" ]
}

# drive SECONDS FLAGS...: runs the generator; fails if an echo was wrong or there was none.
drive() {
    seconds=$1
    shift
    : >"$work/result"
    timeout $((seconds + 60)) "$directory/bin/ringecho-loadtest" "$url" --threads 1 \
        --duration "${seconds}s" --json "$work/result" "$@" >"$work/driven" 2>&1
    status=$?
    errors=$(number errors total)
    p50_us=$(number latency_us p50)
    max_us=$(number latency_us max)
    {
        echo "exit code $status, errors ${errors:-unknown}"
        echo "p50 ${p50_us:-unknown} us, at most ${max_us:-unknown} us"
        cat "$work/log"
    } >>"$work/driven"
    [ "$status" -eq 0 ] && [ "$errors" = 0 ]
}

is_below_late() {
    awk -v latency="$1" -v late="$LATE_US" 'BEGIN { exit !(latency != "" && latency < late) }'
}

try_load() {
    if drive 2 --connections 8 --warmup 200ms && is_below_late "$p50_us"; then
        ok "load, $1: p50 $p50_us us"
    else
        failed_with "$work/driven" "load, $1"
    fi
}

# 200 messages on one connection that is idle in between: whoever waits for them has to be woken. A
# busy host can hold up an emulator for as long as a lost wake-up, but not in each of five runs.
try_wake_ups() {
    runs=1
    while [ "$runs" -lt 5 ] && ! are_wake_ups_in_time; do
        runs=$((runs + 1))
    done
    if [ "$runs" -lt 5 ] || are_wake_ups_in_time; then
        ok "wake-ups, $1: $(number latency_us samples) messages, p50 $p50_us us, at most $max_us us"
    else
        failed_with "$work/driven" "wake-ups, $1"
    fi
}

are_wake_ups_in_time() {
    drive 4 --connections 1 --rate 50 --wait sleep --warmup 0s && is_below_late "$max_us"
}

# A load over a network that delays, reorders, loses and duplicates packets in both directions. TCP makes
# up for all of it: every echo is right, though late.
try_bad_network() {
    bad='delay 3ms 2ms loss 2% duplicate 2%'
    # The options are words on purpose.
    # shellcheck disable=SC2086
    "$directory/bin/tc" qdisc add dev lo root netem $bad 2>"$work/driven"
    if ! drive 5 --connections 8 --payload 16..64KiB --warmup 0s; then
        failed_with "$work/driven" "bad network, $1"
    else
        "$directory/bin/tc" -s qdisc show dev lo >"$work/network"
        dropped=$(sed -n 's/.*(dropped \([0-9]*\),.*/\1/p' "$work/network")
        if [ "${dropped:-0}" -gt 0 ]; then
            ok "bad network, $1: $bad, $dropped packets dropped, p50 $p50_us us, at most $max_us us"
        else
            failed_with "$work/network" "bad network, $1: no packet was dropped"
        fi
    fi
    "$directory/bin/tc" qdisc del dev lo root
}

# A server stops in order, and says of no wake-up that it came late.
try_stop() {
    kill "$server_pid"
    wait "$server_pid"
    status=$?
    late=$(sed -n 's/.* late_wake_ups=\([0-9]*\).*/\1/p' "$work/log")
    if [ "$status" -eq 0 ] && [ "${late:-0}" -eq 0 ]; then
        ok "stop, $1"
    else
        failed_with "$work/log" "stop, $1: exit code $status, late wake-ups ${late:-not counted}"
    fi
}

# What a server said when it started: the ready line without its port, and the log without the time and
# the number of connections, which is the machine's.
tell_start() {
    ready=$(sed 's/^.*(\(.*\))$/\1/' "$work/ready")
    log=$(sed '/ connections at a time: /d; s/^[^ ]* *\([A-Z]*\) [^ ]*: /\1: /' "$work/log" | paste -sd ';' -)
    echo "start|$kernel|$1|$ready|$log"
}

# try_plane FLAGS WORDS: a server with these flags, whose ready line must end in WORDS.
try_plane() {
    shown=${1:-default flags}
    if ! start_server "$1"; then
        kill "$server_pid" 2>/dev/null
        failed_with "$work/log" "start, $shown"
        return
    fi
    tell_start "$shown"
    if grep -q " $2)\$" "$work/ready"; then
        ok "start, $shown"
    else
        failed_with "$work/ready" "start, $shown: $2 is wanted"
    fi
    try_load "$shown"
    try_wake_ups "$shown"
    [ -z "${NETEM:-}" ] || try_bad_network "$shown"
    try_stop "$shown"
}

# A server that is told to run its engine on a ring refuses to start where it cannot, and says why.
try_refusal() {
    flags='--driver io_uring --data-plane engine'
    # The flags are words on purpose.
    # shellcheck disable=SC2086
    timeout "$READY_WITHIN_SECONDS" "$directory/bin/ringecho" --listen 127.0.0.1:0 $flags \
        >"$work/ready" 2>"$work/log"
    status=$?
    tell_start "$flags"
    if [ "$status" -eq 1 ] && grep -q '^error: --data-plane engine with --driver io_uring: ' "$work/log"; then
        ok "refusal, $flags"
    else
        failed_with "$work/log" "refusal, $flags: exit code $status"
    fi
}

echo "kernel $kernel"
if carries_ring; then
    try_plane '' 'io_uring with engine'
else
    try_plane '' 'epoll with engine'
    try_refusal
fi
try_plane '--driver epoll' 'epoll with engine'
try_plane '--data-plane portable' 'io_uring'
try_plane '--driver epoll --data-plane portable' 'epoll'
for binary in "$directory"/tests/*; do
    run_tests "$binary"
done
rm -r "$work"
echo "done: $passed passed, $failed failed"
