#!/usr/bin/env bash
# Run the tests in the environment that tools/setup_env.sh builds; arguments go to pytest.
#
#   bash tools/run_tests.sh
#   bash tools/run_tests.sh tests/test_functional -k ckd
#
# Environment variables:
#   TEST_PROCESSES  pytest processes (default: one per core, at most 8)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup_env.sh

cores=$(nproc)
processes=${TEST_PROCESSES:-$((cores < 8 ? cores : 8))}
report=$(mktemp)
trap 'rm -f "$report"' EXIT

# One thread each: the tensors are tiny, and threads of several processes would fight for the cores.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# worksteal: neighbours, which share fixtures, stay together, and no process idles at the end.
.venv/bin/python -m pytest -n "$processes" --dist worksteal --durations=15 --junitxml "$report" "$@"

# pytest calls a run green in which every test was skipped; here it is not.
.venv/bin/python - "$report" <<'PYTHON'
import sys
import xml.etree.ElementTree

suites = list(xml.etree.ElementTree.parse(sys.argv[1]).iter('testsuite'))
executed = sum(int(suite.get('tests', 0)) - int(suite.get('skipped', 0)) for suite in suites)
if not executed:
    sys.exit('run_tests: error: no test was executed: see the skip reasons above')
PYTHON
