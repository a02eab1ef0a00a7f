"""Whole PatchCore runs on image folders: each repository as it is, with our selection in it, and our own pipeline.

    PATCHCORE_FAST_AMAZON_REPO=... PATCHCORE_FAST_ANOMALIB_REPO=... python -m benchmarks.speed.pipeline mvtec/bottle
    python -m benchmarks.speed.pipeline --list

The variables name checkouts; installed packages `patchcore` and `anomalib` serve too. Each run is a script of
examples/ in a process of its own, so `before` and `after` differ in one line. Correctness first: if that line changes
the image AUROC by more than 0.002, or the size of the coreset, it is said in place of the times.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import ROOT
from benchmarks.harness import memory, records
from benchmarks.harness.environment import describe

EXAMPLES = ROOT / "examples"
TOLERANCE = 0.002
POLL = 0.02  # seconds between two looks at a run's memory


@dataclass(frozen=True)
class Run:
    """One script. package, variable: what it needs, and where that may be. baseline: the run it must agree with."""

    script: str
    about: str
    package: str = ""
    variable: str = ""
    baseline: str = ""

    def source(self) -> str | None:
        """The folder to import the package from; None where it is installed or not needed."""
        place = os.environ.get(self.variable) if self.variable else None
        if not place:
            return None
        root = Path(place).resolve()
        return str(root / "src" if (root / "src").is_dir() else root)

    def missing(self) -> str:
        """Why it cannot run here; empty if it can."""
        if not self.package or self.source() or importlib.util.find_spec(self.package):
            return ""
        return f"{self.package} is not installed and {self.variable} is not set"


AMAZON = ("patchcore", "PATCHCORE_FAST_AMAZON_REPO")
ANOMALIB = ("anomalib", "PATCHCORE_FAST_ANOMALIB_REPO")
RUNS = {
    "amazon": Run("amazon_before.py", "patchcore-inspection, its own approximate sampler", *AMAZON),
    "amazon + ours": Run("amazon_after.py", "the same with our sampler, one line changed", *AMAZON, "amazon"),
    "anomalib": Run("anomalib_before.py", "anomalib's Patchcore and Engine, its own selection", *ANOMALIB),
    "anomalib + ours": Run("anomalib_after.py", "the same with fast.patch(), one line added", *ANOMALIB, "anomalib"),
    "patchcore_fast": Run("own_pipeline.py", "our own pipeline, default configuration (256 px)"),
}


class Failed(Exception):
    """A run that gave no result, and why."""


def run(what: Run, folder: Path, ratio: float, device: str, limit: int | None) -> dict[str, Any]:
    """One process from start to end: whole_s, selection_s, coreset, image_auroc, peak_bytes (resident)."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if source := what.source():
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [source, environment.get("PYTHONPATH")]))
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, str(EXAMPLES / what.script), str(folder), "--ratio", str(ratio)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, tempfile.TemporaryDirectory() as cwd:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=out, stderr=err, env=environment, cwd=cwd, preexec_fn=memory.die_with_parent
        )
        peak = 0
        try:
            while process.poll() is None:
                peak = max(peak, memory.peak(process.pid))
                if limit and peak > limit:
                    raise Failed(f"needs more than {limit / memory.GIB:g} GB")
                time.sleep(POLL)
        finally:
            process.kill()
            process.wait()
        whole = time.perf_counter() - begin
        out.seek(0)
        err.seek(0)
        said, complaint = out.read(), err.read()
    if process.returncode:
        lines = complaint.strip().splitlines() or ["no message"]
        raise Failed(f"exit {process.returncode}: {lines[-1][:200]}")
    found = {
        name: re.search(pattern, said)
        for name, pattern in {
            "selection_s": r"selection ([\d.]+) s",
            "coreset": r"coreset rows (\d+)",
            "image_auroc": r"image AUROC ([\d.]+)",
        }.items()
    }
    if None in found.values():
        raise Failed(f"{what.script} did not print what was expected: {said[-200:]!r}")
    values = {name: float(match[1]) for name, match in found.items() if match}
    return {"whole_s": whole, "peak_bytes": peak, **values}


