#!/usr/bin/env bash
# The servers that the tests of this package talk to, on 127.0.0.1, with their data in a temporary directory.
#
#   tests/real/servers.sh install           what is needed, by apt-get (as root)
#   eval "$(tests/real/servers.sh start)"   starts them; what it prints are the addresses
#   tests/real/servers.sh stop              stops those of that shell
set -euo pipefail

redis_port=${REAL_REDIS_PORT:-17801}
mysql_port=${REAL_MYSQL_PORT:-17802}
postgres_port=${REAL_POSTGRES_PORT:-17803}

fail() { echo "servers.sh: $*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || fail "there is no $1: run 'tests/real/servers.sh install'"; }

install() {
    # Debian starts what it installs; these are not the servers of the tests.
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -qy --no-install-recommends redis-server mariadb-server postgresql libpq-dev libcurl4-openssl-dev pkg-config
}

# PostgreSQL does not run as root.
as_postgres() {
    if [[ $(id -u) == 0 ]]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi
}

# The first line of the file is the number of the process.
is_running() {
    local pid
    [[ -f $1 ]] && read -r pid <"$1" && kill -0 "$pid" 2>/dev/null
}

# answers NAME PIDFILE COMMAND...: waits until it succeeds, and the process is ours, not one that has its port.
answers() {
    local name=$1 process=$2 end=$((SECONDS + 30))
    shift 2
    while ((SECONDS < end)); do
        timeout -s KILL 5 "$@" >/dev/null 2>&1 && is_running "$process" && return
        sleep 0.1
    done
    cat "$data/$name.log" >&2 || true
    fail "$name does not answer after 30 seconds: see its log above (is its port taken? REAL_${name^^}_PORT chooses another)"
}

start() {
    postgres_bin=$(pg_config --bindir 2>/dev/null || ls -d /usr/lib/postgresql/*/bin | tail -n 1) ||
        fail "there is no PostgreSQL: run 'tests/real/servers.sh install'"
    need redis-server
    need mariadbd
    need "$postgres_bin/initdb"
    data=$(mktemp -d)
    chmod 755 "$data"
    mkdir "$data/redis" "$data/mysql" "$data/postgres"
    # Whatever goes wrong: nothing stays behind.
    trap 'REAL_SERVERS=$data stop' EXIT

    redis-server --bind 127.0.0.1 --port "$redis_port" --dir "$data/redis" --save '' --appendonly no \
        --daemonize yes --pidfile "$data/redis.pid" --logfile "$data/redis.log"

    mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$data/mysql" \
        --auth-root-authentication-method=normal --skip-test-db >"$data/mysql.log" 2>&1
    # Not fsynced: what is in it is of no worth.
    setsid mariadbd --no-defaults --user="$(id -un)" --datadir="$data/mysql" --socket="$data/mysql.socket" \
        --bind-address=127.0.0.1 --port="$mysql_port" --max-connections=300 \
        --innodb-flush-log-at-trx-commit=0 >>"$data/mysql.log" 2>&1 </dev/null &
    echo $! >"$data/mysql.pid"

    [[ $(id -u) != 0 ]] || chown postgres "$data/postgres"
    as_postgres "$postgres_bin/initdb" -D "$data/postgres" -U postgres -A trust -N >"$data/postgres.log" 2>&1
    as_postgres "$postgres_bin/pg_ctl" -D "$data/postgres" -W \
        -o "-p $postgres_port -h 127.0.0.1 -k '' -c max_connections=300 -c fsync=off" \
        start >>"$data/postgres.log" 2>&1

    answers redis "$data/redis.pid" redis-cli -p "$redis_port" ping
    answers mysql "$data/mysql.pid" mariadb-admin --no-defaults -h 127.0.0.1 -P "$mysql_port" -u root ping
    answers postgres "$data/postgres/postmaster.pid" "$postgres_bin/pg_isready" -h 127.0.0.1 -p "$postgres_port" -U postgres
    trap - EXIT

    echo "export REAL_SERVERS=$data"
    echo "export REAL_REDIS=127.0.0.1:$redis_port"
    echo "export REAL_MYSQL=127.0.0.1:$mysql_port"
    echo "export REAL_POSTGRES=127.0.0.1:$postgres_port"
}

end() {
    is_running "$1" || return 0
    kill -"$2" "$(head -n 1 "$1")"
    for _ in $(seq 200); do
        is_running "$1" || return 0
        sleep 0.1
    done
    kill -KILL "$(head -n 1 "$1")" 2>/dev/null || true
}

stop() {
    [[ -n ${REAL_SERVERS:-} ]] || fail "REAL_SERVERS is not set: it is what 'start' printed"
    end "$REAL_SERVERS/redis.pid" TERM
    end "$REAL_SERVERS/mysql.pid" TERM
    # Its fast shutdown.
    end "$REAL_SERVERS/postgres/postmaster.pid" INT
    rm -rf "$REAL_SERVERS"
}

case ${1:-} in
    install | start | stop) "$1" ;;
    *) fail "say install, start or stop" ;;
esac
