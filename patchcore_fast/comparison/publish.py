"""Pictures and the page of a comparison, from its cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from patchcore_fast.comparison.plan import Cell, Entry
from patchcore_fast.comparison.run import Done
from patchcore_fast.comparison.table import lines_of
from patchcore_fast.comparison.worker import TIMED
from patchcore_fast.report.comparison import DRAWN, plot_costs, plot_sets
from patchcore_fast.report.page.comparison import write_comparison

INDEX, COSTS_PNG, SETS_PNG = "index.html", "compare.png", "sets.png"


def publish(output: Path, name: str, cells: Sequence[Cell], done: Sequence[Done], methods: Sequence[Entry]) -> None:
    """Write compare.png, sets.png and index.html, each whole; a picture for which there are no numbers is left out."""
    lines = lines_of(cells, done)
    head = [line for line in lines if line.set is None] or lines
    pictures = {}
    if any({"image_auroc", "train_s"} <= set(line.values) for line in head):
        plot_costs(head, output / COSTS_PNG, title=f"{name}: accuracy against cost")
        pictures["Image AUROC against what it costs; whiskers are standard deviations over seeds"] = output / COSTS_PNG
    if any(metric in line.values for line in lines for metric in DRAWN):
        plot_sets(lines, output / SETS_PNG, title=name)
        pictures["Image AUROC and AUPRO by set; whiskers are standard deviations over seeds"] = output / SETS_PNG
    write_comparison(output / INDEX, name, _summary(cells, done), lines, notes(cells, done), 
                     {entry.name: entry.settings for entry in methods}, pictures)  # fmt: skip


def _summary(cells: Sequence[Cell], done: Sequence[Done]) -> str:
    methods, sets, seeds = (len({getattr(cell, part) for cell in cells}) for part in ("method", "set", "seed"))
    good = sum(each.error is None for each in done)
    parts = [
        f"{methods} method{'s' * (methods > 1)}",
        f"{sets} set{'s' * (sets > 1)}",
        f"{seeds} seed{'s' * (seeds > 1)}",
    ]
    return f"{', '.join(parts)}: {good:,} of {len(cells):,} cells measured"


def notes(cells: Sequence[Cell], done: Sequence[Done]) -> list[str]:
    """What was run, in sentences: seeds, images, what a number is, on what."""
    seeds = sorted({cell.seed for cell in cells})
    found = [
        f"Each method is fitted with seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} on all training images, "
        "each time in a process of its own; numbers are means over seeds, ± is the standard deviation over them (of "
        "the mean over sets: of that mean). Trained methods are measured after their last epoch.",
        "F1 and IoU-max take the best threshold on the test images themselves: they are upper limits.",
        "s to train: fit from the files to the model, without the start of the process. ms an image: the median of "
        f"{TIMED} predictions of one image that is in memory, after a few that are not counted. peak MiB: resident "
        "memory of the process in both, libraries included.",
        "★: best of its column, where all have as many seeds and sets.",
    ]
    good = [each for each in done if each.error is None]
    for name in dict.fromkeys(each.cell.set for each in good):
        one = next(each.record for each in good if each.cell.set == name)
        found.append(f"{name}: {one['train']:,} training images, {one['test']:,} test images, {one['anomalous']:,} of "
                     "them anomalous.")  # fmt: skip
    for method in dict.fromkeys(each.cell.method for each in good):
        said = dict.fromkeys(text for each in good if each.cell.method == method for text in each.record["notes"])
        found += [f"{method}: {text}" for text in said]
    for name in dict.fromkeys(each.cell.set for each in good):
        files = dict.fromkeys(f for each in good if each.cell.set == name for f in each.record["unread"])
        if files:
            found.append(f"{name}: {len(files):,} files could not be used: {', '.join(files)}")
    places = dict.fromkeys(
        f"{e['device']} with {e['threads']} thread{'s' * (e['threads'] > 1)}, torch {e['torch']}, patchcore_fast "
        f"{e['patchcore_fast']}"
        for e in (each.record["environment"] for each in good)
    )
    return found + [f"Measured on {'; '.join(places)}."] * bool(places)
