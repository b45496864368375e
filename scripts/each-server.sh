#!/usr/bin/env bash
# To be sourced: each_server COMMAND builds ringecho and calls COMMAND URL COMPRESSION for a server
# on each data plane, with and without compression. PLANES=portable leaves the engine out, where the
# kernel has none. Further flags for the servers: SERVER_FLAGS, an array.

each_server() {
  cargo build --release --locked --package ringecho
  server_pid=
  trap '[ -z "$server_pid" ] || kill "$server_pid"' EXIT
  local plane compression url
  for plane in ${PLANES:-engine portable}; do
    for compression in off pass-through; do
      printf -- '-- %s, compression %s\n' "$plane" "$compression"
      coproc server { exec target/release/ringecho --listen 127.0.0.1:0 --data-plane "$plane" \
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
