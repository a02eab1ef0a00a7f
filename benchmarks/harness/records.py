"""Results on disk and as text.

A result file is JSON:

    schema       2
    benchmark    "kcenter", "knn", "rarity", "native", "pipeline" (its problems: speed/pipeline.py), or "gpu",
                 which has parts and targets (gpu/run.py, gpu/summary.py) and no problems
    environment  what environment.describe gives: device, memory, threads, versions, commit, date
    options      repeat, limit_s, memory_gb, device, seed
    machine      native: what csrc/tests/roofline.cpp prints, or {"message": why there is none}
    problems     a list of
        case, about, n, d      the features; rows and columns
        k                      picks, or neighbours
        queries                knn: number of query rows
        anchors                rarity: number of anchor rows
        part, options          of gpu/run.py, which puts problems of several runs into one file: the part, its options
        rows                   a list of
            provider, family   name; what decides colour and label: "ours" is what backend="auto" takes and others
                               are compared with, "ours torch" and "ours native-avx2" are leaves that were asked
                               for, "ours for anomalib" is a drop-in, "reduced tf32" is ours in arithmetic without a
                               certificate, else the library
            k, k_timed         picks asked for, picks made in the timed runs
            status             "ok"; "unjudged": timed, and ended before it was checked, only in a result that was
                               cut off; "wrong": picks or neighbours not what they should be, no times are kept;
                               "failed": died, ran out of memory or time, raised; "not run": why in message
            message            the reason, empty where ok
            median_s, min_s, max_s, runs   seconds (only where ok or unjudged)
            extrapolated_from  picks timed where the times are extrapolated to k, else null (only there)
            error              largest relative error found by check.py, null where nothing was returned
            leading            kcenter: leading picks equal to our engine's in the same space, of k_timed
            extra_bytes        peak memory beyond the features, of the timed runs (CPU: resident; CUDA: allocated)
            peak_bytes         peak memory of the process or device with the features; where failed: at its end
            facts              passes and share_of_distances (ours); backend (what auto took); source; checked (picks);
                               runs_differ; compared (picks, with the CPU engine's; CUDA); first_call_s (seconds of
                               the first call, kernels compiled); judged (what error is, where the answer is not
                               exact); recall (true neighbours found)
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from patchcore_fast.files import atomic_write

SCHEMA = 2


def write(
    path: str | Path, result: dict[str, Any], *, schema: int | None = SCHEMA, lines: Collection[str] = ()
) -> None:
    """Write a result whole, making its folder. No other module of the benchmarks writes JSON files.

    Parameters
    ----------
    schema : None where the result's problems or rows are the script's own: pages/render.py passes such files over.
    lines : names of lists of many small records; each record is one line then, and all numbers are `short`.
    """
    write_json(path, {**({} if schema is None else {"schema": schema}), **result}, lines)


def write_json(path: str | Path, content: dict[str, Any], lines: Collection[str] = ()) -> None:
    """Any JSON object, whole; lines as in `write`."""
    text = _in_lines(content, lines) if lines else json.dumps(content, indent=1)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "w", encoding="utf-8") as f:
        f.write(f"{text}\n")


def _in_lines(content: dict[str, Any], lines: Collection[str]) -> str:
    parts = []
    for name, value in content.items():
        if name in lines:
            records = ",\n".join(f"  {json.dumps(short(one), allow_nan=False)}" for one in value)
            text = f"[\n{records}\n ]" if value else "[]"
        else:
            text = json.dumps(short(value), indent=1, allow_nan=False).replace("\n", "\n ")
        parts.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}"


def short(value: Any) -> Any:
    """Numbers short enough to read, NaN as null, NumPy's as Python's."""
    if isinstance(value, dict):
        return {str(k): short(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [short(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def read(path: str | Path) -> dict[str, Any]:
    """A result file.

    Raises
    ------
    SystemExit : it is not JSON of this schema.
    """
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: no result file: {error}") from error
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        found = result.get("schema") if isinstance(result, dict) else result
        raise SystemExit(f"{path}: a result of schema {SCHEMA} is wanted, got {found!r}")
    return result


def seconds(value: float) -> str:
    """Three digits and a unit that suits."""
    if value < 1:
        return f"{value * 1000:.{0 if value >= 0.1 else 1 if value >= 0.01 else 2}f} ms"
    if value < 600:
        return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def size(value: float) -> str:
    """MB or GB of 2^20 and 2^30 bytes."""
    mb = value / 2**20
    return f"{mb:.0f} MB" if mb < 1000 else f"{mb / 1024:.1f} GB"


def ratio(value: float) -> str:
    """Two or three digits and a times sign."""
    return f"{value:.{2 if value < 1 else 1 if value < 100 else 0}f} x"


def best_ours(rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """What backend="auto" takes; where that was not measured, the fastest of the leaves that were."""
    mine = [r for r in rows if is_ours(r) and r["status"] == "ok"]
    return min(mine, key=lambda r: (r["family"] != "ours", r["median_s"]), default=None)


def is_ours(row: dict[str, Any]) -> bool:
    """Our engine, not a drop-in."""
    return row["family"].startswith("ours") and not row["family"].startswith("ours for ")


def like(row: dict[str, Any], rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """What a provider is compared with: our drop-in that does the same work if there is one, else our engine."""
    same = [r for r in rows if r["family"] == f"ours for {row['family']}" and r["status"] == "ok"]
    return same[0] if same else best_ours(rows)


def ordered(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fastest first; then who was wrong, who failed, who was not run."""
    rank = {"ok": 0, "unjudged": 1, "wrong": 2, "failed": 3, "not run": 4}
    return sorted(rows, key=lambda r: (rank[r["status"]], r.get("median_s", 0.0)))


