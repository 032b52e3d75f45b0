#!/usr/bin/env bash
# Installs what the build needs beside Rust, or says what is missing.
#
#   deploy/deps/setup.sh [PACKAGE…]      also these, whose commands have their names
#
# Run as root on Debian or Ubuntu it installs the packages below; otherwise it names them and fails. What is there
# already, from whatever source, is left alone: each need is tested by what the build will do with it.
set -euo pipefail

# A C++20 compiler, for RocksDB.
has_cxx() { echo 'int main() { return 0; }' | "${CXX:-g++}" -std=c++20 -x c++ -fsyntax-only - 2>/dev/null; }

# libclang, with which bindgen reads RocksDB's C header. libclang-cpp, which other packages bring, is not it.
has_libclang() {
    local folder
    [ -z "${LIBCLANG_PATH:-}" ] || return 0
    for folder in /usr/lib/llvm-*/lib /usr/lib /usr/lib64 /usr/lib/*-linux-gnu; do
        ! compgen -G "$folder/libclang.so*" >/dev/null || return 0
        ! compgen -G "$folder/libclang-[0-9]*.so*" >/dev/null || return 0
    done
    return 1
}

# pip, with which the embedding model is fetched; not needed once the model is there.
has_pip() { "${MIRA_PYTHON:-python3}" -m pip --version >/dev/null 2>&1; }

# A fast linker. A wish, not a need: the build works without it.
has_mold() { command -v mold >/dev/null; }

missing=()
has_cxx || missing+=(g++)
has_libclang || missing+=(libclang-dev)
has_pip || missing+=(python3-pip)
for package in "$@"; do
    command -v "$package" >/dev/null || missing+=("$package")
done
needed=${#missing[@]}
has_mold || missing+=(mold)

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update --quiet --quiet
    apt-get install --yes --quiet --quiet --no-install-recommends "${missing[@]}"
elif [ "$needed" -gt 0 ]; then
    echo "setup: missing on this machine: ${missing[*]}" >&2
    echo "setup: on Debian or Ubuntu: sudo apt-get install ${missing[*]}" >&2
    exit 1
else
    echo "setup: linking would be faster with: sudo apt-get install ${missing[*]}"
fi
