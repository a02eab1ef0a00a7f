"""Which of two backends `auto` takes on a CUDA device: the one that was measured to be faster, as recorded here.

A card that nobody has measured gets the CUDA kernels where the module has code for its generation: they were compiled
beforehand, while Triton compiles for half a minute at the first call, and launches cost it more. Else it gets Triton's.

measured.json, written by benchmarks/gpu/choose_backend.py from a committed result, has one entry a compute capability:
"9.0": {"kcenter": "cuda", "knn": "triton", "device": ..., "date": ..., "commit": ..., "result": ...}.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .base import Backend

FILE = Path(__file__).with_name("measured.json")
CALLS = {"kcenter": "k_center_greedy", "knn": "knn"}  # parts of the engine, and the public functions that they serve


@functools.cache
def measured() -> dict[str, dict[str, str]]:
    """What is recorded, by compute capability.

    Raises
    ------
    ValueError : the file is not what benchmarks/gpu/choose_backend.py writes: the package is damaged.
    """
    found: Any = json.loads(FILE.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise ValueError(f"{FILE}: an object of objects is wanted")
    return found


def entry_of(device: torch.device) -> tuple[str, dict[str, str] | None]:
    """The card's compute capability, and what is recorded of it."""
    capability = "{}.{}".format(*torch.cuda.get_device_capability(device))
    return capability, measured().get(capability)


def choose(part: str, able: Sequence[Backend], device: torch.device) -> tuple[Backend, str]:
    """Of the backends that can run there and may be chosen, in their order, the one to take for a part of CALLS; why.

    Only a CUDA device on which two kinds of GPU kernels run is a matter of choice.
    """
    first = able[0]
    rivals = [b for b in able if b.name in ("triton", "cuda")]
    if device.type != "cuda":
        return first, "the first that runs here"
    if not rivals:
        return first, "neither Triton nor CUDA kernels run here"
    if len(rivals) == 1:
        other = "cuda" if rivals[0].name == "triton" else "triton"
        return first, f"{other} does not run here"
    capability, entry = entry_of(device)
    if entry is None or part not in entry:
        taken = next((b for b in rivals if b.tailored(device)), first)
        return taken, f"made for such cards, of capability {capability}; no measurement of them is recorded"
    taken = next((b for b in rivals if b.name == entry[part]), first)
    return taken, f"measured to be faster on {entry['device']}, {entry['date']}, commit {entry['commit'][:9]}"
