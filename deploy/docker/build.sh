#!/usr/bin/env bash
# Builds the image of the `mira` program: build.sh PROGRAM IMAGE
#
# The image holds the program and what `ldd` says it needs, so it runs wherever this machine's programs do.
set -euo pipefail
program=$1 image=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
mkdir -p "$context/root/usr/bin" "$context/root/tmp" "$context/root/etc"
chmod 1777 "$context/root/tmp"
install -m 755 "$program" "$context/root/usr/bin/mira"
strip --strip-debug "$context/root/usr/bin/mira"
echo "mira:x:10001:10001::/:/nonexistent" > "$context/root/etc/passwd"
# Lines of ldd: `name => /path (address)`, and the loader as `/path (address)`.
ldd "$program" | grep -o '/[^ ]*' | sort -u | while read -r library; do
    install -D -m 755 "$(readlink -f "$library")" "$context/root$library"
done
cp "$here/Dockerfile" "$context/"
docker build --quiet --tag "$image" "$context"
