"""Record which GPU backend `auto` should take on a card: from committed results to kernels/backends/measured.json.

    python -m benchmarks.gpu.choose_backend benchmarks/results/h100/kcenter.json benchmarks/results/h100/knn.json
    python -m benchmarks.gpu.choose_backend --check      # every entry still follows from the result that it names

A result counts where "patchcore_fast triton" and "patchcore_fast cuda" ran in it side by side, both right. The faster
one has the smaller geometric mean of its median times over all problems; one that was wrong, or failed, on a problem
that the other solved is never taken.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.harness import records
from patchcore_fast.kernels.backends.choice import CALLS, FILE

BACKENDS = ("triton", "cuda")
Entry = dict[str, str]


def faster(problems: list[dict[str, Any]], name: str) -> tuple[str, float]:
    """The backend to take, and how many times faster it is than the other (infinity: the other did not get through).

    Raises
    ------
    SystemExit : they were not compared, or neither got through.
    """
    logs, broken, compared = 0.0, set(), 0
    for problem in problems:
        rows = {r["provider"].removeprefix("patchcore_fast "): r for r in problem["rows"]}
        pair = [rows.get(b) for b in BACKENDS]
        if any(r is None or r["status"] == "not run" for r in pair):
            continue
        bad = {b for b, r in zip(BACKENDS, pair, strict=True) if r and r["status"] != "ok"}
        broken |= bad if len(bad) == 1 else set()
        if not bad:
            compared += 1
            logs += math.log(pair[0]["median_s"] / pair[1]["median_s"])  # type: ignore[index]
    if len(broken) == 1:
        return next(b for b in BACKENDS if b not in broken), math.inf
    if broken or not compared:
        raise SystemExit(f"{name}: no problem in which both {' and '.join(BACKENDS)} ran and were right")
    gain = math.exp(abs(logs) / compared)
    return BACKENDS[logs > 0], gain


def entry_of(path: Path, whole: dict[str, Any]) -> tuple[str, str, Entry]:
    """Compute capability, part of choice.CALLS, and the entry of one result."""
    place, name = whole["environment"], _relative(path)
    if place.get("kind") != "cuda" or "capability" not in place.get("cuda", {}):
        raise SystemExit(f"{name}: measured on {place.get('kind', 'nothing')}, a result from a CUDA device is wanted")
    if whole["benchmark"] not in CALLS:
        raise SystemExit(f"{name}: a result of {' or '.join(CALLS)} is wanted, got {whole['benchmark']!r}")
    if place["commit"] == "unknown" or place["commit"].endswith("+changes"):
        raise SystemExit(f"{name}: measured on changed or unknown sources ({place['commit']})")
    backend, gain = faster(whole["problems"], name)
    about = {"device": place["device"], "date": place["date"], "commit": place["commit"]}
    about[f"{whole['benchmark']}_result"] = name
    about[f"{whole['benchmark']}_gain"] = "the other was not right" if math.isinf(gain) else f"{gain:.2f} x"
    return place["cuda"]["capability"], whole["benchmark"], {whole["benchmark"]: backend, **about}


def committed(path: Path) -> bool:
    """Whether the file is in the repository as it lies there."""
    git = ["git", "-C", str(ROOT)]
    known = subprocess.run([*git, "ls-files", "--error-unmatch", str(path)], capture_output=True)
    same = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", str(path)], capture_output=True)
    return known.returncode == 0 and same.returncode == 0


def merged(known: dict[str, Entry], found: list[tuple[str, str, Entry]]) -> dict[str, Entry]:
    """What is recorded with new entries; parts of one card must come from one card and commit."""
    out = {capability: dict(entry) for capability, entry in known.items()}
    for capability, part, entry in found:
        before = out.get(capability, {})
        other = next((p for p in CALLS if p != part and p in before), None)
        if other and any(before[k] != entry[k] for k in ("device", "commit")):
            if all(p != other for c, p, _ in found if c == capability):
                raise SystemExit(f"{capability}: {other} is recorded from another device or commit; give both results")
            before = {}
        out[capability] = {**before, **entry}
    return dict(sorted(out.items()))


def stale() -> list[str]:
    """Entries that the results they name do not give."""
    problems = []
    for capability, entry in json.loads(FILE.read_text(encoding="utf-8")).items():
        for part in CALLS:
            if part not in entry:
                continue
            path = ROOT / entry[f"{part}_result"]
            found, _, told = entry_of(path, records.read(path))
            wrong = [k for k in told if told[k] != entry.get(k)]
            if found != capability or wrong:
                problems.append(f"{capability} {part}: {', '.join(wrong) or 'another card'} differ from {path.name}")
    return problems


def _relative(path: Path) -> str:
    path = path.resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def main(argv: list[str] | None = None) -> None:
    """See above."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("results", type=Path, nargs="*", metavar="RESULT.json")
    p.add_argument("--check", action="store_true", help="fail where an entry does not follow from its result")
    args = p.parse_args(argv)
    if args.check:
        sys.exit("\n".join(stale()) or None)
    if not args.results:
        p.error("a RESULT.json is wanted, or --check")
    if loose := [str(path) for path in args.results if not committed(path)]:
        raise SystemExit(f"not committed as they are: {', '.join(loose)}")
    found = [entry_of(path, records.read(path)) for path in args.results]
    new = merged(json.loads(FILE.read_text(encoding="utf-8")), found)
    records.write_json(FILE, new)
    for capability, part, entry in found:
        print(f"{capability} {CALLS[part]}: {entry[part]} ({entry[f'{part}_gain']})")


if __name__ == "__main__":
    main()
