#!/usr/bin/env bash
# Build the environment `.venv` at the root of the repository, from requirements/constraints.txt.
#
#   bash tools/setup_env.sh
#   bash tools/setup_env.sh --docs   # and what tools/build_docs.sh needs, requirements/docs.txt
#
# A call with nothing to do ends at once. Interrupt it at any time: the next call goes on with what
# is downloaded and compiled so far. To start over: remove .venv.
#
# Environment variables:
#   PYTHON            interpreter to build .venv with (default: python3.11, python3.12 or python3)
#   CXX               C++ compiler for onedl-mmcv's operators (default: c++)
#   MAX_JOBS          files compiled at a time (default: one per core, less where memory is short)
#   MMKD_WHEEL_CACHE  where the compiled onedl-mmcv is kept for other clones
#                     (default: ${XDG_CACHE_HOME:-~/.cache}/mmkd/wheels)
#   KEEP_PACKAGES     1: a new .venv uses the packages of PYTHON, PyTorch above all, at whatever versions,
#                     and only what is missing is installed
# and those of uv, which installs the packages: UV_DEFAULT_INDEX, UV_CACHE_DIR, SSL_CERT_FILE, ...
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
readonly root venv=$root/.venv constraints=$root/requirements/constraints.txt
readonly state=$venv/.setup venv_python=$venv/bin/python
# CFLAGS replaces Python's own flags, the optimisation level included: without -O2 the operators run
# several times slower. -g0: Python's flags may ask for debug information, which doubles the time.
readonly compile_flags='-O2 -DNDEBUG -fwrapv -g0'
readonly disk_gb=12

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PYTHONNOUSERSITE=1 VIRTUAL_ENV=$venv
unset PYTHONPATH PYTHONHOME

main() {
  set_up
  [[ ${1:-} != --docs ]] || install_docs
}

set_up() {
  if ready; then
    say '.venv is ready'
    return
  fi
  mkdir -p "$state"
  # What is started here holds the lock too: after a kill of this script alone, the next call waits.
  exec 9>"$state/lock"
  if ! flock --nonblock 9; then
    say 'another set-up of this .venv is running; waiting for it'
    flock 9
  fi
  if ready; then
    say '.venv is ready'
    return
  fi
  check_machine
  create_venv
  install_packages
  install_mmcv
  uv pip install --no-deps --no-build-isolation --editable "$root"
  # From elsewhere, so that mmkd is found as installed and not as a folder at hand.
  (cd / && "$venv_python" -c 'import mmdet, mmpretrain, cv2, pycocotools.mask, mmkd')
  # Written aside and moved: it is whole or not there.
  made_from >"$state/new"
  mv "$state/new" "$state/made_from"
  say ".venv is ready after $SECONDS s; . .venv/bin/activate puts it on your PATH"
}

say() { printf 'setup: %s\n' "$*"; }

# die WHAT FIX: name what is missing and what to do about it.
die() {
  printf 'setup: error: %s\n       fix: %s\n' "$1" "$2" >&2
  exit 1
}

# Everything that the environment depends on; where any of it changes, it is brought up to date.
made_from() {
  printf '%s\n' "$venv" "$compile_flags"
  grep -E '^(home|version)' "$venv/pyvenv.cfg"
  grep -v '^#' "$constraints"
  cat "$root/setup.py"
  grep '^__version__' "$root/mmkd/__init__.py"
}

ready() {
  [[ -f $state/made_from && $(made_from 2>/dev/null) == "$(<"$state/made_from")" ]] || return 1
  [[ -z ${PYTHON:-} ]] || same_python "$PYTHON"
}

same_python() {
  local version='import sys; print("%d.%d" % sys.version_info[:2])'
  [[ $("$1" -c "$version" 2>&1) == "$("$venv_python" -c "$version" 2>&1)" ]]
}

# --- What has to be there -----------------------------------------------------------------------

check_machine() {
  local platform free
  platform=$(uname -sm)
  [[ $platform == 'Linux x86_64' ]] || die \
    "requirements/constraints.txt pins packages for Linux x86_64, this is $platform" \
    'install by hand as docs/install.md describes'
  command -v "${CXX:-c++}" >/dev/null || die \
    "no C++ compiler: '${CXX:-c++}' is not on the PATH, and onedl-mmcv's operators are compiled here" \
    'install one (Debian, Ubuntu: apt-get install g++), or set CXX to it'
  free=$(df -Pk "$root" | awk 'NR == 2 {print int($4 / 1048576)}')
  [[ -e $venv_python ]] || ((free >= disk_gb)) || die \
    "$root has $free GB of free disk space; $disk_gb GB are needed" \
    'free some, or clone to a larger disk'
}

