#!/usr/bin/env bash
# To be sourced: each_server COMMAND builds ringecho and calls COMMAND URL COMPRESSION for servers
# with and without compression: of the engine on io_uring and on epoll, and of the portable path.
# WAYS=epoll leaves the others out. Further flags for the servers: SERVER_FLAGS, an array.

each_server() {
  # Both programs, as other scripts build them: for one alone, what it shares would be built anew.
  cargo build --release --locked --bins
  server_pid=
  trap '[ -z "$server_pid" ] || kill "$server_pid"' EXIT
  local -A flags=(
    [io_uring]='--driver io_uring --data-plane engine'
    [epoll]='--driver epoll --data-plane engine'
    [portable]='--data-plane portable'
  )
  local way compression url
  for way in ${WAYS:-io_uring epoll portable}; do
    for compression in off pass-through; do
      printf -- '-- %s, compression %s\n' "$way" "$compression"
      # The flags are words on purpose.
      # shellcheck disable=SC2086
      coproc server { exec target/release/ringecho --listen 127.0.0.1:0 ${flags[$way]} \
        --compression "$compression" --log-level warn "${SERVER_FLAGS[@]}"; }
      server_pid=$!
      read -r _ _ url _ <&"${server[0]}"
      "$@" "$url" "$compression"
      kill "$server_pid"
      wait "$server_pid"
      server_pid=
    done
  done
}
