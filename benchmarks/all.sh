#!/usr/bin/env bash
# Makes the committed results of one machine, then the pages:
#
#     bash benchmarks/all.sh xeon-2-cores-amx            # PYTHON=... for another interpreter; nothing else should run
#     bash benchmarks/all.sh xeon-2-cores-amx knn rarity # only these parts
#
# About half an hour on two idle cores, most of it in sequential competitors, whose time --limit-s bounds. Each part has a
# time after which it is ended; one that fails keeps its older result and does not stop the others. The last lines say
# which failed, and the status is 1 then.
set -uo pipefail
cd "$(dirname "$0")/.."
device=${1:?"a name for this machine is wanted, as a folder under benchmarks/results"}
shift
python=${PYTHON:-python3}
out=benchmarks/results/$device
parts=" ${*:-native kcenter knn rarity million memory-8gb elfs} "
failed=()

part() { # name, seconds, then the script as ROOM.SCRIPT and its options
  local name=$1 most=$2 script=$3 begin=$SECONDS
  shift 3
  [[ $parts == *" $name "* ]] || return 0
  echo "== $name (at most $((most / 60)) min): $script $*"
  timeout --kill-after=30 "$most" "$python" -m "benchmarks.$script" "$@" --json "$out/$name.json" || failed+=("$name")
  echo "== $name: $((SECONDS - begin)) s"
}

part native 720 speed.native
part kcenter 1500 speed.kcenter --n 10000 156800 --ratio 0.01 0.001 0.1 --limit-s 30 --check-picks 4000 \
  --without "amazon exact" --isa avx2 avx512f avx512
part knn 720 speed.knn --isa avx2 avx512f avx512
part rarity 480 speed.rarity --isa avx2 avx512f avx512
# 10,000 of a million rows: minutes for the plain loop, which is timed on fewer picks.
part million 480 speed.kcenter --case million --d 128 --k 10000 --repeat 1 --limit-s 40 --check-picks 1000 \
  --providers patchcore_fast torch "gemv loop"
# Who survives 8 GB with 6.1 GB of features? Few picks: memory is the question, and each reads all features again.
part memory-8gb 480 speed.kcenter --case million --k 100 --memory-gb 8 --repeat 1 --limit-s 15 --check-picks 100
part elfs 600 speed.elfs --images 300 --samplers greedy elfs "elfs pseudo"
"$python" -m benchmarks.pages.render || failed+=(render)
echo "== all: $SECONDS s${failed:+; FAILED: ${failed[*]}}"
[[ ${#failed[@]} == 0 ]]
