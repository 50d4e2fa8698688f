#!/usr/bin/env bash
# Test with several processes: one per GPU, or that many CPU processes where there is no GPU.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: [NNODES=1] [NODE_RANK=0] [MASTER_ADDR=127.0.0.1] [PORT=29500]" \
        "bash $0 CONFIG CHECKPOINT PROCESSES [options of tools/test.py]" >&2
    exit 2
fi

tools=$(dirname "$0")
# The environment of tools/setup_env.sh where there is one and no other is asked for.
if [ -z "${PYTHON:-}" ] && [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$tools/../.venv/bin/python" ]; then
    PYTHON=$tools/../.venv/bin/python
fi
exec "${PYTHON:-python}" "$tools/launch.py" test.py "$3" \
    "$1" "$2" --launcher pytorch "${@:4}"
