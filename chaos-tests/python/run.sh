#!/usr/bin/env bash
# Talks to a cluster with the official Python MCP client, in both of its generations.
#
#   chaos-tests/python/run.sh          MIRA_BIN names the program (make test-mcp builds it and runs this)
#   chaos-tests/python/run.sh -k NAME  passes arguments on to unittest: one test only
#
# Starts `mira dev` on free ports with its data in a temporary folder, runs test_mcp.py once per client, and stops it.
# The clients come from PyPI into the cache folder, named after their requirements and the interpreter, so that a second
# run needs no network; pip is all they need. MIRA_PYTHON names the interpreter (default: python3; 3.11 or newer).
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/mira"
python="${MIRA_PYTHON:-python3}"
mira="${MIRA_BIN:-$here/../../target/debug/mira}"
# Seconds for the cluster to be ready on a machine that does other things beside.
patience=120

fail() {
    echo "test-mcp: $*" >&2
    exit 1
}

# packages REQUIREMENTS: prints a folder that holds them.
packages() {
    local folder part
    folder="$cache/python/$(basename "$1" .txt)-$({ "$python" -VV; cat "$1"; } | sha256sum | cut -c1-12)"
    if [ ! -d "$folder" ]; then
        echo "test-mcp: installing $(grep '^mcp==' "$1") (once per machine)" >&2
        mkdir -p "$cache/python"
        part="$(mktemp -d "$folder.part.XXXXXX")"
        "$python" -m pip install --quiet --disable-pip-version-check --root-user-action ignore --only-binary :all: \
            --target "$part" --requirement "$1" >&2 \
            || { rm -rf "$part"; fail "pip could not install $1; is the package index reachable?"; }
        # Whole or not at all; who made it first wins.
        mv -T "$part" "$folder" 2>/dev/null || rm -rf "$part"
    fi
    echo "$folder"
}

command -v "$mira" >/dev/null || fail "$mira is not there; build it first (make build)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || fail "$python is missing or older than 3.11; name another with MIRA_PYTHON"
"$python" -m pip --version >/dev/null 2>&1 || fail "pip is missing (Debian: apt-get install python3-pip)"
# First, so that no cluster waits for them.
clients=()
for requirements in "$here"/requirements-*.txt; do
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
