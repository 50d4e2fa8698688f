#!/usr/bin/env bash
# Train the embedded teachers and the students' backbone again, and put them where the recipes of configs/shapes and
# configs/shapes_cls look for them. What is trained is not trained again; an interrupted training is continued.
#
#   bash tools/make_teachers.sh               # all: about two hours of one core
#   bash tools/make_teachers.sh gfl_teacher   # some, by the names of their configs
#
# A file is NAME-HASH.pth: float16 weights without code, with the class names, the config and the metrics on the test split
# in its meta. The recipes name the hash, so this script changes them too.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup_env.sh
python=.venv/bin/python
# The first two are what the others start from.
if (($# == 0)); then
  set -- resnet18_w8_backbone retinanet_teacher fcos_teacher gfl_teacher faster_rcnn_teacher dino_teacher \
    retinanet_digits_teacher textured_teacher digits_teacher
fi

for name in "$@"; do
  config=$(echo configs/shapes*/"$name".py)
  [[ -f $config ]] || { echo "make_teachers: error: there is no configs/shapes*/$name.py" >&2; exit 2; }
  work_dir=work_dirs/teachers/$name
  "$python" -c 'import sys
from mmengine.config import Config
from mmkd.datasets import make_default_set
make_default_set(Config.fromfile(sys.argv[1]).data_root, log=print)' "$config"
  resume=()
  [[ -f $work_dir/last_checkpoint ]] && resume=(--resume)
  "$python" tools/train.py "$config" --work-dir "$work_dir" "${resume[@]}"
  checkpoint=$(<"$work_dir/last_checkpoint")
  "$python" tools/test.py "$config" "$checkpoint" --work-dir "$work_dir/test"
  metrics=$(find "$work_dir/test" -name '*.json' -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2-)
  "$python" tools/export_student.py "$config" "$checkpoint" --half --metrics "$metrics" --name "$name" \
    --out-dir "$work_dir/exported"
  exported=$(find "$work_dir/exported" -name "$name-*.pth" -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2-)
  weights=$(dirname "$config")/weights
  mkdir -p "$weights"
  rm -f "$weights/$name"-*.pth
  cp "$exported" "$weights/"
  new=$(basename "$exported" .pth)
  grep -rlE "weights/$name-[0-9a-f]{8}" configs --include "*.py" | xargs -r sed -i -E "s,weights/$name-[0-9a-f]{8},weights/$new,"
  echo "$weights/$new.pth"
done
