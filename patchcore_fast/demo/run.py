"""The demo from end to end: data, fit, evaluation, pictures, race, summary."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from patchcore_fast.data import scan
from patchcore_fast.demo.race import Race, plot_race, race
from patchcore_fast.demo.textures import DEFECTS, write_texture
from patchcore_fast.errors import DataError
from patchcore_fast.files import atomic_write
from patchcore_fast.model import Evaluation, PatchCore, PatchCoreConfig
from patchcore_fast.report import metrics_table, plot_roc, write_json
from patchcore_fast.report.gallery import write_evaluation

MARKER = ".patchcore_fast_demo"


def run_demo(
    output: str | os.PathLike[str],
    *,
    quick: bool = False,
    seed: int = 0,
    config: PatchCoreConfig | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Make the data, fit, evaluate, draw, and race the selection against a plain loop.

    Parameters
    ----------
    output : folder; made if missing. It must be empty or of an earlier demo, which is replaced.
    quick : one texture and 1 % picks only.
    seed : of the defects.
    config : settings; EfficientNet-Lite0 with ImageNet weights from the package index when None.
    say : gets the lines of the report.

    Returns
    -------
    What summary.json holds: "metrics" by texture, "race" (see `Race`), "seconds".

    Raises
    ------
    DataError : the folder holds something else.  ImportError : the extra "demo" is not installed.
    """
    clock = time.perf_counter()
    folder = _fresh_folder(Path(output))
    names = ["brick"] if quick else list(DEFECTS)
    config = config or PatchCoreConfig()
    what = "A CC0 photograph" if quick else "Three CC0 photographs"
    say(f"{what}, cut into tiles with synthetic defects: {folder / 'data'}")
    evaluations: dict[str, Evaluation] = {}
    rows = []
    for name in names:
        images = scan(write_texture(name, folder / "data", seed=seed))
        model = PatchCore(config)
        model.fit(images)
        result = evaluations[name] = model.evaluate(images)
        (folder / name).mkdir(exist_ok=True)
        model.save(folder / name / "bank.safetensors")
        write_evaluation(folder / name, name, images, result, model)
        features, projection = model.training_features(images).features, model.bank.parts[0].projection
        rows.append(features if projection is None else features @ projection)  # what the fit chose from
        say(f"  {name}: fitted on {len(images.train)} tiles, tested on {len(images.test)}")
    curves = {name: (e.curves["labels"], e.curves["scores"]) for name, e in evaluations.items()}
    plot_roc(curves, folder / "roc.png", title="Finding anomalous tiles")

    features = torch.cat(rows).to(model.device)
    counts = [max(len(features) * percent // 100, 1) for percent in ((1,) if quick else (1, 10))]
    say(f"  selection raced on all {len(features):,} patches; the plain loop takes its time ...")
    results, loop_seconds = race(features, counts, start=0)
    plot_race(results, loop_seconds, folder / "selection.png")

    summary = {
        "metrics": {name: e.metrics for name, e in evaluations.items()},
        "race": [dataclasses.asdict(r) | {"ratio": r.ratio} for r in results],
        "seconds": (seconds := time.perf_counter() - clock),
    }
    write_json(folder / "summary.json", summary)
    for line in _closing(folder, evaluations, results, seconds):
        say(line)
    return summary


def _fresh_folder(folder: Path) -> Path:
    """An empty folder that is marked as ours; only what carries the mark is ever deleted."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file, a folder is wanted")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise DataError(f"{folder}: holds other files; give an empty or a new folder")
        for name in ("data", *DEFECTS):
            shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / MARKER, "w") as f:
        f.write("This folder is rewritten by: patchcore-fast demo\n")
    return folder


def _closing(folder: Path, evaluations: dict[str, Evaluation], results: list[Race], seconds: float) -> list[str]:
    columns = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
    accuracy = {name: {text: float(e.metrics[key]) for key, text in columns.items()} | {"tiles": len(e.images)}
                for name, e in evaluations.items()}  # fmt: skip
    speed = {f"{r.picks:,} picks": {"one at a time": f"{r.loop:.2f} s{_cut(r)}", "ours": f"{r.ours:.2f} s",
                                    "ratio": f"{r.ratio:.1f} x", "same picks": _agreement(r)}
             for r in results}  # fmt: skip
    r = results[-1]
    lines = ["", metrics_table(accuracy, corner="accuracy"), ""]
    lines += [metrics_table(speed, corner=f"{r.rows:,} x {r.dim}"), ""]
    lines += ["Look at"]
    lines += [f"  {folder / name / 'contact_sheet.png'}" for name in evaluations]
    lines += [f"  {folder / file}" for file in ("roc.png", "selection.png")]
    lines += [f"and at the tiles and masks in {folder / 'data'}. All of it took {seconds:.0f} s.", ""]
    lines += ["Next, with normal images of your own:  patchcore-fast fit DIR --output bank.safetensors"]
    return lines


def _cut(r: Race) -> str:
    return "" if r.loop_picks == r.picks else f" (stopped after {r.loop_picks:,})"


def _agreement(r: Race) -> str:
    if r.same == r.loop_picks:
        return "all" if r.same == r.picks else f"all {r.same:,}"
    return f"first {r.same:,}, and {100 * r.shared / r.loop_picks:.2f} % in any order"
