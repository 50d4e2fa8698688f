#!/usr/bin/env bash
# Build the environment `.venv` at the root of the repository, from requirements/constraints.txt.
#
#   bash tools/setup_env.sh
#
# A step that is done leaves a stamp in .venv/.setup and is skipped until what it was made from
# changes, so that a second call ends at once and an interrupted one goes on where it stopped.
# Logs: .venv/log. To start over: remove .venv.
#
# Environment variables:
#   PYTHON            interpreter to build .venv with (default: python3.11, python3.12 or python3)
#   CXX               C++ compiler for onedl-mmcv's operators (default: c++)
#   MAX_JOBS          files compiled at a time (default: one per core, less where memory is short)
#   MMKD_WHEEL_CACHE  where the compiled onedl-mmcv is kept for other clones
#                     (default: ${XDG_CACHE_HOME:-~/.cache}/mmkd/wheels)
#   KEEP_PACKAGES     1: a new .venv uses the packages of PYTHON, PyTorch above all, at whatever versions,
#                     and only what is missing is installed
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
readonly root
readonly venv=$root/.venv
readonly venv_python=$venv/bin/python
readonly state=$venv/.setup
readonly logs=$venv/log
readonly constraints=$root/requirements/constraints.txt
# 3.10 and older: several pins need 3.11. 3.13 and newer: onedl-mmcv does not name them.
readonly supported_pythons='3.11 3.12'
# CFLAGS replaces Python's own flags, the optimisation level included: without -O2 the operators run
# several times slower. -g0: Python's flags may ask for debug information, which doubles the time.
readonly compile_flags='-O2 -DNDEBUG -fwrapv -g0'
readonly disk_gb=12
readonly temporary_gb=4

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PYTHONNOUSERSITE=1
unset PYTHONPATH PYTHONHOME

child=''

main() {
  if all_steps_stamped; then
    say '.venv is ready'
    return
  fi
  check_platform
  mkdir -p "$state" "$logs"
  wait_for_lock
  if all_steps_stamped; then
    say '.venv is ready'
    return
  fi

  check_venv_python
  stamped packages || check_disk
  stamped mmcv || check_compiler

  say "setting up $venv; interrupt it at any time, the next call goes on from there"
  run_step venv '10 s' 'creating the environment' create_venv
  run_step build_tools '10 s' 'installing the build tools' install_build_tools
  run_step packages '1 to 5 min, 3 GB to download' 'installing PyTorch and the other packages' \
    install_packages
  run_step mmcv '2 min on 2 cores, 10 s if an earlier build is cached' \
    'installing onedl-mmcv with its compiled operators' install_mmcv
  run_step mmkd '5 s' 'installing mmkd itself, editable' install_mmkd
  run_step checked '15 s' 'checking that everything can be imported' check_imports
  say ".venv is ready after $SECONDS s; . .venv/bin/activate puts it on your PATH"
}

# --- Messages -----------------------------------------------------------------------------------

say() { printf 'setup: %s\n' "$*"; }

# die WHAT FIX: name what is missing and what to do about it.
die() {
  printf 'setup: error: %s\n       fix: %s\n' "$1" "$2" >&2
  exit 1
}

# --- Steps and their stamps ---------------------------------------------------------------------

readonly all_steps='venv build_tools packages mmcv mmkd checked'

# Print what a step is made from; its stamp holds the same text, so any change undoes the stamp.
step_key() {
  case $1 in
    # pyvenv.cfg names the interpreter; scripts in bin hold the environment's path.
    venv) printf '%s\n' "$venv" && grep -E '^(home|version)' "$venv/pyvenv.cfg" ;;
    build_tools) step_key venv && pinned_build_tools ;;
    packages) step_key venv && grep -v '^#' "$constraints" ;;
    mmcv) step_key venv && pinned torch onedl-mmcv && printf '%s\n' "$compile_flags" ;;
    mmkd) step_key venv && cat "$root/setup.py" && grep '^__version__' "$root/mmkd/__init__.py" ;;
    checked) step_key packages && step_key mmcv && step_key mmkd ;;
  esac
}

