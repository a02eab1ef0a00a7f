#!/usr/bin/env bash
# Runs tests against an installed wheel, in an environment of its own.
#
#   packaging/try_wheel.sh WHEEL TORCH FOLDER [PYTEST-ARGUMENTS ...]
#   packaging/try_wheel.sh dist/patchcore_fast-0.1.0-cp311-cp311-manylinux_2_28_x86_64.whl 2.13.0 build/try tests/kernels
#
# TORCH is a version, as in 2.14.1 or 2.13.0+cpu. FOLDER keeps the environment, so that a second run is quick. The wheel
# comes in as users install it; EXTRA=test adds what all tests need (torchvision must exist for that torch), without it
# the tests of the engine and the samplers can run. PYTHON names another interpreter than python3.
# The tests are a copy of this tree's: the package that they import is the installed one, or the run is stopped.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
wheel=$(realpath "$1") torch=$2
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$3"
folder=$(cd "$3" && pwd)
shift 3
[ $# -gt 0 ] || set -- tests/kernels tests/samplers/test_base.py tests/packaging/test_setup.py

python=$folder/venv/bin/python
pip=("$python" -m pip --disable-pip-version-check --quiet)
[ -x "$python" ] || "${PYTHON:-python3}" -m venv "$folder/venv"
"${pip[@]}" install "torch==$torch" numpy
"${pip[@]}" uninstall --yes patchcore_fast 2>/dev/null || true
"${pip[@]}" install "$wheel${EXTRA:+[$EXTRA]}"
# What tests of the engine import; the tests of the build build.
"${pip[@]}" install pytest pytest-xdist hypothesis psutil "setuptools>=77" cmake ninja "pybind11>=2.12"
"$python" -c "import torch; print('torch', torch.__version__)"

rm -rf "$folder/tree" "$folder/first"
mkdir -p "$folder/tree" "$folder/first" "$folder/empty"
tar -C "$root" --exclude=./build --exclude='*.so' --exclude=__pycache__ --exclude=./.git --exclude='./.*_cache' \
    --exclude='./*.egg-info' -cf - . | tar -C "$folder/tree" -xf -
# Loaded before pytest puts the tree in front of the path: what is imported stays imported.
cat >"$folder/first/installed_first.py" <<'PLUGIN'
import sysconfig

import patchcore_fast

assert patchcore_fast.__file__.startswith(sysconfig.get_path("platlib")), patchcore_fast.__file__
PLUGIN
cd "$folder/empty"
"$folder/venv/bin/patchcore-fast" doctor
arguments=()
for word; do case $word in tests | tests/*) arguments+=("$folder/tree/$word") ;; *) arguments+=("$word") ;; esac; done
PYTHONPATH="$folder/first" "$python" -m pytest -p installed_first -p no:cacheprovider -c "$folder/tree/pyproject.toml" \
    --rootdir "$folder/tree" -q "${arguments[@]}"
