#!/usr/bin/env bash
# Has servers take over from each other, one each second, under load: the generator's cycles at a rate,
# and long-lived clients that go on echoing until they are told to go. Prints what they have met, and
# fails if a handshake failed, a cycle was cut, or an echo was lost.
#
#   scripts/takeover.sh             20 takeovers
#   TAKEOVERS=3 scripts/takeover.sh
#
# Environment: TAKEOVERS (20), RATE (1000) cycles a second, GENERATOR (built), the path of
#              ringecho-loadtest, PROFILE (release) that both programs are built with.
# Ends by itself: each takeover has 30 s at most, and the whole at most TIME_LIMIT (300 s).
set -euo pipefail
cd "$(dirname "$0")/.."

readonly PROFILE=${PROFILE:-release}
export TAKEOVERS=${TAKEOVERS:-20} RATE=${RATE:-1000}

if [[ -z ${GENERATOR:-} ]]; then
    cargo build --locked --quiet --profile "$PROFILE" --package ringecho-loadtest
    directory=$PROFILE
    [[ $PROFILE == dev ]] && directory=debug
    GENERATOR=${CARGO_TARGET_DIR:-$PWD/target}/$directory/ringecho-loadtest
fi
export GENERATOR

test=(cargo test --locked --quiet --profile "$PROFILE" --test suite)
"${test[@]}" --no-run
timeout "${TIME_LIMIT:-300}" "${test[@]}" -- --ignored --exact --nocapture \
    takeover::nothing_is_lost_through_many_takeovers
