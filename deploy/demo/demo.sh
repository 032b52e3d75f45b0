#!/usr/bin/env bash
# A cluster on this machine, filled with real texts, that loses a node and does not mind.
#
#   make demo                 builds the program and runs this
#   DEMO_TEXTS=20000          how many texts (default 5000)
#   DEMO_CHARS=200            how much of each, in characters (default 400): embedding time grows with it
#   DEMO_ONCE=1               end after the questions instead of serving on
#   DEMO_PORT=17890           first of the ports; the next 33 are used too
#
# Three `mira node` processes and one `mira router` run on loopback, with their data in a folder that is removed at the
# end. MIRA_BIN names the program.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
mira="${MIRA_BIN:-mira}"
texts="${DEMO_TEXTS:-5000}"
port="${DEMO_PORT:-17890}"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/mira"

questions=(
    "a program to edit photos"
    "play chess against the computer"
    "recover deleted files from a disk"
    "learn to type faster"
    "see which program uses the network"
    "draw the stars and planets of tonight's sky"
)

say() { printf '\n\033[1m[%3d s] %s\033[0m\n' "$SECONDS" "$*"; }
fail() {
    printf 'demo: %s\n' "$*" >&2
    [ -d "${data:-}" ] && tail -n 5 "$data"/*.log >&2
    exit 1
}

command -v "$mira" >/dev/null || fail "$mira is not there; run make demo"
mkdir -p "$cache"
data="$(mktemp -d "$cache/demo.XXXXXX")"
declare -A pid=()

stop_all() {
    trap - EXIT INT TERM
    if [ ${#pid[@]} -gt 0 ]; then
        kill "${pid[@]}" 2>/dev/null || true
        wait "${pid[@]}" 2>/dev/null || true
    fi
    rm -rf "$data"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

grpc_of() { echo "127.0.0.1:$((port + 10 * $1 + 2))"; }

# start_node NUMBER: the first makes the cluster, the others join it.
start_node() {
    local formation=(--bootstrap)
    [ "$1" -eq 1 ] || formation=(--join "$(grpc_of 1)")
    [ "$1" -ne 1 ] || [ ! -d "$data/node-1" ] || formation=(--join "$(grpc_of 2),$(grpc_of 3)")
    "$mira" node --data "$data/node-$1" --cluster-key-file "$data/cluster.key" "${formation[@]}" \
        --listen "$(grpc_of "$1")" --http "127.0.0.1:$((port + 10 * $1 + 3))" 2>>"$data/node-$1.log" &
    pid[$1]=$!
}

# wait_for STATE: until `mira status` reports it, at most a minute.
wait_for() {
    local until=$((SECONDS + 60))
    while [ "$SECONDS" -lt "$until" ]; do
        if "$mira" status --json --timeout 2s 2>/dev/null | grep -q "\"state\": \"$1\""; then
            return
        fi
        sleep 0.2
    done
    fail "the cluster was not $1 within a minute"
}

ask_all() {
    local question
    for question in "${questions[@]}"; do
        printf '\n  %s?\n' "$question"
        "$mira" search -k 3 "$question" | sed 's/^/    /'
    done
}

# The ids that answer each question, for comparing.
answers() {
    local question
    for question in "${questions[@]}"; do
        "$mira" search -k 3 --json "$question" | grep '"id"'
    done
}

# The number of the node that leads the shard with the most frames.
busiest_leader() {
    "$mira" status --detailed --json | python3 -c '
import json, sys
status = json.load(sys.stdin)
shards = [group for group in status["groups"] if group.get("shard") is not None and group.get("leader")]
busiest = max(shards, key=lambda group: max(replica["frames"] for replica in group["replicas"]))
address = next(node["address"] for node in status["nodes"] if node["id"] == busiest["leader"])
print((int(address.rsplit(":", 1)[1]) - 2 - int(sys.argv[1])) // 10)
' "$port"
}

say "Collecting $texts texts"
python3 "$here/corpus.py" --count "$texts" --chars "${DEMO_CHARS:-400}" --cache "$cache/demo-lists" >"$data/texts.jsonl"

say "Starting three nodes and a router, each a process of its own"
(
    umask 077
    head -c 32 /dev/urandom | base64 >"$data/cluster.key"
    head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=' >"$data/token"
)
export MIRA_URL="http://127.0.0.1:$port" MIRA_TOKEN_FILE="$data/token"
unset MIRA_TOKEN
for number in 1 2 3; do start_node "$number"; done
"$mira" router --nodes "$(grpc_of 1),$(grpc_of 2),$(grpc_of 3)" --token-file "$data/token" \
    --http "127.0.0.1:$port" --grpc "127.0.0.1:$((port + 1))" 2>>"$data/router.log" &
pid[router]=$!
wait_for ok
"$mira" admin nodes | sed 's/^/  /'

say "Importing: every text is embedded, encrypted, and durable on two of three nodes before it counts"
"$mira" import "$data/texts.jsonl"

say "Asking"
ask_all
before="$(answers)"

victim="$(busiest_leader)"
say "Killing node $victim with -9: it leads the shard that holds these texts"
kill -9 "${pid[$victim]}"
wait "${pid[$victim]}" 2>/dev/null || true
unset "pid[$victim]"

say "Asking again, at once"
ask_all
[ "$(answers)" = "$before" ] || fail "the answers changed"
echo
echo "  The same answers. Storing goes on as well:"
"$mira" store --type note "Node $victim was killed during the demo, and nobody noticed" | sed 's/^/    stored /'
"$mira" search -k 1 "what happened to the node?" | sed 's/^/    /'

say "Starting node $victim again; it catches up by itself"
start_node "$victim"
wait_for ok
"$mira" status | sed 's/^/  /'

[ -z "${DEMO_ONCE:-}" ] || { say "Done"; exit 0; }

say "The cluster goes on serving until Ctrl-C. To use it:"
cat <<END
  claude mcp add --transport http mira $MIRA_URL/mcp --header "Authorization: Bearer $(cat "$data/token")"

  MIRA_URL=$MIRA_URL MIRA_TOKEN_FILE=$data/token $mira search "convert videos between formats"
END
wait "${pid[@]}"
