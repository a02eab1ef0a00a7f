"""One cell in a process of its own: train, time single images, measure accuracy. `python -m` with the job on stdin."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from patchcore_fast.comparison.record import write_record
from patchcore_fast.data import ImageSet, load_image, scan
from patchcore_fast.errors import DataError
from patchcore_fast.memory import PeakMemory
from patchcore_fast.report.comparison import METRICS
from patchcore_fast.report.problems import reason

TIMED, WARM = 30, 2  # test images that are timed at most, after so many that are not
MIB = 1 << 20


def main() -> int:
    """Read the job, write the cell. What goes wrong is in the cell, and with its traceback on stderr."""
    job = json.load(sys.stdin)
    _die_with(job["parent"])
    try:
        work(job)
    except KeyboardInterrupt:  # of the program that started this one
        return 130
    return 0


def work(job: Mapping[str, Any]) -> None:
    """Measure a cell and write its record, or the reason why there is none.

    Parameters
    ----------
    job : folder, method, settings, made (the cell's identity), file (of the record; its folder exists).
    """
    try:
        facts = measured(job)
    except Exception as error:  # whatever it is, it is of this cell
        traceback.print_exc()
        facts = {"error": reason(error).replace(f"{job['folder']}{os.sep}", "").removeprefix(f"{job['folder']}: ")}
    write_record(Path(job["file"]), job["made"], facts)


def measured(job: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics and costs of a cell; train_cpu_s is the processor's, of all threads, which other programs move less.

    Memory is the peak of the process in training and in the prediction of single images, imports and all; the metrics,
    which sort all pixels of all test images, come after it.
    """
    from patchcore_fast.comparison.models import make_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the folder: the command has told them
        images = scan(job["folder"])
    if not images.train or not images.test:
        raise DataError(f"no {'training images (train/good)' if not images.train else 'test images'}")
    model = make_model(job["method"], job["settings"])
    with PeakMemory() as memory:
        clock, cpu = time.perf_counter(), time.process_time()
        model.fit(images, on_error="return")
        taken, worked = time.perf_counter() - clock, time.process_time() - cpu
        each = seconds_alone(model, images)
    found = model.evaluate(images, on_error="return")
    plain = found.to_dict()["metrics"]
    unread = [path.relative_to(images.root).as_posix() for path, _ in model.unread_]
    unread += [row["path"] for row in (*found.unread, *found.images) if row["error"]]
    return {
        "metrics": {name: plain.get(name) for name in METRICS}, "train_s": taken, "train_cpu_s": worked,
        "image_ms": 1000 * each, "peak_mib": memory.peak / MIB, "train": len(images.train), "test": len(found.images),
        "anomalous": sum(row["label"] == 1 for row in found.images), "unread": unread,
        "notes": list(getattr(model, "notes", ())), "environment": _environment(model),
    }  # fmt: skip


def seconds_alone(model: Any, images: ImageSet) -> float:
    """Of the prediction of one image that is in memory, the median over test images; the first ones wake threads."""
    f, taken = model.config.features, []
    for record in (images.test * (WARM + 1))[: TIMED + WARM]:
        with suppress(DataError):
            image = load_image(record.path, f.resize, f.crop, f.aspect)[None]
            clock = time.perf_counter()
            model.predict(image)
            taken.append(time.perf_counter() - clock)
    return float(np.median(taken[WARM:] or taken))


def _environment(model: Any) -> dict[str, Any]:
    import torch

    from patchcore_fast import __version__

    device = model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {"device": name, "threads": torch.get_num_threads(), "torch": str(torch.__version__),
            "patchcore_fast": __version__}  # fmt: skip


def _die_with(parent: int) -> None:
    """End when the program that started this one is killed (Linux; elsewhere the cell is finished, and kept)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
