"""What run.py found, in few lines: targets beside what was measured, parts, medians. For the terminal and for pages."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import records

N, D = 163_840, 128
# Of the issue that asked for the GPU kernels, on an H100 and in exact float32: share of the rows, seconds.
K_CENTER_S = {0.01: 0.005, 0.1: 0.025}
ANOMALIB, GEMM = 100.0, 1.5
Results = dict[str, dict[str, Any]]
HEADINGS = ["target (H100, exact float32)", "wanted", "measured", "met"]


def check(result: dict[str, Any]) -> None:
    """Raise whatever comes where the result cannot be shown: its shape is not that of harness/records.py."""
    for key in ("environment", "options"):
        dict(result[key])
    texts(result)
    targets({"it": result})


def targets(results: Results) -> list[dict[str, Any]]:
    """One entry a target: name, wanted, measured (text), met (None: not measured, or not judged), case."""
    found = []
    for share, most in K_CENTER_S.items():
        problem = _k_center(results, share, "anomalib loop")
        ours = _best(problem)
        name = f"k-center, {share:.0%} of {N:,} x {D}"
        found.append(_seconds(name, ours, most, problem))
        loop = _row(problem, "anomalib loop")
        gain = loop["median_s"] / ours["median_s"] if loop and ours else None
        said = (("~" if loop["extrapolated_from"] else "") + records.ratio(gain)) if loop and gain else None
        found.append(_entry(f"{name}, against anomalib's loop", f">= {ANOMALIB:g} x", said,
                            gain and gain >= ANOMALIB, problem, ours, loop))  # fmt: skip
    for backend in ("cuda", "triton"):  # the share that the CUDA kernels were asked for, whatever "auto" takes
        share, provider = max(K_CENTER_S), f"patchcore_fast {backend}"
        problem = _k_center(results, share, provider)
        name = f"k-center, {share:.0%} of {N:,} x {D}, backend {backend}"
        found.append(_seconds(name, _row(problem, provider), K_CENTER_S[share], problem))
    problems: list[Any] = [
        p for p in _problems(results, "knn") if p["d"] == D and N in (p["n"], p["queries"]) and _row(p, "GEMM")
    ]
    for problem in problems or [None]:
        ours, product = _best(problem), _row(problem, "GEMM")
        ratio = ours["median_s"] / product["median_s"] if ours and product else None
        name = f"k-NN against the GEMM alone{', ' + records.title(problem).split(': ')[1] if problem else ''}"
        found.append(_entry(name, f"<= {GEMM:g} x", ratio and records.ratio(ratio), ratio and ratio <= GEMM, problem,
                            ours, product))  # fmt: skip
    return found


def _problems(results: Results, benchmark: str) -> list[dict[str, Any]]:
    return [p for result in results.values() if result["benchmark"] == benchmark for p in result["problems"]]


def _k_center(results: Results, share: float, provider: str) -> dict[str, Any] | None:
    """The problem of a target; of several that in which the provider ran."""
    wanted = (N, D, int(share * N))
    problems = [p for p in _problems(results, "kcenter") if (p["n"], p["d"], p["k"]) == wanted]
    return max(problems, key=lambda p: _row(p, provider) is not None, default=None)


def _best(problem: dict[str, Any] | None) -> dict[str, Any] | None:
    """Ours: what was right; where nothing is judged yet, what was timed."""
    rows = problem["rows"] if problem else []
    timed = [{**r, "status": "ok", "judged": r["status"] == "ok"} for r in rows if r["status"] in ("ok", "unjudged")]
    return records.best_ours(rows) or records.best_ours(timed)


def _row(problem: dict[str, Any] | None, provider: str) -> dict[str, Any] | None:
    rows = problem["rows"] if problem else []
    timed = (r for r in rows if r["provider"] == provider and r["status"] in ("ok", "unjudged"))
    return next((r if r["status"] == "ok" else {**r, "judged": False} for r in timed), None)


def _seconds(name: str, row: dict[str, Any] | None, most: float, problem: dict[str, Any] | None) -> dict[str, Any]:
    seconds = row["median_s"] if row else None
    return _entry(name, f"<= {records.seconds(most)}", seconds and records.seconds(seconds),
                  seconds and seconds <= most, problem, row)  # fmt: skip


def _entry(name: str, wanted: str, said: str | None, met: Any, problem: dict[str, Any] | None,
           *rows: dict[str, Any] | None) -> dict[str, Any]:  # fmt: skip
    """rows : what was measured; whatever one of them has not been judged can neither meet a target nor miss it."""
    judged = all(row.get("judged", True) for row in rows if row)
    return {"name": name, "wanted": wanted, "measured": (said or "not measured") + ", not judged" * (not judged),
            "met": bool(met) if said and judged else None, "case": problem["case"] if problem else None}  # fmt: skip


def target_cells(told: list[dict[str, Any]]) -> list[list[str]]:
    """Rows under HEADINGS."""
    words = {True: "met", False: "NOT met", None: ""}
    return [[t["name"] + (f" ({t['case']})" if t["case"] else ""), t["wanted"], t["measured"], words[t["met"]]]
            for t in told]  # fmt: skip


def part_cells(parts: list[dict[str, Any]]) -> list[list[str]]:
    """Name, status, seconds of its limit, what it said."""
    return [[p["name"], p["status"], f"{p['seconds']:.0f} of {p['most']:.0f} s", p["message"]] for p in parts]


def as_text(whole: dict[str, Any], results: Results) -> str:
    """The end of a run on the terminal."""
    place = whole["environment"]
    card = place.get("cuda") or {}
    lines = [
        f"\n==== {place.get('device', 'no device')}, {', '.join(f'{k} {v}' for k, v in card.items() if k != 'name')}"
    ]
    if whole["options"]["dry_run"]:
        lines.append(
            "A DRY RUN on the CPU: tiny sizes, torch leaves, emulator, interpreter; no time of it means anything"
        )
    for result in results.values():
        lines += texts(result)
    lines += ["", *_columns([["part", "status", "time", ""], *part_cells(whole["parts"])])]
    return "\n".join([*lines, "", *_columns([HEADINGS, *target_cells(whole["targets"])])])


def texts(result: dict[str, Any]) -> list[str]:
    """Of each problem."""
    if result["benchmark"] == "pipeline":
        from benchmarks.speed import pipeline

        return [pipeline.as_text(problem) for problem in result["problems"]]
    lines = []
    for problem in result["problems"]:
        lines += ["", f"{records.title(problem)}  ({problem['about'][:60]})", *_medians(problem)]
    return lines


def _medians(problem: dict[str, Any]) -> list[str]:
    lines = []
    for row, cell in zip(records.ordered(problem["rows"]), records.cells(problem), strict=True):
        if row["status"] != "not run":
            first = row["facts"].get("first_call_s")
            said = f"first call {records.seconds(first)}" if first else ""
            lines.append([f"  {cell[0].removeprefix('patchcore_fast ')}", cell[1][:80], cell[3], cell[4], said])
    return _columns(lines)


def _columns(lines: list[list[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))] if lines else []
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]


def as_markdown(whole: dict[str, Any]) -> list[str]:
    """Targets and parts for docs/benchmarks.md."""
    lines = [HEADINGS, ["---"] * 4, *target_cells(whole["targets"]), []]
    lines += [["part", "status", "time", "what it said"], ["---"] * 4, *part_cells(whole["parts"]), []]
    return ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" if line else "" for line in lines]
