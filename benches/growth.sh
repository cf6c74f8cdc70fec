#!/usr/bin/env bash
# How cost grows with the number of greenlets: nanoseconds (and page faults, of all that the process had) per operation, by count. Interleaved
# rounds, medians. Usage: bash benches/growth.sh [ROUNDS] [SECONDS]      (5 rounds; echo for 2 seconds a round)
# PROGRAM=… measures another build, RUN=… is put before each command, KEEP=… is a file for what each round gives, from which
# `benches/versus` draws the curves: cargo run --bin report -- --growth FILE FILE.svg
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5}
seconds=${2:-2}
counts="10 100 1000 10000 100000 1000000"
program=${PROGRAM:-$(cargo bench --bench work --no-run 2>&1 | sed -n 's/.*(\(.*\)).*/\1/p' | tail -1)}
results=$(mktemp)
trap 'rm -f "$results"*; [[ -z ${server:-} ]] || kill "$server" 2>/dev/null || true' EXIT
ulimit -n "$(ulimit -Hn)"
port=17900

field() { sed -n "s/.*\"$2\": \([0-9.]*\).*/\1/p" <<<"$1"; }

# measure WORK COUNT FIELD OPERATIONS ARGUMENTS: the value, and the faults of the process per operation.
measure() {
    local work=$1 count=$2 what=$3 operations=$4 line
    shift 4
    line=$(${RUN:-} "$program" "$@")
    echo "$work $count $(field "$line" "$what") $(awk "BEGIN { print $(field "$line" faults) / $operations }")" >>"$results"
}

# Of a yield alone, without the first run of each greenlet and its end: what three times as many yields take longer.
yield_round() {
    local count=$1 n=$((10 * ${1} > 5000000 ? 10 * ${1} : 5000000)) some more
    some=$(${RUN:-} "$program" switch --mode yield --n "$n" --tasks "$count")
    more=$(${RUN:-} "$program" switch --mode yield --n $((3 * n)) --tasks "$count")
    awk -v some="$(field "$some" value)" -v more="$(field "$more" value)" -v faults="$(field "$more" faults)" -v before="$(field "$some" faults)" \
        -v n="$n" -v count="$count" 'BEGIN { print "yield", count, (3 * more - some) / 2, (faults > before ? faults - before : 0) / (2 * n) }' >>"$results"
}

# A loopback address has 28,000 ports for its clients: beyond 20,000 connections, several clients, each to an address of its own.
echo_round() {
    local connections=$1 clients=$(((${1} + 19999) / 20000)) faults
    # The server's descriptors, and some for its own use.
    (($(ulimit -n) > connections + 100)) || return 0
    port=$((port + 1))
    ${RUN:-} "$program" echo --addr "0.0.0.0:$port" &
    server=$!
    for _ in $(seq 100); do (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.05; done
    local loads=()
    for client in $(seq "$clients"); do
        "$program" load --addr "127.0.0.$client:$port" --connections $((connections / clients)) --seconds "$seconds" --pid $server \
            >"$results.$client" &
        loads+=($!)
    done
    wait "${loads[@]}"
    # Each client tells the server's time per request of its own: together, as resistors in parallel.
    sed -n 's/.*"value": \([0-9.]*\).*/\1/p' "$results".[0-9]* |
        awk -v clients="$clients" -v count="$connections" '{ sum += 1 / $1; n++ } END { if (n == clients) print "echo", count, 1000 / sum, "-" }' >>"$results"
    rm "$results".[0-9]*
    kill $server
    wait $server 2>/dev/null || true
    server=
}

for round in $(seq "$rounds"); do
    echo "round $round of $rounds, load $(cut -d' ' -f1 /proc/loadavg)" >&2
    for count in $counts; do
        n=$((count > 1000000 ? count : 1000000))
        measure spawn "$count" value $((3 * n)) spawn_join --n $n --batch "$count" --reps 3
        yield_round "$count"
        measure sleep "$count" cpu_ns_each "$count" timers --n "$count"
        ((count > 100000)) || echo_round "$count"
    done
done

[[ -z ${KEEP:-} ]] || cp "$results" "$KEEP"
sort -k1,1 -k2,2n -k3,3g "$results" | awk -v counts="$counts" '
    function flush() {
        if (name == "") return
        # An even number of values has two in the middle; the lower one is one that was measured.
        middle = int((n + 1) / 2)
        cell[name] = sprintf("%.0f (%.0f to %.0f)", values[middle], values[1], values[n])
        if (faults[middle] != "-") cell[name] = cell[name] sprintf(", %.2f", faults[middle])
    }
    $1 " " $2 != name { flush(); name = $1 " " $2; n = 0 }
    { values[++n] = $3; faults[n] = $4 }
    END {
        flush()
        print "| greenlets | spawn and join | yield | a random sleep, CPU | echo, CPU of the server |"
        print "|---|---|---|---|---|"
        rows = split(counts, count, " ")
        for (i = 1; i <= rows; i++)
            print "| " count[i] " | " cell["spawn " count[i]] " | " cell["yield " count[i]] " | " cell["sleep " count[i]] " | " cell["echo " count[i]] " |"
    }'
