#!/usr/bin/env bash
# Builds the server and the load generator, runs the one against the other, each on CPUs of its
# own, and prints throughput, latency and the server's CPU time per message as a table.
#
#   scripts/loadtest.sh                                     the table
#   scripts/loadtest.sh --connections 500 --payload 1KiB    one run, with these flags of
#                                                           ringecho-loadtest
#
# Environment: DURATION (5s) and WARMUP (1s) of each run, CONNECTIONS (64),
#              SERVER_FLAGS (none), more flags for the server; REPORTS (none), a folder for an
#              HTML report of each run in the table.
# Exit code:   0 if every message of every run was echoed correctly.
set -euo pipefail

cd "$(dirname "$0")/.."

readonly DURATION=${DURATION:-5s} WARMUP=${WARMUP:-1s} CONNECTIONS=${CONNECTIONS:-64}
readonly PAYLOADS=(64 1KiB 16KiB) DEPTHS=(1 16)
readonly BIN=${CARGO_TARGET_DIR:-target}/release
# The server is ready well before.
readonly READY_WITHIN_SECONDS=10

fail() {
    echo "error: $*" >&2
    exit 1
}

# The CPUs that this process may use, one a line.
allowed_cpus() {
    local ranges part
    ranges=$(awk '/^Cpus_allowed_list:/ { print $2 }' /proc/self/status)
    for part in ${ranges//,/ }; do
        seq "${part%-*}" "${part#*-}"
    done
}

# Sets server_cpus to the first half of the CPUs and generator_cpus to the others.
share_cpus() {
    local cpus half
    mapfile -t cpus < <(allowed_cpus)
    half=$((${#cpus[@]} / 2))
    if ((half == 0)); then
        server_cpus=${cpus[0]}
        generator_cpus=$server_cpus
        echo "There is one CPU: server and generator share it, so neither shows what it can do." >&2
    else
        server_cpus=$(IFS=, && echo "${cpus[*]:0:half}")
        generator_cpus=$(IFS=, && echo "${cpus[*]:half}")
    fi
}

clean_up() {
    if [[ -n $server_pid ]]; then
        kill "$server_pid" 2>/dev/null || true
        wait "$server_pid" 2>/dev/null || true
    fi
    rm -rf "$work_dir"
}

# Ends a run early, which prints what it has measured until then.
interrupt() {
    if [[ -n $generator_pid ]]; then
        kill -INT "$generator_pid" 2>/dev/null || true
        wait "$generator_pid" || true
    fi
    exit "$1"
}

# Both programs get sessions of their own, so that a Ctrl-C reaches this script alone and they end
# in order: first the generator, then the server.

# Starts the server on an ephemeral port; sets server_pid and url.
start_server() {
    local said=$work_dir/server.out deadline=$((SECONDS + READY_WITHIN_SECONDS))
    # SERVER_FLAGS is a list of words on purpose.
    # shellcheck disable=SC2086
    setsid "$BIN/ringecho" --listen 127.0.0.1:0 --cpus "$server_cpus" --log-level warn \
        ${SERVER_FLAGS:-} >"$said" &
    server_pid=$!
    url=
    while [[ -z $url ]]; do
        kill -0 "$server_pid" 2>/dev/null || fail "the server did not start"
        ((SECONDS < deadline)) || fail "the server was not ready in $READY_WITHIN_SECONDS s"
        sleep 0.05
        url=$(sed -n 's/^listening on \(ws:[^ ]*\).*/\1/p' "$said")
    done
    cat "$said" >&2
}

# Runs the generator against the server.
drive() {
    local status=0
    setsid "$BIN/ringecho-loadtest" "$url" --cpus "$generator_cpus" --server-pid "$server_pid" \
        --connections "$CONNECTIONS" --duration "$DURATION" --warmup "$WARMUP" "$@" &
    generator_pid=$!
    wait "$generator_pid" || status=$?
    generator_pid=
    return "$status"
}

# number OBJECT KEY: a number of the last result; of the result itself if OBJECT is "".
number() {
    awk -v object="$1" -v key="\"$2\":" '
        /^  "/ { inside = object == "" || $1 == "\"" object "\":" }
        inside && $1 == key { sub(/,$/, "", $2); print $2; exit }
    ' "$work_dir/result.json"
}

print_table() {
    local row='%8s %6s %12s %9s %9s %9s %9s %11s %11s %7s\n' status=0 payload depth
    # shellcheck disable=SC2059
    printf "$row" payload depth messages/s MB/s 'p50 us' 'p99 us' 'p99.9 us' \
        'server CPU' 'client CPU' errors
    for payload in "${PAYLOADS[@]}"; do
        for depth in "${DEPTHS[@]}"; do
            drive --payload "$payload" --depth "$depth" --json "$work_dir/result.json" \
                ${REPORTS:+--html="$REPORTS/${payload}x$depth.html"} >/dev/null || status=1
            # shellcheck disable=SC2059
            printf "$row" "$payload" "$depth" \
                "$(printf '%.0f' "$(number '' messages_per_second)")" \
                "$(printf '%.1f' "$(number '' payload_megabytes_per_second)")" \
                "$(printf '%.0f' "$(number latency_us p50)")" \
                "$(printf '%.0f' "$(number latency_us p99)")" \
                "$(printf '%.0f' "$(number latency_us p99_9)")" \
                "$(printf '%.2f us' "$(number server total)")" \
                "$(printf '%.2f us' "$(number generator total)")" \
                "$(number errors total)"
        done
    done
    echo
    echo "$CONNECTIONS connections, $DURATION each after $WARMUP; CPU time is per message;" \
        "server on CPUs $server_cpus, generator on CPUs $generator_cpus"
    return "$status"
}

cargo build --release --bins

server_pid='' generator_pid=''
work_dir=$(mktemp -d)
trap clean_up EXIT
trap 'interrupt 130' INT
trap 'interrupt 143' TERM
share_cpus
start_server
if (($# > 0)); then
    drive "$@"
else
    [[ -z ${REPORTS:-} ]] || mkdir -p "$REPORTS"
    print_table
fi
