#!/usr/bin/env bash
# From a clone to a distilled detector or classifier: set up the environment, make the embedded data,
# train a teacher, a plain student and distilled students, and compare them. Arguments: see --help.
#
#   bash tools/quickstart.sh
#   bash tools/quickstart.sh --task classification
#
# Interrupt it at any time: the same command goes on where it stopped. See docs/quickstart.md.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
bash "$root/tools/setup_env.sh"
# exec: Ctrl-C and SIGTERM reach the program itself, which stops its trainings in order.
exec "$root/.venv/bin/python" "$root/tools/quickstart.py" "$@"
