#!/usr/bin/env bash
# Talks to a cluster with the official Python MCP client, in both of its generations.
#
#   chaos-tests/python/mcp.sh          MIRA_BIN names the program (make test-mcp builds it and runs this)
#   chaos-tests/python/mcp.sh -k NAME  passes arguments on to unittest: one test only
#
# Starts `mira dev` on free ports with its data in a temporary folder, runs test_mcp.py once per client, and stops it.
# The clients come from PyPI into the cache folder, named after their requirements and the interpreter, so that a second
# run needs no network; pip is all they need. MIRA_PYTHON names the interpreter (default: python3; 3.11 or newer).
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# Seconds for the cluster to be ready on a machine that does other things beside.
patience=120

name=test-mcp
# shellcheck source=packages.sh
. "$here/packages.sh"
# First, so that no cluster waits for them.
clients=()
for requirements in "$here"/requirements-mcp-*.txt; do
    clients+=("$(packages "$requirements")")
done

data="$(mktemp -d "${TMPDIR:-/tmp}/mira-mcp.XXXXXX")"
pid=
stop() {
    trap - EXIT INT TERM
    if [ -n "$pid" ]; then
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    fi
    rm -rf "$data"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$mira" dev --http 127.0.0.1:0 --data "$data/cluster" >"$data/out" 2>"$data/err" </dev/null &
pid=$!
until grep -q '^Ctrl-C stops it' "$data/out"; do
    kill -0 "$pid" 2>/dev/null && [ "$SECONDS" -lt "$patience" ] \
        || fail "the cluster did not start: $(tail -n 20 "$data/err")"
    sleep 0.1
done
MIRA_URL="$(sed -n 's|^  MCP *\(http://.*\)/mcp$|\1|p' "$data/out")"
MIRA_TOKEN="$(cat "$data/cluster/token")"
export MIRA_URL MIRA_TOKEN

failed=0
for client in "${clients[@]}"; do
    echo "test-mcp: $(basename "$client"/mcp-*.dist-info .dist-info) against $MIRA_URL"
    PYTHONPATH="$client" PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1 timeout 300 \
        "$python" -W error::ResourceWarning "$here/test_mcp.py" -v "$@" || failed=1
done
if [ "$failed" -ne 0 ]; then
    fail "failed; what the cluster said: $(tail -n 20 "$data/err")"
fi
