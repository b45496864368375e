#!/usr/bin/env bash
# Counts the instructions that the benchmarks take, with callgrind. Unlike times, two counts on one
# machine can be compared however busy it is. (On another CPU other vector code may be chosen.)
#
#   scripts/bench-compare.sh        the working tree's counts
#   scripts/bench-compare.sh REV    the counts of revision REV and of the working tree, side by side
#
# What is counted is criterion's benchmarks that use benches/measure, all but the peers' (ids with
# -by-) and the round trip, which like the other benchmarks is the kernel's and several threads'
# work; and the whole program on epoll under a load in lock-step (ids with server/), by message and
# by cycle of a connection. That load is benches/lockstep.rs of the working tree, for both programs.
# The first run installs valgrind from Debian's packages, if it is missing.
#
# Each tree is built as for a release, so the first run takes minutes.
#
# Exit code: 0 if no benchmark takes more than 3 % more instructions than at REV, and none of the
#              whole program more than 2 % more,
#            1 if one does, 2 if the counts cannot be had.
set -euo pipefail

cd "$(dirname "$0")/.."

readonly PERCENT_MORE_MAX=3
readonly SERVER_PERCENT_MORE_MAX=2
# As in benches/measure.
readonly COUNTED_RUNS=16
readonly COUNTED_FUNCTION=count_instructions

fail() {
    echo "error: $*" >&2
    exit 2
}

clean_up() {
    rm -rf "$work_dir"
    git worktree prune
}

# Installs what counts, if it is missing.
install_valgrind() {
    command -v valgrind >/dev/null && return
    {
        apt-get update --quiet=2
        apt-get install --quiet=2 --yes --no-install-recommends valgrind
    } || fail "valgrind is missing, and could not be installed"
}

# count TREE TARGET_DIR: prints "benchmark instructions" for each benchmark of a source tree, which
# is built in that directory. Two trees in one would take each other's benchmarks for their own.
count() {
    local source bench benches=()
    while read -r source; do
        [[ $source == */round_trip.rs ]] || benches+=("$(basename "$source" .rs)")
    done < <(grep --files-with-matches '^mod measure;' "$1"/benches/*.rs)
    run_cargo_bench "$1" "$2" "${benches[@]/#/--bench=}" --no-run
    for bench in "${benches[@]}"; do
        count_bench "$1" "$2" "$bench"
    done
    count_server "$1" "$2"
}

# count_bench TREE TARGET_DIR BENCH: the same for the benchmarks of one file.
#
# criterion's --test runs each benchmark once and names it; callgrind writes PROCESS.NUMBER when
# the counted function returns. (Of two options with the same pattern it heeds one.) What criterion
# itself starts has counted nothing.
count_bench() {
    local counts=$work_dir/counts runner
    rm -rf "$counts"
    mkdir "$counts"
    runner="'valgrind', '--tool=callgrind', '--quiet', '--callgrind-out-file=$counts/%p',
        '--collect-atstart=no', '--toggle-collect=*$COUNTED_FUNCTION*',
        '--dump-after=*::$COUNTED_FUNCTION*'"
    run_cargo_bench "$1" "$2" --bench="$3" \
        --config "target.'cfg(all())'.runner = [$runner]" -- --test >"$counts.names"
    sed -n 's/^Testing //p' "$counts.names" >"$counts.ids"
    find "$counts" -type f | sort --version-sort | xargs cat |
        awk -v runs=$COUNTED_RUNS '/^totals:/ && $2 > 0 { printf "%.1f\n", $2 / runs }' \
            >"$counts.totals"
    [[ $(wc -l <"$counts.ids") == $(wc -l <"$counts.totals") ]] ||
        fail "benches/$3.rs has $(wc -l <"$counts.ids") benchmarks," \
            "$(wc -l <"$counts.totals") were counted"
    paste -d ' ' "$counts.ids" "$counts.totals" | sed '/-by-/d'
}

# count_server TREE TARGET_DIR: the same for the whole program of a source tree.
count_server() {
    (cd "$1" && cargo build --release --locked --package ringecho --bin ringecho --target-dir "$2") ||
        fail "the program in $1 does not build"
    # A tree of REV may be older than the load.
    run_cargo_bench . "$target_dir" --bench=lockstep -- --count "$2/release/ringecho"
}

# run_cargo_bench TREE TARGET_DIR ARGUMENTS...
run_cargo_bench() {
    (cd "$1" && cargo bench --locked --package ringecho --target-dir "$2" "${@:3}") ||
        fail "the benchmarks in $1 do not build or run"
}

# Prints both counts of each benchmark; 1 if one has grown by more than is allowed.
compare() {
    awk -v percent_max=$PERCENT_MORE_MAX -v server_percent_max=$SERVER_PERCENT_MORE_MAX '
        BEGIN { row = "%-32s %12s %12s %9s\n"; printf row, "benchmark", "before", "after", "change" }
        NR == FNR { before[$1] = $2; next }
        { after[$1] = 1 }
        !($1 in before) { printf row, $1, "", $2, "new"; next }
        {
            change = ($2 / before[$1] - 1) * 100
            grown += change > ($1 ~ /^server\// ? server_percent_max : percent_max)
            printf row, $1, before[$1], $2, sprintf("%+.1f %%", change)
        }
        END {
            for (id in before) if (!(id in after)) printf row, id, before[id], "", "gone"
            printf "\n%d of %d benchmarks take more than %d %% more instructions (server/: %d %%)\n",
                grown, FNR, percent_max, server_percent_max
            exit grown > 0
        }
    ' "$1" "$2"
}

(($# <= 1)) || fail "usage: scripts/bench-compare.sh [REV]"
mkdir -p "${CARGO_TARGET_DIR:-target}"
target_dir=$(realpath "${CARGO_TARGET_DIR:-target}")
work_dir=$(mktemp -d)
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
install_valgrind

if (($# == 0)); then
    count . "$target_dir" | tee "$work_dir/after"
    exit
fi
git worktree add --quiet --detach "$work_dir/tree" "$1" || fail "there is no revision $1"
[[ -f $work_dir/tree/benches/measure/mod.rs ]] ||
    fail "revision $1 has no benchmarks that can be counted: it is older than benches/measure"
count "$work_dir/tree" "$target_dir/bench-compare" >"$work_dir/before"
count . "$target_dir" >"$work_dir/after"
compare "$work_dir/before" "$work_dir/after"
