#!/usr/bin/env bash
# Runs what is in tests/, each binary by itself, and compares what works with the table in docs/works-with.md.
#
#   tests/real/run.sh             everything
#   tests/real/run.sh NAME...     these only (redis, ureq, ...), and no table
#   tests/real/run.sh --install   installs the servers first (servers.sh)
#   tests/real/run.sh --update    writes the table anew, with the versions of this machine
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
table=docs/works-with.md
results=$(mktemp)
output=$(mktemp)
trap 'rm -f "$results" "$output"' EXIT

names=()
install=false
update=false
for argument; do
    case $argument in
        --install) install=true ;;
        --update) update=true ;;
        -*) echo "run.sh: there is no option $argument" >&2; exit 1 ;;
        *) names+=("$argument") ;;
    esac
done
only=${#names[@]}
[[ $only != 0 ]] || names=(redis ureq curl libpq mysql rustls tungstenite tiny_http parking_lot std_mpsc)

$install && "$here/servers.sh" install
if [[ -z ${REAL_SERVERS:-} ]]; then
    environment=$("$here/servers.sh" start)
    eval "$environment"
    trap '"$here/servers.sh" stop; rm -f "$results" "$output"' EXIT
fi

run() { cargo test --quiet --manifest-path "$here/Cargo.toml" "$@"; }

# Whatever has compiled once is not built again; what does not compile fails here.
run --no-run

# One line for each test: NAME TEST ok|FAILED; or for one that shows that something does not work (`real::limits!`), NAME TEST limit REASON.
# One that says nothing, since the binary hung or crashed, has failed.
for name in "${names[@]}"; do
    echo "$name"
    run --test "$name" -- --list --format terse 2>/dev/null | sed -n 's/: test$//p' >"$output.list"
    # The tests end a hang themselves, after two minutes.
    timeout 300 cargo test --manifest-path "$here/Cargo.toml" --test "$name" -- --show-output >"$output" 2>&1 || cat "$output"
    while read -r test; do
        if grep -q "^test $test \.\.\. ok$" "$output"; then result=ok; else result=FAILED; fi
        if [[ $result == ok && $test == limits::* ]]; then
            test=${test#limits::}
            result="limit $(sed -n "s/^why $test: //p" "$output")"
        fi
        echo "$name $test $result" | tee -a "$results"
    done <"$output.list"
    rm -f "$output.list"
done

# locked CRATE: the version that Cargo has chosen.
locked() {
    awk -v name="\"$1\"" '$1 == "name" && $3 == name { getline; gsub("\"", "", $3); print $3; exit }' "$here/Cargo.lock"
}

# The first number with a dot in what a command prints.
number() { "$@" 2>/dev/null | grep -oE '[0-9]+(\.[0-9]+)+' | head -n 1; }

versions() {
    case $1 in
        redis) echo "$(locked redis), redis-server $(number redis-server --version)" ;;
        curl) echo "$(locked curl), libcurl $(number pkg-config --modversion libcurl)" ;;
        libpq) echo "pq-sys $(locked pq-sys), libpq $(number pg_config --version)" ;;
        mysql) echo "$(locked mysql), MariaDB $(mariadbd --no-defaults --version | grep -oE '[0-9.]+-MariaDB' | sed 's/-.*//')" ;;
        rustls) echo "$(locked rustls), ring $(locked ring)" ;;
        tiny_http) echo "$(locked tiny_http), ureq $(locked ureq)" ;;
        std_mpsc) echo "Rust $(number rustc --version)" ;;
        *) locked "$1" ;;
    esac
}

# tests NAME RESULT: those of that result, as a list, with the reasons that there are.
tests() {
    awk -v name="$1" -v result="$2" '
        $1 == name && $3 == result {
            test = $2
            gsub("_", " ", test)
            why = $0
            sub("^[^ ]+ [^ ]+ [^ ]+ ?", "", why)
            line = line (line ? "; " : "") test (why ? " (" why ")" : "")
        }
        END { print line }' "$results"
}

make_table() {
    echo "| what | version | works | does not, and why | remarks |"
    echo "|---|---|---|---|---|"
    local name file
    for name in "${names[@]}"; do
        file=$here/tests/$name.rs
        printf '| %s | %s | %s | %s | %s |\n' \
            "$(sed -n '1s|^//! \(.*\)\.$|\1|p' "$file")" "$(versions "$name")" "$(tests "$name" ok)" \
            "$(tests "$name" limit)" "$(sed -n 's|^//! Note: ||p' "$file" | paste -sd ' ')"
    done
}

# A table that says less than there was to say is none.
if grep ' FAILED$' "$results"; then exit 1; fi
if [[ $only == 0 ]]; then
    make_table >"$output"
    if $update; then
        # The table is what stands between the marks.
        sed -i -e '/^<!-- begin of the table/,/^<!-- end of the table/{//!d}' \
            -e "/^<!-- begin of the table/r $output" "$table"
    fi
    # Versions differ from machine to machine; whether it works must not.
    without_versions() { awk -F' \\| ' -v OFS=' | ' '{ $2 = "…"; print }'; }
    diff -u <(sed -n '/^<!-- begin of the table/,/^<!-- end of the table/p' "$table" | grep '^|' | without_versions) \
        <(without_versions <"$output") ||
        { echo "run.sh: $table says something else: see above, and --update" >&2; exit 1; }
fi
echo "all is well"
