#!/usr/bin/env bash
# Build the documentation site from docs/, the docstrings and the results: docs/_build/html/index.html.
#
#   bash tools/build_docs.sh
#
# Warnings are errors. The first call installs requirements/docs.txt into .venv; later ones need no network.
# Arguments go to sphinx-build: -E reads every page anew.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup_env.sh --docs

# As in .ci/run's tests: nothing here is worth more than a thread.
export OMP_NUM_THREADS=1
.venv/bin/python -m sphinx -W -q "$@" -b html docs docs/_build/html
printf 'docs: open docs/_build/html/index.html\n'