stamped() {
  local key
  [[ -f $state/$1 ]] && key=$(step_key "$1" 2>/dev/null) && [[ $(<"$state/$1") == "$key" ]]
}

all_steps_stamped() {
  local step
  [[ -x $venv_python ]] || return 1
  if [[ -n ${PYTHON:-} && $(python_version "$PYTHON") != "$(python_version "$venv_python")" ]]; then
    return 1
  fi
  for step in $all_steps; do
    stamped "$step" || return 1
  done
}

# run_step NAME USUAL_TIME LABEL FUNCTION: run it with its output in a log, show that it is alive,
# stamp it if it succeeded.
run_step() {
  local name=$1 usual=$2 label=$3 run=$4
  local log=$logs/$name.log started=$SECONDS next_report=$((SECONDS + 20)) polls=0 status=0
  if stamped "$name"; then
    return
  fi
  rm -f "$state/$name"
  say "$label (usually $usual; log: ${log#"$root/"})"

  # Job control gives the step a process group of its own, so that stop_child ends compilers too.
  set -m
  "$run" >"$log" 2>&1 </dev/null &
  child=$!
  set +m
  while kill -0 "$child" 2>/dev/null; do
    # Short steps end at once, long ones are not polled to death.
    sleep "$((polls++ < 50 ? 0 : 1)).02"
    if ((SECONDS >= next_report)); then
      say "  $((SECONDS - started)) s: $(progress_of "$log")"
      next_report=$((SECONDS + 20))
    fi
  done
  wait "$child" || status=$?
  child=''
  ((status == 0)) || fail_step "$label" "$log"

  # Written aside and moved: a stamp is whole or not there.
  step_key "$name" >"$state/$name.new"
  mv "$state/$name.new" "$state/$name"
}

# The last line of a log that says something, short enough for a terminal.
progress_of() {
  tail -n 20 "$1" | tr '\r' '\n' | grep -vE '^(WARNING|\s*$)' | tail -n 1 |
    sed -E 's/^ *//; s/^(\[[0-9]+\/[0-9]+\]) .*/\1 files compiled/' | cut -c 1-70
}

fail_step() {
  local label=$1 log=$2
  {
    printf 'setup: error: failed at %s; the last lines of %s:\n' "$label" "$log"
    tail -n 25 "$log" | cut -c 1-300 | sed 's/^/    /'
  } >&2
  die "$label failed" "$(suggest_fix "$log")"
}

suggest_fix() {
  local log=$1 package
  package=$(sed -n 's/.*No matching distribution found for \([^ ]*\).*/\1/p' "$log" | tail -n 1)
  if grep -qi 'no space left on device' "$log"; then
    printf 'free disk space (%s GB are needed), or set TMPDIR to a larger disk; run this again' \
      "$disk_gb"
  elif grep -qE 'NewConnectionError|ConnectTimeout|ReadTimeout|NameResolutionError|ProxyError|SSLError' \
    "$log"; then
    printf 'the package index was not reached: check the network, or point PIP_INDEX_URL (or '
    printf 'HTTPS_PROXY) at one that can be reached; run this again'
  elif [[ -n $package ]]; then
    printf 'the package index has no %s for this Python and system: check PIP_INDEX_URL, or change ' \
      "$package"
    printf 'the pin in requirements/constraints.txt'
  elif grep -qE 'CUDA_HOME environment variable is not set|detected CUDA version' "$log"; then
    printf 'PyTorch sees a GPU, so its operators are compiled too: install the CUDA toolkit of the '
    printf "version that the log names, or set CUDA_HOME to it; 'CUDA_VISIBLE_DEVICES= bash "
    printf "tools/setup_env.sh' builds the operators for the CPU only"
  elif grep -qE 'Killed signal|out of memory|Cannot allocate memory' "$log"; then
    printf 'the compiler ran out of memory: run this again with MAX_JOBS=1'
  else
    printf 'read the log, %s; run this again (removing .venv first starts over)' "$log"
  fi
}

stop_child() {
  [[ -z $child ]] || kill -TERM -- "-$child" 2>/dev/null || true
}
trap 'stop_child; say "interrupted; run it again to go on"; exit 130' INT
trap 'stop_child; say "stopped; run it again to go on"; exit 143' TERM HUP

