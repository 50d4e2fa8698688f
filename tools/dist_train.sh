#!/usr/bin/env bash
# Train with several processes: one per GPU, or that many CPU processes where there is no GPU.
#
#   [NNODES=1] [NODE_RANK=0] [MASTER_ADDR=127.0.0.1] [PORT=29500] \
#       bash tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
set -euo pipefail

clone=$(dirname "$0")/..
# The environment of tools/setup_env.sh where there is one and no other is asked for.
if [ -z "${PYTHON:-}" ] && [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$clone/.venv/bin/python" ]; then
    PYTHON=$clone/.venv/bin/python
fi
PYTHONPATH="$clone${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m mmkd dist-train "$@"