def time_cell(row: dict[str, Any]) -> str:
    """The median, "~" before an extrapolated one; for others the reason."""
    if row["status"] in ("ok", "unjudged"):
        said = ("~" if row["extrapolated_from"] else "") + seconds(row["median_s"])
        return said if row["status"] == "ok" else f"UNJUDGED: {said}"
    return row["message"] if row["status"] == "not run" else f"{row['status'].upper()}: {row['message']}"


HEADINGS = ["provider", "time", "min .. max, runs", "to ours", "error", "order as ours", "extra memory"]


def cells(problem: dict[str, Any]) -> list[list[str]]:
    """Rows of text under HEADINGS, in the order of `ordered`."""
    lines = []
    for row in ordered(problem["rows"]):
        line = [row["provider"], time_cell(row), "", "", "", "", ""]
        if row["error"] is not None and math.isfinite(row["error"]):
            line[4] = f"{row['error']:.0e}" if row["error"] else "0"
            if row["facts"].get("checked", row["k_timed"]) < row["k_timed"]:
                line[4] += f" (first {row['facts']['checked']:,})"
            if row["facts"].get("judged"):
                line[4] = f"{row['error']:.0e} {row['facts']['judged']}"
        if row["leading"] is not None and row["family"] != "ours" and not row["family"].startswith("ours for "):
            most = row["facts"].get("compared", row["k_timed"])
            line[5] = "all" if row["leading"] == row["k_timed"] else f"{row['leading']:,} of {most:,}"
        if row["status"] == "ok":
            line[2] = f"{seconds(row['min_s'])} .. {seconds(row['max_s'])}, {row['runs']}"
            ours = like(row, problem["rows"])
            if ours and row is not ours:
                line[3] = ratio(row["median_s"] / ours["median_s"])
            line[6] = size(row["extra_bytes"])
        lines.append(line)
    return lines


def title(problem: dict[str, Any]) -> str:
    """One line that says what was asked."""
    shape = f"{problem['n']:,} x {problem['d']:,}"
    if problem.get("anchors"):
        return f"{problem['case']}: {problem['k']} nearest of {problem['anchors']:,} anchors for {shape}"
    if problem.get("queries"):
        return f"{problem['case']}: {problem['k']} nearest of {shape} for {problem['queries']:,} queries"
    return f"{problem['case']}: {problem['k']:,} picks of {shape}"


def note(problem: dict[str, Any]) -> str:
    """What "~" means here; empty where nothing is extrapolated."""
    rows = [r for r in ordered(problem["rows"]) if r.get("extrapolated_from")]
    many = ", ".join(f"{r['provider']} from {r['extrapolated_from']:,} picks" for r in rows)
    less = "; torch-quickfps gets cheaper as it goes: an upper estimate" if "torch-quickfps" in many else ""
    return f"~ extrapolated, as each further pick costs the same: {many}{less}" if rows else ""


def as_text(problem: dict[str, Any]) -> str:
    """A table for the terminal."""
    lines = cells(problem)
    keep = [i for i in range(len(HEADINGS)) if i != 5 or any(line[i] for line in lines)]
    timed = [line for line in lines if line[2]]  # reasons are long, and nothing stands behind them
    widths = [max(len(line[i]) for line in [HEADINGS, *timed]) for i in range(len(HEADINGS))]
    widths[0] = max(len(line[0]) for line in [HEADINGS, *lines])
    text = [f"\n{title(problem)}  ({problem['about']})"]
    text += ["  " + "  ".join(line[i].ljust(widths[i]) for i in keep).rstrip() for line in [HEADINGS, *lines]]
    return "\n".join([*text, *([f"  {note(problem)}"] if note(problem) else [])])
