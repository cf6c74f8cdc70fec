#!/usr/bin/env bash
# Runs every example as its first lines tell to, and checks what it prints: to the letter where that is always the same.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp)
trap 'rm -f "$out"' EXIT

features=()
run() { cargo run --release --quiet "${features[@]}" --example "$1" -- "${@:2}"; }
fail() { echo "FAILED: $*"; cat "$out"; exit 1; }

# exactly NAME: prints what expected/NAME.txt holds.
exactly() {
    echo "example $1"
    run "$1" >"$out" || fail "$1 ended with status $?"
    diff -u "examples/expected/$1.txt" "$out" || fail "$1 prints something else"
}

# shows TEXT NAME [ARG...]: ends well, and prints the text (a pattern of grep -E).
shows() {
    local text=$1
    shift
    echo "example $*"
    run "$@" >"$out" || fail "$* ended with status $?"
    grep -qE "$text" "$out" || fail "$* does not show: $text"
}

# refuses STATUS NAME ARG...: one line on stderr, that status, no panic.
refuses() {
    local wanted=$1 status=0
    shift
    echo "example $* (is refused)"
    # Not through cargo, which adds lines of its own.
    "$(dirname "$program")/$1" "${@:2}" >/dev/null 2>"$out" || status=$?
    [[ $status == "$wanted" ]] || fail "$*: status $status, not $wanted"
    [[ $(wc -l <"$out") == 1 ]] || fail "$*: more than one line, or none"
}

for name in switch sleepers producer_consumer generators compute web_fetch chat port_forwarder \
    backdoor udp_echo unix_socket prefork thread_pool processes three_models future_bridge crawler connection_pool; do
    exactly "$name"
done
# The only one of them that has our functions in the place of libc's.
features=(--features monkey)
exactly patched
features=()
shows 'a greenlet each +[0-9]+' poetry
shows '^localhost: (127|::1)' dns_mass_resolve
shows '^127.0.0.1: 127.0.0.1$' dns_mass_resolve --deadline 0.2 --at-once 2 name.invalid 127.0.0.1 other.invalid
shows 'requests' c10k --connections 2000 --seconds 1

# The main job, by the README's command; then what its options promise.
shows ' 0 failed' echo_server
shows '\-\-connections N' echo_server --help
program=$(cargo build --release --example echo_server --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*echo_server\)".*/\1/p')
refuses 2 echo_server --nonsense
refuses 2 echo_server --connections many
refuses 2 echo_server --listen nowhere

echo "example echo_server --listen (serves until SIGTERM; its address is refused to a second one)"
"$program" --listen 127.0.0.1:17790 --grace 5 >"$out" &
server=$!
for _ in $(seq 100); do grep -q 127.0.0.1:17790 "$out" && break; sleep 0.1; done
refuses 1 echo_server --listen 127.0.0.1:17790
exec 3<>/dev/tcp/127.0.0.1/17790
echo first >&3 && read -r answer <&3 && [[ $answer == first ]] || fail "the server answers: $answer"
kill -TERM "$server"
# The listener closes, and the live connection goes on.
for _ in $(seq 100); do (exec 4<>/dev/tcp/127.0.0.1/17790) 2>/dev/null || break; sleep 0.1; done
(exec 4<>/dev/tcp/127.0.0.1/17790) 2>/dev/null && fail "it still accepts connections"
echo second >&3 && read -r answer <&3 && [[ $answer == second ]] || fail "the live connection answers: $answer"
exec 3>&-
wait "$server" || fail "echo_server --listen ended with status $?"

echo "all examples are well"
