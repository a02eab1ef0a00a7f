"""The result file of grid.py, and the resampled values beside it.

FILE is JSON, written whole after every cell, and all that pages/render.py needs:

    schema, benchmark, environment, options   as in harness/records.py; benchmark is "accuracy"
    commits    of all code that cells were measured with (a run may be resumed)
    sets       name, train, good, defective, masked; moved: share -> images moved into training
    samplers   name -> {"about", "kind": "main" or "ablation"}
    cells      one a line: set, backbone, seed, share (contamination), bank (share of the rows), sampler, status ("ok",
               or "failed" with a message) and where ok: moved, picked, from_moved (part of the bank), select_s,
               extra_bytes, search_s, binned (see bootstrap.measure), metrics: name -> [value, low, high],
               rest (of a clean cell: share -> image AUROC without the images that this share moves away, the
               reference of contaminated cells), report: what the sampler says of itself, if it does
    means      summary.means: of seeds, and of sets
    regained   summary.regained

FILE.resamples/ holds [B, 5 + len(rest)] float32 of each cell, which differences and means are made from. They are
needed to resume, not to render, and need not be kept with the results.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import records
from patchcore_fast.files import atomic_write

KEY = ("set", "backbone", "seed", "share", "bank", "sampler")
Cell = dict[str, Any]
_LINES = ("cells", "means", "regained", "sets")  # lists of small records: one a line


def key(cell: Cell) -> tuple[Any, ...]:
    """What tells cells apart."""
    return tuple(cell[name] for name in KEY)


class Store:
    """Cells and resampled values of a run, on disk where a file is given."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.cells: dict[tuple[Any, ...], Cell] = {}
        self.replicates: dict[tuple[Any, ...], np.ndarray] = {}
        self.commits: list[str] = []
        self.sets: dict[str, dict[str, Any]] = {}

    def resume(self, options: dict[str, Any], sets: list[dict[str, Any]]) -> None:
        """Take the cells of an earlier run that finished and whose resampled values are there.

        Raises
        ------
        SystemExit : the file was made with other options, or a set has other images now.
        """
        if self.path is None or not self.path.exists():
            return
        old = records.read(self.path)
        if old["options"] != options:
            differ = sorted(n for n in {*options, *old["options"]} if options.get(n) != old["options"].get(n))
            raise SystemExit(f"--resume: {self.path} was made with other options: {', '.join(differ)}")
        now = {s["name"]: {k: v for k, v in s.items() if k != "moved"} for s in sets}
        for one in old["sets"]:
            if one["name"] in now and {k: v for k, v in one.items() if k != "moved"} != now[one["name"]]:
                raise SystemExit(f"--resume: {one['name']} has other images than when {self.path} was made")
        self.commits = list(old["commits"])
        self.sets = {one["name"]: one for one in old["sets"]}
        for cell in old["cells"]:
            file = self._file(key(cell))
            if cell["status"] == "ok" and file.exists():
                self.cells[key(cell)] = cell
                self.replicates[key(cell)] = np.load(file)

    def know(self, one: dict[str, Any]) -> None:
        """A set's description, with the contaminations that are known of it already."""
        before = self.sets.get(one["name"], one)
        self.sets[one["name"]] = {**one, "moved": {**before["moved"], **one["moved"]}}

    def forget(self, names: list[str]) -> None:
        """Drop the cells of these samplers, so that they are measured again."""
        for one in [k for k in self.cells if k[-1] in names]:
            del self.cells[one], self.replicates[one]

    def add(self, cell: Cell, replicates: np.ndarray | None) -> None:
        """A cell, with its resampled values [B, 5 + len(rest)] where it is ok."""
        cell = records.short(cell)  # as it will be read again: a resumed run gives the same means to the last digit
        self.cells[key(cell)] = cell
        if replicates is not None:
            self.replicates[key(cell)] = replicates.astype(np.float32)
            if self.path is not None:
                file = self._file(key(cell))
                file.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(file) as f:
                    np.save(f, self.replicates[key(cell)])

    def _file(self, cell: tuple[Any, ...]) -> Path:
        assert self.path is not None
        name = hashlib.sha256(json.dumps(cell).encode()).hexdigest()[:20]
        return self.path.with_name(f"{self.path.name}.resamples") / f"{name}.npy"

    def write(self, result: dict[str, Any]) -> None:
        """Write `result` whole."""
        if self.path is not None:
            records.write(self.path, result, lines=_LINES)
