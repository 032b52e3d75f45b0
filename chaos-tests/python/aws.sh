#!/usr/bin/env bash
# Backups in an S3 store and cluster keys wrapped by KMS: the real program against a server that speaks both (moto, from
# PyPI).
#
#   chaos-tests/python/aws.sh          MIRA_BIN names the program (make test-aws builds it and runs this)
set -euo pipefail

name=test-aws
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=packages.sh
. "$here/packages.sh"

PYTHONPATH="$(packages "$here/requirements-aws.txt")"
export PYTHONPATH PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1 MIRA_BIN="$mira"
exec timeout 600 "$python" "$here/test_aws.py" -v "$@"
