#!/usr/bin/env bash
# One command for a machine with a CUDA device: all tests, then the benchmarks on it, results to a folder.
#
#     bash benchmarks/gpu.sh FOLDER        # or OUT=FOLDER; PYTHON=... for another interpreter
#
# IT HAS NOT RUN ON A GPU YET: this project's machines have none. A step that fails does not stop the ones after it; the
# script ends with status 1 then, and each step's output is in FOLDER/*.log.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-${OUT:?"a folder for the results is wanted, as argument or in OUT"}}
python=${PYTHON:-python3}
mkdir -p "$out"
failed=0
step() {
  local name=$1
  shift
  echo "== $name: $*"
  "$@" >"$out/$name.log" 2>&1 || { failed=1; echo "FAILED, see $out/$name.log"; }
  tail -n 15 "$out/$name.log"
}

step device "$python" -c "import torch; print(torch.__version__, torch.cuda.get_device_name())"
step tests "$python" -m pytest -q
step kcenter "$python" benchmarks/kcenter.py --device cuda --n 10000 40000 156800 --ratio 0.01 0.001 0.1 --limit-s 10 \
  --without "amazon exact" torch --json "$out/kcenter.json" --plot "$out/kcenter.png"
step knn "$python" benchmarks/knn.py --device cuda --without torch --json "$out/knn.json" --plot "$out/knn.png"
step memory-8gb "$python" benchmarks/kcenter.py --device cuda --case million --k 1000 --memory-gb 8 --repeat 1 \
  --limit-s 15 --check-picks 200 --json "$out/memory-8gb.json"
exit "$failed"
