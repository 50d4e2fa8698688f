#!/usr/bin/env bash
# Run on a GPU what no other machine can show, in at most 35 minutes, and write one report.
#
#   bash tools/gpu_check.sh [--cpu] [--out FOLDER]
#
#   environment  .venv, by tools/setup_env.sh: around the PyTorch that is there if its version will do,
#                with onedl-mmcv's CUDA operators, which are compiled once and kept
#   tests        those marked gpu
#   benchmark    tools/benchmark_speed.py at COCO's size, with mixed precision
#   training     configs/ckd/retinanet_r101_r50.py on made-up images of full size, some ten iterations
#
# Each part has a time limit; one that fails does not stop the others. FOLDER/report.md (default:
# work_dirs/gpu_check) says how each ended and what it found, logs lie beside it. Exit status: 0 if
# all parts passed. A second call goes on with the environment that is there.
#
# --cpu runs every part in small without a GPU, to try this script. GPU_CHECK_SECONDS sets another
# limit for all parts together; PYTHON and the other variables of tools/setup_env.sh hold here, too.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly total=${GPU_CHECK_SECONDS:-2100}
cpu='' out=work_dirs/gpu_check
while (($#)); do
  case $1 in
    --cpu) cpu=1 ;;
    --out) out=${2:?--out needs a folder} && shift ;;
    *) printf 'gpu_check: error: unknown option %s: see the head of tools/gpu_check.sh\n' "$1" >&2 && exit 2 ;;
  esac
  shift
done
mkdir -p "$out"
out=$(cd "$out" && pwd -P)
readonly cpu out recipe=configs/ckd/retinanet_r101_r50.py python=.venv/bin/python

main() {
  local results=''
  failed=0
  # MMEngine's logs and the tests do not need more, and several processes would fight for the cores.
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} PYTHONUNBUFFERED=1
  [[ -z $cpu ]] || export CUDA_VISIBLE_DEVICES='' MMKD_TEST_DEVICE=cpu
  part 1200 environment
  part 480 tests
  part 240 benchmark
  part 300 training
  report >"$out/report.md"
  printf 'gpu_check: %s of 4 parts failed after %s s; report: %s\n' "$failed" "$SECONDS" "$out/report.md"
  ((failed == 0))
}

# part SECONDS NAME: run the function of this name within its time, and within what is left of all.
part() {
  local limit=$1 name=$2 began=$SECONDS status=0 result=passed
  ((limit < total - SECONDS)) || limit=$((total - SECONDS > 1 ? total - SECONDS : 1))
  printf 'gpu_check: %s (at most %s s)\n' "$name" "$limit"
  # The functions below, in a shell of their own, so that `timeout` can end it with all it started.
  timeout --kill-after=20 "$limit" bash -euo pipefail -c "$(declare -p cpu out recipe python)
$(declare -f "$name")
$name" >"$out/$name.log" 2>&1 </dev/null || status=$?
  case $status in
    0) ;;
    124 | 137) result="ended after its $limit s" ;;
    *) result="failed, exit status $status" ;;
  esac
  ((status == 0)) || failed=$((failed + 1))
  printf 'gpu_check: %s: %s, %s s\n' "$name" "$result" "$((SECONDS - began))"
  results+="| $name | $result | $((SECONDS - began)) | $limit |"$'\n'
}

# --- The parts ----------------------------------------------------------------------------------

environment() {
  # Around the PyTorch of PYTHON where that will do.
  if [[ ! -e $python ]] && "${PYTHON:-python3}" - "$cpu" <<'PYTHON'; then
import sys

import torch
import torchvision

version = tuple(map(int, torch.__version__.split('+')[0].split('.')[:2]))
sees = torch.cuda.is_available() or sys.argv[1]
sys.exit(not (sees and version >= (2, 6) and sys.version_info[:2] in ((3, 11), (3, 12))))
PYTHON
    export PYTHON=${PYTHON:-python3} KEEP_PACKAGES=1
  fi
  bash tools/setup_env.sh
  "$python" - "$cpu" <<'PYTHON'
import sys

import torch
import torchvision
from mmcv.ops import get_compiling_cuda_version
from mmengine.utils.dl_utils import collect_env

for name, value in collect_env().items():
    print(f'{name}: {value}')
print('onedl-mmcv compiled for CUDA:', get_compiling_cuda_version())
assert sys.argv[1] or torch.cuda.is_available(), 'PyTorch sees no GPU'
PYTHON
}

tests() {
  "$python" -m pytest -m gpu -p no:cacheprovider --durations=5 tests
}

benchmark() {
  local options=(--device cuda --amp --size 800 1333 --batch 2 --steps 21 --warm-up 5)
  [[ -z $cpu ]] || options=(--size 64 --batch 2 --steps 1 --warm-up 1)
  "$python" tools/benchmark_speed.py "$recipe" "${options[@]}" --out "$out/benchmark.json"
}

training() {
  local data=$out/images steps=train_dataloader.dataset.pipeline
  local size=800 scale='(1333,800)' amp=(--amp)
  [[ -z $cpu ]] || { size=64 scale='(96,64)' && amp=(); }
  "$python" tools/make_shapes.py "$data" --categories coco80 --train 24 --val 2 --size "$size"
  rm -rf "$out/training"
  # No file is fetched; images are stretched, as made-up ones are square.
  "$python" tools/train.py "$recipe" "${amp[@]}" --work-dir "$out/training" --cfg-options \
    data_root="$data/" model.teacher.checkpoint=random_init model.student.backbone.init_cfg=None \
    "$steps.2.keep_ratio=False" "$steps.2.scale=$scale" train_cfg.max_epochs=1 \
    default_hooks.logger.interval=1
}

# --- The report ---------------------------------------------------------------------------------

report() {
  printf '# GPU check\n\n'
  printf 'commit %s, %s%s\n\n' "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" \
    "$(date -u '+%Y-%m-%d %H:%M UTC')" "${cpu:+, WITHOUT A GPU: every part in small}"
  printf '| part | result | s | limit, s |\n|---|---|---:|---:|\n%s' "$results"
  for name in environment tests benchmark training; do
    printf '\n## %s\n\n```\n' "$name"
    tail -n 60 "$out/$name.log" | cut -c 1-300
    printf '```\n'
  done
}

main
