#!/usr/bin/env bash
# One command for a machine with a CUDA device: build, benchmarks, tests; under nine minutes a call, no network.
#
#     bash benchmarks/gpu.sh FOLDER             # or OUT=FOLDER; PYTHON=... for another interpreter; see gpu/run.py
#     bash benchmarks/gpu.sh FOLDER --call B    # Triton, all tests, sanitizers, large cases; then --call C, the rest
#     bash benchmarks/gpu.sh FOLDER --dry-run   # the same on the CPU with tiny sizes: does everything start and end?
#
# In a copy of the tree without git, PATCHCORE_FAST_COMMIT=... says which commit it is; without both it does not start.
# IT HAS NOT RUN ON A GPU YET.
set -uo pipefail
cd "$(dirname "$0")/.."
# gpu/run.py ends itself before; the limit is for a machine on which even that hangs.
exec timeout --kill-after=4 535 "${PYTHON:-python3}" -m benchmarks.gpu.run "$@"