# The lock is held by this process and its children: after a kill of this script alone, the next
# call waits for what is still being installed.
wait_for_lock() {
  exec 9>"$state/lock"
  if ! flock --nonblock 9; then
    say 'another set-up of this .venv is running; waiting for it'
    flock 9
  fi
}

# --- What has to be there -----------------------------------------------------------------------

check_platform() {
  local platform
  platform=$(uname -sm)
  [[ $platform == 'Linux x86_64' ]] || die \
    "requirements/constraints.txt pins packages for Linux x86_64, this is $platform" \
    'install by hand as docs/install.md describes'
}

python_version() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

supported() { [[ -n $1 && " $supported_pythons " == *" $1 "* ]]; }

# Print the interpreter to use: PYTHON if it is set, else the first on the PATH that will do.
find_python() {
  local candidate version
  if [[ -n ${PYTHON:-} ]]; then
    version=$(python_version "$PYTHON") || die "PYTHON=$PYTHON does not run" \
      "set PYTHON to a Python interpreter, version ${supported_pythons/ / or }"
    supported "$version" || die \
      "PYTHON=$PYTHON is Python $version; the pinned packages need ${supported_pythons/ / or }" \
      'set PYTHON to such an interpreter, for example PYTHON=/usr/bin/python3.11'
    printf '%s\n' "$PYTHON"
    return
  fi
  for candidate in python3.11 python3.12 python3; do
    if version=$(python_version "$candidate") && supported "$version"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  die "no Python ${supported_pythons/ / or } on the PATH (python3 is $(python_version python3 || echo missing))" \
    'install one (Debian, Ubuntu: apt-get install python3.11-venv python3.11-dev), or point PYTHON at it: PYTHON=/path/to/python3.11 bash tools/setup_env.sh'
}

# Settle which interpreter .venv has or will have.
check_venv_python() {
  local version
  if [[ -e $venv/pyvenv.cfg ]] && version=$(python_version "$venv_python"); then
    supported "$version" || die "$venv has Python $version, not ${supported_pythons/ / or }" \
      "remove $venv and run this again"
    [[ -z ${PYTHON:-} || $(python_version "$PYTHON") == "$version" ]] || die \
      "$venv has Python $version, PYTHON=$PYTHON is $(python_version "$PYTHON" || echo missing)" \
      "remove $venv and run this again, or unset PYTHON"
    base_python=$venv_python
    return
  fi
  base_python=$(find_python)
  version=$(python_version "$base_python")
  "$base_python" -c 'import ensurepip, venv' 2>/dev/null || die \
    "$base_python cannot create environments: its modules venv and ensurepip are missing" \
    "install them (Debian, Ubuntu: apt-get install python$version-venv)"
  say "using $base_python, Python $version"
}

