#!/usr/bin/env bash
# The faults of `make chaos` on containers: chaos.sh PROGRAM COMMAND…, where COMMAND is the chaos run.
#
# Needs a Docker engine. Without one it fails, unless MIRA_CONTAINERS=optional says that this machine need not have any.
set -euo pipefail
program=$1
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if ! docker info >/dev/null 2>&1; then
    echo "#### CONTAINERS NOT TESTED: no Docker engine answers on this machine (docker info fails). ####" >&2
    if [ "${MIRA_CONTAINERS:-}" = optional ]; then exit 0; fi
    echo "Start one, or say MIRA_CONTAINERS=optional." >&2
    exit 1
fi
image=mira:chaos
"$here/build.sh" "$program" "$image"
MIRA_IMAGE=$image "$@"