def measure(folder: Path, names: list[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """All runs on one folder, interleaved; a row each."""
    limit = memory.check_gb(args.memory_gb)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    messages: dict[str, str] = {}
    for _ in range(args.repeat):
        for name in names:
            if name in messages:
                continue
            if reason := RUNS[name].missing():
                messages[name] = reason
                continue
            try:
                results[name].append(run(RUNS[name], folder, args.ratio, args.device, limit))
                told = results[name][-1]
                print(f"  {name:<16} {told['whole_s']:6.1f} s, selection {told['selection_s']:.2f} s", file=sys.stderr)
            except Failed as error:
                messages[name] = str(error)
    rows = []
    for name in names:
        row: dict[str, Any] = {"provider": name, "about": RUNS[name].about, "status": "ok", "message": ""}
        if name in messages:
            row.update(status="not run" if RUNS[name].missing() else "failed", message=messages[name])
        else:
            row.update(summary(results[name]))
            if wrong := disagreement(name, row, results):
                row = {**{k: row[k] for k in ("provider", "about")}, "status": "wrong", "message": wrong}
        rows.append(row)
    return rows


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and spreads of times; the largest peak; AUROCs of all runs."""
    row: dict[str, Any] = {"runs": len(runs), "coreset": int(runs[0]["coreset"])}
    for what in ("whole_s", "selection_s"):
        times = [r[what] for r in runs]
        row[what] = {"median": statistics.median(times), "min": min(times), "max": max(times)}
    row["peak_bytes"] = max(r["peak_bytes"] for r in runs)
    row["image_auroc"] = [r["image_auroc"] for r in runs]
    return row


def disagreement(name: str, row: dict[str, Any], results: dict[str, list[dict[str, Any]]]) -> str:
    """What differs from the baseline that should not; empty where nothing does or the baseline was not run."""
    base = results.get(RUNS[name].baseline) or []
    for one in base:
        if row["coreset"] != one["coreset"]:
            return f"{row['coreset']} coreset rows, {RUNS[name].baseline} has {one['coreset']:.0f}"
        off = max(abs(a - one["image_auroc"]) for a in row["image_auroc"])
        if off > TOLERANCE:
            return f"image AUROC differs by {off:.4f} from that of {RUNS[name].baseline}"
    return ""


HEADINGS = ["run", "image AUROC", "coreset", "selection", "times as fast", "whole run", "peak memory"]


def cells(problem: dict[str, Any]) -> list[list[str]]:
    """Rows of text under HEADINGS; a run without times has its reason in the second."""
    rows = {r["provider"]: r for r in problem["rows"]}
    lines = []
    for name, r in rows.items():
        if r["status"] != "ok":
            lines.append([name, f"{r['status'].upper()}: {r['message']}", *[""] * (len(HEADINGS) - 2)])
            continue
        base = rows.get(RUNS[name].baseline, {})
        gain = records.ratio(base["selection_s"]["median"] / r["selection_s"]["median"]) if "runs" in base else ""
        lines.append([
            name, f"{statistics.median(r['image_auroc']):.4f}", f"{r['coreset']:,}",
            records.seconds(r["selection_s"]["median"]), gain, records.seconds(r["whole_s"]["median"]),
            records.size(r["peak_bytes"]),
        ])  # fmt: skip
    return lines


def title(problem: dict[str, Any]) -> str:
    """The folder, and how much is kept."""
    return f"{problem['folder']}, {100 * problem['ratio']:g} % of the patches"


def as_text(problem: dict[str, Any]) -> str:
    """A table for the terminal."""
    lines = cells(problem)
    widths = [max(len(line[i]) for line in [HEADINGS, *lines] if line[-1]) for i in range(len(HEADINGS))]
    text = [
        "  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in [HEADINGS, *lines]
    ]
    return "\n".join([f"\n{title(problem)}", *text])


def as_markdown(problem: dict[str, Any]) -> list[str]:
    """The same for docs/benchmarks.md."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *cells(problem)]
    return [f"**{title(problem)}**\n", *["| " + " | ".join(line) + " |" for line in lines], ""]


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Selection and the rest of each run as bars, one axes per folder."""
    from patchcore_fast.report.plots import ANOMALOUS, NORMAL, new_figure, quiet, save_figure

    problems = [p for p in result["problems"] if any(r["status"] == "ok" for r in p["rows"])]
    figure = new_figure(7.5, 0.8 + 2.2 * len(problems))
    for i, problem in enumerate(problems):
        axes: Any = figure.add_subplot(len(problems), 1, i + 1)
        rows = [r for r in problem["rows"] if r["status"] == "ok"][::-1]
        names = [r["provider"] for r in rows]
        chosen = [r["selection_s"]["median"] for r in rows]
        rest = [r["whole_s"]["median"] - c for r, c in zip(rows, chosen, strict=True)]
        axes.barh(names, rest, color="#c9c9c9")
        axes.barh(names, chosen, left=rest, color=[NORMAL if "ours" in n or "_" in n else ANOMALOUS for n in names])
        for y, (row, a, b) in enumerate(zip(rows, rest, chosen, strict=True)):
            text = f" {records.seconds(b)} selecting, AUROC {statistics.median(row['image_auroc']):.3f}"
            axes.annotate(text, (a + b, y), va="center", fontsize=8)
        axes.set(title=title(problem), xlabel="seconds (grey: features, search, start-up)")
        axes.set_xlim(0, 1.45 * max(a + b for a, b in zip(rest, chosen, strict=True)))
        quiet(axes)
        axes.grid(False, axis="y")
    save_figure(figure, path)


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folders", nargs="*", type=Path, help="MVTec layout; default: one texture of the demo")
    p.add_argument("--ratio", type=float, default=0.1, help="share of the patches to keep")
    p.add_argument("--providers", nargs="+", choices=RUNS, metavar="NAME", help="only these, see --list")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--memory-gb", type=float, help="end a run whose resident memory exceeds this (2^30 bytes each)")
    p.add_argument("--repeat", type=int, default=1)
    p.add_argument("--json", metavar="FILE")
    p.add_argument("--plot", metavar="FILE.png")
    p.add_argument("--list", action="store_true", help="print the runs, with why some cannot run here")
    args = p.parse_args(argv)
    if not 0 < args.ratio < 1 or args.repeat < 1:
        raise SystemExit(f"--ratio in (0, 1) and --repeat >= 1 are wanted, got {args.ratio} and {args.repeat}")
    if args.device == "cuda" and not torch.cuda.is_available():  # the scripts would take the CPU without a word
        raise SystemExit("--device cuda: torch finds no CUDA device")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an orderly end: no run goes on alone
    if args.list:
        for name, what in RUNS.items():
            print(f"  {name:<16} {'NOT HERE: ' + what.missing() if what.missing() else what.about}")
        return
    environment = describe(args.device)
    with tempfile.TemporaryDirectory() as made:
        folders = args.folders or [demo_texture(Path(made))]
        for folder in folders:
            if not (folder / "train" / "good").is_dir():
                raise SystemExit(f"{folder} has no train/good; the layout of MVTec AD is wanted")
        problems = []
        for folder in folders:
            rows = measure(folder.resolve(), args.providers or list(RUNS), args)
            problems.append({"folder": folder.resolve().name, "ratio": args.ratio, "rows": rows})
            print(as_text(problems[-1]), flush=True)
    result = {"benchmark": "pipeline", "problems": problems}
    if args.json:
        options = {"repeat": args.repeat, "memory_gb": args.memory_gb, "device": args.device}
        records.write(args.json, {"environment": environment, "options": options, **result})
    if args.plot:
        plot(result, args.plot)


def demo_texture(folder: Path) -> Path:
    """A small MVTec-style set of photographs with drawn defects."""
    from patchcore_fast.demo.textures import write_texture

    return write_texture("brick", folder)


if __name__ == "__main__":
    main()