check_compiler() {
  local compiler=${CXX:-c++}
  command -v "$compiler" >/dev/null || die \
    "no C++ compiler: '$compiler' is not on the PATH, and onedl-mmcv's operators are compiled here" \
    'install one (Debian, Ubuntu: apt-get install g++), or set CXX to it'
  "$base_python" -c '
import os, sys, sysconfig
sys.exit(not os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")))
' || die "the C headers of $base_python (Python.h) are missing" \
    "install them (Debian, Ubuntu: apt-get install python$(python_version "$base_python")-dev)"
}

check_disk() {
  require_space "$root" "$disk_gb" 'free some, or clone to a larger disk'
  require_space "${TMPDIR:-/tmp}" "$temporary_gb" 'free some, or set TMPDIR to a larger disk'
}

require_space() {
  local free
  free=$(df -Pk "$1" | awk 'NR == 2 {print int($4 / 1048576)}')
  ((free >= $2)) || die "$1 has $free GB of free disk space; $2 GB are needed" "$3"
}

# --- The steps ----------------------------------------------------------------------------------

# pinned NAME...: the lines `NAME==version` of requirements/constraints.txt.
pinned() {
  local name
  for name in "$@"; do
    grep -iE "^$name==" "$constraints" || {
      printf 'requirements/constraints.txt does not pin %s\n' "$name" >&2
      return 1
    }
  done
}

pinned_build_tools() {
  local -a names
  mapfile -t names < <(sed -n 's/^\([a-z]*\).*/\1/p' "$root/requirements/build.txt" | grep .)
  pinned "${names[@]}"
}

pip() { "$venv_python" -m pip "$@"; }

create_venv() {
  # An environment that works is adopted; anything else is (re)made in place.
  if [[ ! -e $venv/pyvenv.cfg ]] || ! "$venv_python" -m pip --version; then
    "$base_python" -m venv "$venv"
    [[ -z ${KEEP_PACKAGES:-} ]] || keep_packages
  fi
  "$venv_python" -m pip --version
}

# --system-site-packages would not see those of a PYTHON that is in an environment itself.
keep_packages() {
  local folder
  folder=$("$venv_python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  "$base_python" -c 'import sys
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

install_build_tools() {
  local list=$state/build_tools.txt
  pinned_build_tools >"$list"
  drop_half_installed
  pip install --no-deps -r "$list"
}

install_packages() {
  local list=$state/packages.txt
  drop_half_installed
  # Both OpenCV builds own the same files: removing one breaks the other, so both go first.
  if pip show --quiet opencv-python; then
    pip uninstall --yes opencv-python opencv-python-headless
  fi
  grep -vE '^(#|onedl-mmcv==)' "$constraints" | if keeps_packages; then missing; else cat; fi >"$list"
  # --no-deps: the list is complete. --no-build-isolation: the few that come as source are pure
  # Python and find setuptools here, at its pinned version.
  pip install --no-deps --no-build-isolation -r "$list"
}

# After a kill pip may take a package for installed whose files are not all there: forget those.
drop_half_installed() {
  "$venv_python" - <<'PYTHON'
import csv
import pathlib
import shutil
import sysconfig

site_packages = pathlib.Path(sysconfig.get_paths()['purelib'])


def is_whole(info):
    record = info / 'RECORD'
    # pip writes INSTALLER when a package's own files are in place.
    if not record.is_file() or not (info / 'INSTALLER').is_file():
        return False
    with record.open(encoding='utf-8', newline='') as rows:
        files = [row[0] for row in csv.reader(rows) if row and not row[0].endswith('.pyc')]
    return all((site_packages / file).exists() for file in files)


for info in site_packages.glob('*.dist-info'):
    if not is_whole(info):
        print('half installed, will be installed again:', info.name)
        shutil.rmtree(info)
# What pip renames before it removes it.
for leftover in site_packages.glob('~*'):
    print('left over by an interrupted uninstall:', leftover.name)
    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
PYTHON
}

install_mmcv() {
  local requirement cache
  requirement=$(pinned onedl-mmcv)
  drop_half_installed
  if mmcv_works "${requirement#*==}"; then
    printf '%s is installed and works\n' "$requirement"
    return
  fi
  cache=$(mmcv_cache_folder "$requirement")
  if install_cached_mmcv "$cache" "${requirement#*==}"; then
    return
  fi
  build_mmcv "$requirement" "$cache"
  install_cached_mmcv "$cache" "${requirement#*==}"
}

# pip's own wheel cache knows a package's version, not which torch and which flags it was compiled
# with: so the wheel is kept in a folder named after all of that.
mmcv_cache_folder() {
  local base=${MMKD_WHEEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mmkd/wheels} key
  key=$({
    printf '%s\n' "$1" "$compile_flags"
    "${CXX:-c++}" --version | head -n 1
    "$venv_python" -c '
import sysconfig, torch
print(torch.__version__, torch.cuda.is_available(), sysconfig.get_config_var("SOABI"))'
  } | sha256sum | cut -c 1-16)
  printf '%s/%s\n' "$base" "$key"
}

install_cached_mmcv() {
  local cache=$1 version=$2 wheel
  wheel=$(compgen -G "$cache/onedl_mmcv-$version-*.whl") || return 1
  pip install --no-deps --force-reinstall "$wheel" || return 1
  mmcv_works "$version" || {
    printf '%s does not work here: removed\n' "$wheel"
    rm -f "$wheel"
    return 1
  }
}

# The operators are there, and fit the torch that is there.
mmcv_works() {
  "$venv_python" - "$1" <<'PYTHON'
import sys

import torch
import mmcv
from mmcv.ops import nms

assert mmcv.__version__ == sys.argv[1], f'mmcv {mmcv.__version__} is installed'
torch.set_default_device('cuda' if torch.cuda.is_available() else 'cpu')
boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), iou_threshold=0.5)[1]
assert kept.tolist() == [0, 2], kept
PYTHON
}

build_mmcv() {
  local requirement=$1 cache=$2 build=$state/mmcv_build flags=$compile_flags
  local -x MAX_JOBS=${MAX_JOBS:-$(compile_jobs)}
  rm -rf "$build"
  mkdir -p "$build/wheel" "$cache"
  if precompile_torch_header "$build"; then
    flags+=" -include $build/torch_types.h -Winvalid-pch"
  fi
  if ! wheel_of_mmcv "$requirement" "$build/wheel" "$flags"; then
    [[ $flags != "$compile_flags" ]] || return 1
    printf '\nthe build with a precompiled header failed: building without\n\n'
    wheel_of_mmcv "$requirement" "$build/wheel" "$compile_flags"
  fi
  # Copied aside and moved: another clone sees a whole wheel or none.
  cp "$build"/wheel/onedl_mmcv-*.whl "$cache/partial.$$"
  mv "$cache/partial.$$" "$cache/$(basename "$build"/wheel/onedl_mmcv-*.whl)"
  rm -rf "$build"
}

wheel_of_mmcv() {
  CFLAGS=$3 pip wheel --verbose --no-deps --no-build-isolation --no-cache-dir \
    --no-binary onedl-mmcv --wheel-dir "$2" "$1"
}

# Four fifths of the time of the plain build go into reading torch/types.h once per file (78 files).
# The compiler uses the precompiled header only if it was made with the very flags of the build,
# which are torch's; where they differ it reads the header itself, and the build is slow but right.
precompile_torch_header() {
  local build=$1
  [[ $build != *' '* ]] || return 1
  printf '#include <torch/types.h>\n' >"$build/torch_types.h"
  local includes
  includes=$("$venv_python" -c '
import sysconfig
from torch.utils.cpp_extension import include_paths
print(*("-I" + path for path in [*include_paths(), sysconfig.get_paths()["include"]]))')
  # shellcheck disable=SC2086  # flags are words
  "${CXX:-c++}" $compile_flags -fPIC $includes -std=c++17 -DTORCH_API_INCLUDE_EXTENSION_H \
    -DTORCH_EXTENSION_NAME=_ext -x c++-header "$build/torch_types.h" -o "$build/torch_types.h.gch" ||
    {
      printf '\nno precompiled header with this compiler: building without\n\n'
      return 1
    }
}

# One file takes up to 1.5 GB.
compile_jobs() {
  awk -v cores="$(nproc)" '/^MemAvailable/ {
    jobs = int($2 / 1572864)
    print jobs < 1 ? 1 : jobs < cores ? jobs : cores
  }' /proc/meminfo
}

install_mmkd() {
  drop_half_installed
  pip install --no-deps --no-build-isolation --editable "$root"
}

check_imports() {
  # From elsewhere, so that mmkd is found as installed and not as a folder at hand.
  cd /
  "$venv_python" - "$constraints" "$(keeps_packages && echo kept)" <<'PYTHON'
import importlib
import importlib.metadata
import pathlib
import sys

wrong = []
for line in pathlib.Path(sys.argv[1]).read_text(encoding='utf-8').splitlines():
    if not line or line.startswith('#'):
        continue
    name, version = line.split('==')
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        installed = 'missing'
    if installed != version:
        wrong.append(f'{name}: {installed}, not {version}')
if wrong:
    said = 'not as pinned: ' + '; '.join(wrong)
    print(said) if sys.argv[2] else sys.exit(said)
for module in 'torchvision mmengine mmcv.ops mmdet mmpretrain cv2 pycocotools.mask mmkd'.split():
    importlib.import_module(module)
PYTHON
}

main "$@"
