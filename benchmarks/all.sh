#!/usr/bin/env bash
# Makes the committed results of one machine, then the pages:
#
#     bash benchmarks/all.sh xeon-2-cores-amx            # PYTHON=... for another interpreter; nothing else should run
#
# About 20 minutes on two idle cores, most of it in sequential competitors, whose time --limit-s bounds.
set -euo pipefail
cd "$(dirname "$0")/.."
device=${1:?"a name for this machine is wanted, as a folder under benchmarks/results"}
python=${PYTHON:-python3}
out=benchmarks/results/$device

"$python" benchmarks/kcenter.py --n 10000 40000 156800 --ratio 0.01 0.001 0.1 --limit-s 45 --check-picks 4000 \
  --without "amazon exact" --json "$out/kcenter.json"
"$python" benchmarks/knn.py --json "$out/knn.json"
# Who survives 8 GB with 6.1 GB of features? Few picks: memory is the question, and each reads all features again.
"$python" benchmarks/kcenter.py --case million --k 100 --memory-gb 8 --repeat 1 --limit-s 15 --check-picks 100 \
  --json "$out/memory-8gb.json"
"$python" benchmarks/render.py
