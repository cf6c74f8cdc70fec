#!/usr/bin/env bash
# The figures in the README: interleaved rounds of all workloads, so that a machine that is slow for a minute is slow for all;
# medians, and ratios of what belongs together, round by round. Usage: bash benches/report.sh [ROUNDS] [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-7}
seconds=${2:-3}
program=$(cargo bench --bench work --no-run 2>&1 | sed -n 's/.*(\(.*\)).*/\1/p' | tail -1)
plain=$program
patched=$(cargo bench --features monkey --bench work --no-run 2>&1 | sed -n 's/.*(\(.*\)).*/\1/p' | tail -1)
results=$(mktemp)
trap 'rm -f "$results"; [[ -z ${server:-} ]] || kill "$server" 2>/dev/null || true' EXIT
port=17800

value() { sed -n 's/.*"value": \(-\?[0-9.]*\).*/\1/p'; }
field() { sed -n "s/.*\"$1\": \([0-9.]*\).*/\1/p"; }
note() { echo "$1 $2" >>"$results"; }

micro() {
    local name=$1
    shift
    note "$name" "$("$program" "$@" | value)"
}

echo_round() {
    local name=$1 connections=$2
    port=$((port + 1))
    program=$plain
    [[ $name == echo-std ]] && program=$patched
    "$program" "$name" --addr 127.0.0.1:$port &
    server=$!
    program=$plain
    for _ in $(seq 100); do (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.05; done
    if [[ $connections == churn ]]; then
        note "$name-churn" "$("$program" churn --addr 127.0.0.1:$port --n 10000 --pid $server | value)"
    else
        note "$name-$connections" \
            "$("$program" load --addr 127.0.0.1:$port --connections "$connections" --seconds "$seconds" --pid $server | value)"
    fi
    kill $server
    wait $server 2>/dev/null || true
    server=
}

for round in $(seq "$rounds"); do
    echo "round $round of $rounds" >&2
    micro floor floor
    micro switch switch --mode raw
    micro floor-2 floor --tasks 2
    micro yield-2 switch --mode yield
    micro floor-1000 floor --tasks 1000
    micro yield-1000 switch --mode yield --tasks 1000
    micro spawn-1000 spawn_join --n 1000000 --batch 1000
    micro spawn-1000-2 spawn_join --n 1000000 --batch 1000 --threads 2
    micro spawn-100000 spawn_join --n 100000 --batch 100000
    micro spawn-100000-2 spawn_join --n 100000 --batch 100000 --threads 2
    micro skynet skynet
    micro skynet-2 skynet --threads 2
    micro timeouts timeouts --n 2000000
    micro chan switch --mode chan --n 2000000
    micro channel channel --n 10000000
    micro channel-2 channel --n 3000000 --threads 2
    micro channel-std channel --mode std --n 3000000 --threads 2
    micro lock-std lock --mode std
    micro lock lock --mode uncontended
    micro semaphore semaphore --mode uncontended
    micro lock-2 lock --mode contended
    micro event event
    micro queue queue --mode pingpong
    note timers "$("$program" timers --n 100000 | field cpu_ms)"
    for connections in 64 1000 10000 churn; do
        echo_round echo-mio $connections
        echo_round echo $connections
        echo_round echo-std $connections
    done
    program=$patched
    micro pass-through pass_through
    micro std-mutex std_mutex
    program=$plain
done
micro idle "idle_mem" --n 1000000

awk '
    { value[$1, ++rounds[$1]] = $2 }
    function sort(list, n,    i, j, kept) {
        for (i = 2; i <= n; i++) {
            kept = list[i]
            for (j = i - 1; j > 0 && list[j] + 0 > kept + 0; j--) list[j + 1] = list[j]
            list[j + 1] = kept
        }
    }
    # An even number of values has two in the middle; the lower one is one that was measured.
    function middle(n) { return int((n + 1) / 2) }
    function row(title, name, unit, base,    n, i, sorted, ratios, ratio) {
        n = rounds[name]
        for (i = 1; i <= n; i++) {
            sorted[i] = value[name, i]
            # Of the same round: a machine that is slow for a minute is slow for both.
            if (base != "") ratios[i] = value[name, i] / value[base, i]
        }
        sort(sorted, n)
        if (base != "") {
            sort(ratios, n)
            ratio = sprintf("%.2f", ratios[middle(n)])
        }
        printf "| %s | %s %s | %s to %s | %s |\n", title, sorted[middle(n)], unit, sorted[1], sorted[n], ratio
    }
    END {
        print "| work | median | lowest to highest | ratio |"
        print "|---|---|---|---|"
        row("corosensei, resume and suspend: the floor", "floor", "ns")
        row("`Coroutine::switch`, one way", "switch", "ns", "floor")
        row("the floor with 2 coroutines", "floor-2", "ns")
        row("`yield_now`, 2 greenlets", "yield-2", "ns", "floor-2")
        row("the floor with 1,000 coroutines", "floor-1000", "ns")
        row("`yield_now`, 1,000 greenlets", "yield-1000", "ns", "floor-1000")
        row("spawn and join, 1,000 at a time", "spawn-1000", "ns")
        row("the same on two hubs", "spawn-1000-2", "ns", "spawn-1000")
        row("spawn and join, 100,000 at once", "spawn-100000", "ns")
        row("the same on two hubs", "spawn-100000-2", "ns", "spawn-100000")
        row("a tree of 1,111,111 greenlets, per greenlet", "skynet", "ns")
        row("the same on two hubs", "skynet-2", "ns", "skynet")
        row("a timeout that does not fire", "timeouts", "ns")
        row("ping-pong over two channels, per message", "chan", "ns")
        row("bounded channel (128) on one hub", "channel", "messages/s")
        row("std `sync_channel` (128) between two threads", "channel-std", "messages/s")
        row("bounded channel (128) between two hubs", "channel-2", "messages/s", "channel-std")
        row("std `Mutex`, lock and unlock", "lock-std", "ns")
        row("`Mutex`, lock and unlock", "lock", "ns", "lock-std")
        row("`Semaphore`, acquire and release", "semaphore", "ns", "lock-std")
        row("`Mutex` handed over between two greenlets", "lock-2", "ns")
        row("`Event`, set and wait", "event", "ns")
        row("`Queue` ping-pong, per message", "queue", "ns")
        row("patched: std `Mutex` handed over between two greenlets", "std-mutex", "ns")
        row("a call of libc that is passed through, beyond libc", "pass-through", "ns")
        row("100,000 random sleeps, CPU", "timers", "ms")
        row("a parked greenlet of 1,000,000, RSS", "idle", "bytes")
        split("64 1000 10000", sizes, " ")
        for (i = 1; i <= 3; i++) {
            row("echo by hand on mio, " sizes[i] " connections", "echo-mio-" sizes[i], "µs")
            row("echo, " sizes[i] " connections, CPU per request", "echo-" sizes[i], "µs", "echo-mio-" sizes[i])
            row("the same with unmodified std::net, patched", "echo-std-" sizes[i], "µs", "echo-" sizes[i])
        }
        row("connect, one request, close by hand on mio", "echo-mio-churn", "µs")
        row("connect, one request, close, CPU", "echo-churn", "µs", "echo-mio-churn")
        row("the same with unmodified std::net, patched", "echo-std-churn", "µs", "echo-churn")
    }' "$results"
