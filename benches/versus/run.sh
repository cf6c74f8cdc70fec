#!/usr/bin/env bash
# switchgrass beside its peers: builds, runs interleaved rounds, writes the figures, the table and the pictures to results/.
# Usage: benches/versus/run.sh [--quick] [ROUNDS]     (7 rounds; --quick: 1 round of moments, its figures mean nothing and go to a
# temporary directory)
#        benches/versus/run.sh --draw                 (the table and the pictures again, from results/rounds.tsv)
# Go and gevent take part where they are installed; a runtime that cannot do a work is left out of its picture.
set -euo pipefail
cd "$(dirname "$0")"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/../../target/versus}
mode=full profile=release
case ${1:-} in
    --quick) mode=quick profile=quick; shift ;;
    --draw) mode=draw profile=quick; shift ;;
esac
results=results
mkdir -p "$results"
[[ $mode == quick ]] && results=$(mktemp -d)
bin=$CARGO_TARGET_DIR/$profile

if [[ $mode == draw ]]; then
    cargo build --quiet --profile "$profile" --bin report
    "$bin/report" "$results/rounds.tsv" "$results"
    exit
fi

if [[ $mode == quick ]]; then
    rounds=${1:-1} scale=1000 many=10000 max_ms=50 threads_idle=100 millis=300 crowd=100
else
    rounds=${1:-7} scale=1 many=100000 max_ms=1000 threads_idle=1000 millis=3000 crowd=1000
fi

cargo build --profile "$profile"
peers="switchgrass-1 switchgrass-2 may-1 may-2 tokio-1 tokio-2 threads mio"
if command -v go >/dev/null; then
    (cd go && go build -o "$bin/versus-go" .)
    peers+=" go-1 go-2"
else
    echo "run.sh: go is not installed, so it is left out" >&2
fi
python=/usr/bin/python3
[[ -x $python ]] || python=python3
if "$python" -c 'import gevent' 2>/dev/null; then
    peers+=" gevent"
else
    echo "run.sh: gevent is not installed for $python, so it is left out" >&2
fi
# Sockets of the clients and of the servers.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

raw=$results/rounds.tsv
server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null || true' EXIT

# The picture and the table show these too.
warn() {
    echo "warning: $*" >&2
    echo "# warning: $*" >>"$raw"
}

# Jiffies since boot: all, idle, stolen by other machines.
jiffies() { awk '/^cpu / { print $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9, $5 + $6, $9; exit }' /proc/stat; }

# What others use of this machine while we use nothing.
look_at_machine() {
    local before after
    read -ra before < <(jiffies)
    sleep 1
    read -ra after < <(jiffies)
    local all=$((after[0] - before[0]))
    ((all > 0)) || return 0
    local used=$((100 * (all - (after[1] - before[1])) / all)) stolen=$((100 * (after[2] - before[2]) / all))
    ((used <= 5)) || warn "$1: the machine was busy before it began ($used % of all cores; load $(cut -d' ' -f1 /proc/loadavg))"
    ((stolen <= 1)) || warn "$1: $stolen % of the time was stolen by other machines"
}

# run PEER WORK --key value ...: takes the place of the subshell that calls it, so that its process is the server's own.
run() {
    local peer=$1
    shift
    local threads=${peer##*-}
    case $peer in
        switchgrass-*)
            case $1 in
                yield | pingpong)
                    local switch=yield
                    [[ $1 == pingpong ]] && switch=chan
                    shift
                    exec "$bin/switchgrass" switch --mode $switch --threads "$threads" "$@"
                    ;;
                *) exec "$bin/switchgrass" "$@" --threads "$threads" ;;
            esac
            ;;
        go-*) exec "$bin/versus-go" "$@" --threads "$threads" ;;
        gevent) exec "$python" gevent/work.py "$@" ;;
        mio)
            [[ $1 != echo ]] || exec "$bin/switchgrass" echo-mio "${@:2}"
            exec "$bin/peers" mio "$@"
            ;;
        threads) exec "$bin/peers" threads "$@" ;;
        *) exec "$bin/peers" "${peer%-*}" "$@" --threads "$threads" ;;
    esac
}

