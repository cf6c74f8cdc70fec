#!/usr/bin/env bash
# Every workload once, at a size that takes moments: do they run, and are their results right? The figures mean nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo bench --quiet --bench work -- floor --n 1000 # as BENCH.md calls it
program=$(cargo bench --bench work --no-run 2>&1 | sed -n 's/.*(\(.*\)).*/\1/p' | tail -1)
work() { "$program" "$@"; }
good() {
    echo "work $*"
    local line
    line=$(work "$@")
    echo "  $line"
    [[ $line == *'"value": '[0-9]* ]] || { echo "no value"; exit 1; }
}
good floor --n 100000
good switch --mode raw --n 100000
good switch --mode yield --n 100000
good switch --mode yield --n 100000 --tasks 1000
good switch --mode chan --n 100000
for threads in 1 2; do
    good channel --n 100000 --threads $threads
    good channel --n 1000 --cap 0 --threads $threads
done
good channel --mode std --n 10000 --threads 2
good queue --mode pingpong --n 100000
for threads in 1 2; do
    good queue --n 100000 --threads $threads
    good queue --n 1000 --cap 0 --threads $threads
done
good queue --mode priority --n 100000
for work in lock rwlock semaphore; do
    good $work --n 100000 --mode uncontended
    good $work --n 100000 --mode contended
done
good lock --n 100000 --mode std
good event --n 100000
for threads in 1 2; do
    good spawn_join --n 10000 --batch 1000 --reps 2 --threads $threads
    good spawn_join --n 10000 --batch 10000 --reps 2 --threads $threads
    good skynet --n 1000 --threads $threads
done
good idle_mem --n 10000 --block park
good idle_mem --n 10000 --block sleep
good timers --n 1000 --max-ms 50
good timeouts --n 100000
good file_read --n 1000
port=17700
serve() {
    port=$((port + 1))
    "$program" "$@" --addr 127.0.0.1:$port &
    server=$!
    for _ in $(seq 100); do (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && return; sleep 0.1; done
    echo "$1 does not listen"
    exit 1
}
end() {
    kill "$server"
    wait "$server" 2>/dev/null || true
}
for name in echo echo-mio; do
    serve "$name"
    good load --addr 127.0.0.1:$port --connections 64 --seconds 1 --pid "$server"
    good churn --addr 127.0.0.1:$port --n 500 --pid "$server"
    end
done
serve echo --threads 2
good load --addr 127.0.0.1:$port --connections 64 --seconds 1 --pid "$server"
end
for threads in 1 2; do
    serve http --threads $threads
    answer=$(
        exec 3<>"/dev/tcp/127.0.0.1/$port"
        printf 'GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' >&3
        cat <&3
    )
    [[ $answer == *"Hello, World!"*"404 Not Found"* ]] || { echo "http answers: $answer"; exit 1; }
    echo "http answers two requests in one read"
    end
done
program=$(cargo bench --features monkey --bench work --no-run 2>&1 | sed -n 's/.*(\(.*\)).*/\1/p' | tail -1)
serve echo-std
good load --addr 127.0.0.1:$port --connections 64 --seconds 1 --pid "$server"
good churn --addr 127.0.0.1:$port --n 500 --pid "$server"
end
good std_mutex --n 10000
line=$(work pass_through --n 100000)
echo "  $line"
[[ $line == *'"ours_ns"'* ]] || { echo "no value"; exit 1; }
status=0
work nonsense || status=$?
[[ $status == 3 ]] || { echo "a work that does not exist gives status $status"; exit 1; }
good_simulation() {
    echo "simulation $*"
    local first second
    first=$(cargo bench --quiet --bench simulation -- "$@")
    second=$(cargo bench --quiet --bench simulation -- "$@")
    [[ $first == "$second" ]] || { echo "the same seed gives another table"; exit 1; }
    [[ $(grep -c '^| [0-9.]* µs' <<<"$first") == 6 ]] || { echo "it is no table: $first"; exit 1; }
}
good_simulation --tasks 2000 --burst 64 --service 10000 --seed 7
good_simulation --tasks 2000 --burst 64 --service 10000 --from outside
measured=$(cargo bench --quiet --bench simulation -- --measure)
[[ $measured == --spawn\ [0-9]*\ --wake\ [0-9]* ]] || { echo "it measures: $measured"; exit 1; }
