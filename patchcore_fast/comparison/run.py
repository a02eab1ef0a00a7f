"""The cells one after the other, each in a process of its own; what is finished is taken from the output."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import device, get_num_threads

from patchcore_fast.comparison.plan import FOREIGN, Cell, Entry
from patchcore_fast.comparison.record import identity, read_record
from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.data.categories import files_digest, has_test
from patchcore_fast.model.passes import make_source
from patchcore_fast.names import printable

log = logging.getLogger(__name__)
MODULE = "patchcore_fast.comparison.worker"


@dataclass(frozen=True)
class Done:
    """A cell and what is known of it.

    record : of `record.read_record`; error says why it failed.  kept : an earlier run had finished it.
    """

    cell: Cell
    record: Mapping[str, Any]
    kept: bool = False

    @property
    def error(self) -> str | None:
        """Why it failed, None where it did not."""
        found: str | None = self.record["error"]
        return found


def run(
    cells: Sequence[Cell], methods: Sequence[Entry], output: Path, begin: Callable[[Cell], None] = lambda _: None
) -> Iterator[Done]:
    """Give each cell as it is done: taken from `output` where it was made alike, else measured.

    One that fails, or whose process dies, has the reason as its error; the next run tries it again.

    Parameters
    ----------
    output : exists; records go to output/cells.  begin : is told of each cell that is measured.

    Raises
    ------
    ValueError, DataError, ConnectionError : a backbone that cannot be built, for all of a method's cells.
    """
    by_name = {entry.name: entry for entry in methods}
    weights, data = _Weights(), dict[Path, str]()
    for cell in cells:
        if cell.folder not in data:
            data[cell.folder] = files_digest(cell.folder)
        settings = by_name[cell.method].seeded(cell.seed)
        foreign = _foreign_version() if cell.method.startswith(FOREIGN) else None
        made = identity(cell.method, settings, weights.of(settings), data[cell.folder], get_num_threads(), foreign)
        file = output / cell.file
        found = read_record(file, made)
        if found is not None and found["error"] is None:
            yield Done(cell, found, kept=True)
            continue
        begin(cell)
        if not has_test(cell.folder):
            yield Done(cell, {"error": "no test images"})
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        ended = start({"folder": os.fspath(cell.folder), "method": cell.method, "settings": settings, "made": made,
                       "file": os.fspath(file), "parent": os.getpid()})  # fmt: skip
        yield Done(cell, read_record(file, made) or {"error": ended or "its record cannot be read"})


def start(job: Mapping[str, Any]) -> str:
    """Run a job in a new process; why it ended, "" where it ended well. Ctrl-C ends it too."""
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        # A session of its own: Ctrl-C of the terminal reaches this process, which ends that one.
        child = subprocess.Popen([sys.executable, "-m", MODULE], stdin=subprocess.PIPE, stdout=said, stderr=said,
                                 env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                                 start_new_session=True)  # fmt: skip
        try:
            child.communicate(json.dumps(job).encode("ascii"))
        except BaseException:
            child.kill()
            child.wait()
            raise
        said.seek(0)
        text = said.read()
        log.debug("%s, seed %s: %s", job["method"], job["settings"]["selection"]["seed"], text or "said nothing")
        return _ending(child.returncode, text)


def _ending(code: int, said: str) -> str:
    if code == 0:
        return ""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (": the machine may have run out of memory" if name == "SIGKILL" else "")
    last = [line.strip() for line in said.splitlines() if line.strip()][-1:]
    return printable(last[0]) if last else f"ended with code {code}"


class _Weights:
    """Fingerprints of backbones, each built once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, settings: Mapping[str, Any]) -> str:
        config = PatchCoreConfig.from_dict({name: settings[name] for name in ("features", "selection")})
        f, seed = config.features, config.selection.seed
        key = json.dumps([settings["features"], seed if f.weights == "random" else None])
        if key not in self._known:
            self._known[key] = make_source(config, device("cpu")).fingerprint()
        return self._known[key]


def _foreign_version() -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("anomalib")
    except PackageNotFoundError:
        return None
