# shellcheck shell=bash
# What the scripts beside this one share: the interpreter, the program under test, packages from PyPI.
#
# MIRA_BIN names the program, MIRA_PYTHON the interpreter (3.11 or newer). Who sources this sets `name`, for messages.
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/mira"
python="${MIRA_PYTHON:-python3}"
mira="${MIRA_BIN:-$here/../../target/debug/mira}"

fail() {
    echo "${name:?}: $*" >&2
    exit 1
}

# packages REQUIREMENTS: prints a folder that holds them.
packages() {
    local folder part
    folder="$cache/python/$(basename "$1" .txt)-$({ "$python" -VV; cat "$1"; } | sha256sum | cut -c1-12)"
    if [ ! -d "$folder" ]; then
        echo "${name:?}: installing $(basename "$1") (once per machine)" >&2
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