field() { sed -n "s/.*\"$2\": \([0-9.]*\).*/\1/p" <<<"$1"; }
note() { [[ -z $3 ]] || printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$raw"; }

# micro NAME FIELD PEERS N WORK --key value ...: what a peer cannot do is told once, in the first round.
micro() {
    local name=$1 what=$2 some=$3 all=$4
    shift 4
    for peer in $some; do
        [[ " $peers " == *" $peer "* ]] || continue
        local line n=$all
        # An interpreter gets a tenth of what takes the others long enough to measure.
        [[ $peer == gevent && $name =~ ^(yield|pingpong|channel) ]] && n=$((n / 10))
        line=$(run "$peer" "$@" --n "$n") || { echo "run.sh: $peer $name has failed" >&2; exit 1; }
        if [[ $line == *'"value": null'* ]]; then
            ((round > 1)) || echo "# $name: $peer cannot: $(sed 's/.*"error": "\(.*\)".*/\1/' <<<"$line")" >>"$raw"
        else
            [[ -n $(field "$line" "$what") ]] || { echo "run.sh: $peer $name says $line" >&2; exit 1; }
            note "$name" "$peer" "$(field "$line" "$what")"
        fi
    done
}

# serve NAME PROTOCOL CONNECTIONS PEERS
serve() {
    local name=$1 protocol=$2 connections=$3
    for peer in $4; do
        [[ " $peers " == *" $peer "* ]] || continue
        port=$((port + 1))
        local said=$results/server.txt line
        run "$peer" "$protocol" --addr "127.0.0.1:$port" >"$said" &
        server=$!
        local up=
        for _ in $(seq 200); do
            (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && up=yes && break
            kill -0 "$server" 2>/dev/null || break
            sleep 0.05
        done
        if [[ -z $up ]]; then
            # A runtime that does not have this yet says so and ends.
            grep -q '"value": null' "$said" || { echo "run.sh: $peer $protocol does not listen" >&2; exit 1; }
            ((round > 1)) || echo "# $name: $peer cannot: $(sed 's/.*"error": "\(.*\)".*/\1/' "$said")" >>"$raw"
            wait "$server" || true
            server=
            continue
        fi
        line=$("$bin/load" "$protocol" --addr "127.0.0.1:$port" --connections "$connections" --millis "$millis" --pid "$server")
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
        server=
        [[ -n $(field "$line" value) ]] || { echo "run.sh: $peer $name: $line" >&2; exit 1; }
        note "$name-cpu" "$peer" "$(field "$line" value)"
        note "$name-rate" "$peer" "$(field "$line" requests_per_second)"
        for percentile in p50 p99 p999; do
            note "$name-$percentile" "$peer" "$(field "$line" ${percentile}_us)"
        done
        # The rate and the latencies are then the client's; the server's CPU per request is still the server's.
        awk "BEGIN { exit !($(field "$line" client_cores) >= 0.9 && $(field "$line" server_cores) < 0.9) }" &&
            warn "$name, $peer, round $round: the load generator was the limit ($(field "$line" client_cores) of a core, the server $(field "$line" server_cores))"
    done
    return 0
}

# Before the results of the last time are overwritten, which are in git.
commit=$(git describe --always --dirty 2>/dev/null || echo unknown)
{
    echo "# date: $(date -u +%F)"
    echo "# machine: $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1), $(nproc) cores, $(uname -sr)"
    echo "# $(rustc --version)"
    ! command -v go >/dev/null || echo "# $(go version)"
    ! [[ $peers == *gevent* ]] || echo "# $("$python" -c 'import gevent, platform; print("gevent", gevent.__version__, "on Python", platform.python_version())')"
    echo "# switchgrass $commit"
    sed -n '/^name = "\(may\|tokio\|mio\)"$/{s/.*"\(.*\)"/\1/;N;s/\(.*\)\nversion = "\(.*\)"/# \1 \2/;p}' Cargo.lock
    echo "# rounds: $rounds"
    [[ $mode == full ]] || echo "# warning: a quick run: these figures mean nothing"
} >"$raw"
read -ra before < <(jiffies)

one="switchgrass-1 may-1 tokio-1 go-1 gevent"
both="switchgrass-1 switchgrass-2 may-1 may-2 tokio-1 tokio-2 go-1 go-2 threads gevent"
servers="mio $both"
port=18000
for round in $(seq "$rounds"); do
    echo "round $round of $rounds" >&2
    look_at_machine "round $round"
    micro yield-2 value "$one" $((2000000 / scale)) yield --tasks 2
    micro yield-1000 value "$one" $((5000000 / (scale > 1 ? 100 : 1))) yield --tasks 1000
    micro spawn-1000 value "$both" $many spawn_join --batch 1000 --reps 5
    micro spawn-100000 value "$both" $many spawn_join --batch 100000 --reps 5
    micro skynet-10000 value "$both" $((many / 10)) skynet
    # A hundred times as many are more than may and gevent can.
    micro skynet value "switchgrass-1 switchgrass-2 tokio-1 tokio-2 go-1 go-2" $((many * 10)) skynet
    micro channel value "$one" $((5000000 / scale)) channel --cap 128
    micro channel-threads value "switchgrass-2 may-2 tokio-2 go-2 threads" $((3000000 / scale)) channel --cap 128
    micro pingpong value "$both" $((1000000 / scale)) pingpong
    # Ten thousand, too: a hundred thousand are more than some can.
    micro timers-10000 cpu_ms "$both" $((many / 10)) timers --max-ms $max_ms
    micro timers cpu_ms "$both" $many timers --max-ms $max_ms
    micro idle value "$one" $many idle_mem
    micro idle-10000 value "$one" $((many / 10)) idle_mem
    micro idle-10000 value threads $threads_idle idle_mem
    serve echo-64 echo 64 "$servers"
    serve echo-1000 echo $crowd "$servers"
    serve http-64 http 64 "$servers"
    serve http-1000 http $crowd "$servers"
done

read -ra after < <(jiffies)
stolen=$((100 * (after[2] - before[2]) / (after[0] - before[0] + 1)))
((stolen <= 1)) || warn "$stolen % of the time of the whole run was stolen by other machines"
rm -f "$results/server.txt"
"$bin/report" "$raw" "$results"
echo "figures, table and pictures: $results" >&2