# Print the interpreter to use: PYTHON if it is set, else the first on the PATH that will do.
find_python() {
  local candidate problem problems='' candidates=(python3.11 python3.12 python3)
  [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if problem=$(check_python "$candidate" 2>&1); then
      printf '%s\n' "$candidate"
      return
    fi
    problems+="; $candidate: ${problem##*: }"
  done
  die "no Python to build .venv with${problems/;/:}" \
    'install one (Debian, Ubuntu: apt-get install python3.11-venv python3.11-dev), or point PYTHON at it: PYTHON=/path/to/python3.11 bash tools/setup_env.sh'
}

# 3.10 and older: several pins need 3.11. 3.13 and newer: onedl-mmcv does not name them.
check_python() {
  "$1" -c '
import os, sys, sysconfig
if sys.version_info[:2] not in ((3, 11), (3, 12)):
    sys.exit("it is Python %d.%d, the pins are for 3.11 and 3.12" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("its modules venv and ensurepip are missing (Debian: python%d.%d-venv)" % sys.version_info[:2])
if not os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
    sys.exit("its C headers are missing (Debian: python%d.%d-dev)" % sys.version_info[:2])
'
}

# --- The steps ----------------------------------------------------------------------------------

# pinned NAME...: the lines `NAME==version` of requirements/constraints.txt.
pinned() {
  local name
  for name in "$@"; do
    grep -iE "^$name==" "$constraints" || die "requirements/constraints.txt does not pin $name" 'add it'
  done
}

create_venv() {
  local python
  if [[ -e $venv/pyvenv.cfg ]]; then
    [[ -z ${PYTHON:-} ]] || same_python "$PYTHON" || die \
      "$venv was made with another Python than PYTHON=$PYTHON" "remove $venv, or unset PYTHON"
    # An environment that was made here is kept; in one that was moved, scripts name the old place.
    grep -qE "^command = .* $venv\$" "$venv/pyvenv.cfg" || touch "$state/unfinished"
  fi
  if [[ ! -e $venv/pyvenv.cfg || -e $state/unfinished ]] || ! "$venv_python" -m pip --version >/dev/null; then
    python=$(find_python)
    say "creating $venv with $python"
    "$python" -m venv "$venv"
    [[ -z ${KEEP_PACKAGES:-} ]] || keep_packages "$python"
  fi
}

# --system-site-packages would not see those of a PYTHON that is in an environment itself.
keep_packages() {
  local folder
  folder=$("$venv_python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  "$1" -c 'import sys
print(*(path for path in sys.path if path.endswith("-packages")), sep="\n")' >"$folder/kept.pth"
}

keeps_packages() { compgen -G "$venv/lib/python*/site-packages/kept.pth" >/dev/null; }

# Of the lines `NAME==version` those whose package is missing.
missing() {
  "$venv_python" -c '
import sys
from importlib.metadata import distributions
names = lambda text: text.lower().replace("_", "-")
there = {names(each.name) for each in distributions()}
sys.stdout.writelines(line for line in sys.stdin if names(line.partition("==")[0]) not in there)'
}

uv() { "$venv_python" -m uv "$@"; }

install_packages() {
  local tools reinstall=() force=()
  # After a kill a package may look installed whose files are not all there.
  [[ ! -e $state/unfinished ]] || { reinstall=(--reinstall) force=(--force-reinstall); }
  touch "$state/unfinished"
  mapfile -t tools < <(pinned uv pip setuptools wheel)
  "$venv_python" -m pip install --quiet --no-deps "${force[@]}" "${tools[@]}"
  use_index_of_pip
  say 'installing PyTorch and the other packages (3 GB to download, unless uv has them in its cache)'
  # Both OpenCV builds own the same files: removing one breaks the other, so both go first.
  if uv pip show --quiet opencv-python 2>/dev/null; then
    uv pip uninstall opencv-python opencv-python-headless
  fi
  # --no-deps: the list is complete. --no-build-isolation: the few that come as source are pure
  # Python and find setuptools here, at its pinned version.
  grep -vE '^(#|onedl-mmcv==)' "$constraints" | if keeps_packages; then missing; else cat; fi |
    uv pip install "${reinstall[@]}" --no-deps --no-build-isolation -r -
  rm "$state/unfinished"
}

# uv does not read pip's settings.
use_index_of_pip() {
  local index=${PIP_INDEX_URL:-$("$venv_python" -m pip config get global.index-url 2>/dev/null || true)}
  export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-120} UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
  [[ -n $UV_DEFAULT_INDEX ]] || unset UV_DEFAULT_INDEX
}

# A group of its own, so that the set-up of the tests stays short. The list is complete; where all of it is there
# already, uv needs no network.
install_docs() {
  use_index_of_pip
  uv pip install --quiet --no-deps -r "$root/requirements/docs.txt"
}

install_mmcv() {
  local wheels
  wheels=$(mmcv_wheel_folder)
  if ! install_mmcv_wheel "$wheels"; then
    say "compiling onedl-mmcv's operators (2 min on 2 cores)"
    rm -rf "$wheels"  # what is there does not work here
    build_mmcv "$wheels"
    install_mmcv_wheel "$wheels" || die "the onedl-mmcv that was just compiled does not work (see above)" \
      "remove $venv and run this again; CXX=... takes another compiler"
  fi
}

# uv's and pip's own caches know a package's version, not which torch and which flags it was compiled
# with: so the wheel is kept in a folder named after all of that.
mmcv_wheel_folder() {
  local base=${MMKD_WHEEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mmkd/wheels} key
  key=$({
    printf '%s\n' "$(pinned onedl-mmcv)" "$compile_flags"
    "${CXX:-c++}" --version | head -n 1
    "$venv_python" -c '
import sysconfig, torch
print(torch.__version__, torch.cuda.is_available(), sysconfig.get_config_var("SOABI"))'
  } | sha256sum | cut -c 1-16)
  printf '%s/%s\n' "$base" "$key"
}

# Install the wheel of a folder and run an operator.
install_mmcv_wheel() {
  compgen -G "$1/onedl_mmcv-*.whl" >/dev/null || return 1
  uv pip install --no-deps --reinstall "$1"/onedl_mmcv-*.whl && "$venv_python" -c '
import torch
from mmcv.ops import nms

torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), iou_threshold=0.5)[1]
assert kept.tolist() == [0, 2], kept'
}

# build_mmcv FOLDER: compile the wheel and put it there.
build_mmcv() {
  local build=$state/mmcv_build header
  local -x MAX_JOBS=${MAX_JOBS:-$(compile_jobs)}
  rm -rf "$build"
  mkdir -p "$build" "$1"
  header=$build/torch_types.h
  if ! { precompile_torch_header "$header" &&
    compile_mmcv "$build" "$compile_flags -include $header -Winvalid-pch"; }; then
    say 'this compiler cannot use a precompiled header; building without'
    compile_mmcv "$build" "$compile_flags" || die 'compiling onedl-mmcv failed (see above)' \
      "MAX_JOBS=1 if the compiler was killed for memory; with a GPU: the CUDA toolkit of torch's version, or 'CUDA_VISIBLE_DEVICES= bash tools/setup_env.sh' for the CPU only"
  fi
  # Copied aside and moved: another clone sees a whole wheel or none.
  cp "$build"/onedl_mmcv-*.whl "$1/partial.$$"
  mv "$1/partial.$$" "$1/$(basename "$build"/onedl_mmcv-*.whl)"
  rm -rf "$build"
}

# compile_mmcv FOLDER FLAGS
compile_mmcv() {
  CFLAGS=$2 "$venv_python" -m pip wheel --no-deps --no-build-isolation --no-cache-dir \
    --no-binary onedl-mmcv --wheel-dir "$1" "$(pinned onedl-mmcv)"
}

# Four fifths of the time of the plain build go into reading torch/types.h once per file (78 files).
# The compiler uses the precompiled header only if it was made with the very flags of the build,
# which are torch's; where they differ it reads the header itself, and the build is slow but right.
precompile_torch_header() {
  [[ $1 != *' '* ]] || return 1
  printf '#include <torch/types.h>\n' >"$1"
  local includes
  includes=$("$venv_python" -c '
import sysconfig
from torch.utils.cpp_extension import include_paths
print(*("-I" + path for path in [*include_paths(), sysconfig.get_paths()["include"]]))')
  # shellcheck disable=SC2086  # flags are words
  "${CXX:-c++}" $compile_flags -fPIC $includes -std=c++17 -DTORCH_API_INCLUDE_EXTENSION_H \
    -DTORCH_EXTENSION_NAME=_ext -x c++-header "$1" -o "$1.gch"
}

# One file takes up to 1.5 GB.
compile_jobs() {
  awk -v cores="$(nproc)" '/^MemAvailable/ {
    jobs = int($2 / 1572864)
    print jobs < 1 ? 1 : jobs < cores ? jobs : cores
  }' /proc/meminfo
}

main "$@"
