"""Who is measured: each provider opens features in a process of its own and answers requests (harness/worker.py).

A file given with --plugin adds providers: it defines KCENTER, KNN or RARITY, dictionaries like those of this package.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from patchcore_fast.kernels import explain_backends


@dataclass(frozen=True)
class Problem:
    """What a provider may refuse: rows, columns, picks or neighbours, and bytes it may take."""

    n: int
    d: int
    k: int
    limit: int
    queries: int = 0


@dataclass(frozen=True)
class Provider:
    """One competitor.

    name : as printed.  family : decides colour and label in plots, and who is compared with whom (records.py).
    about : one line: what is called, with which settings.
    open : (arrays, device, seed) -> an object with `answer(k) -> dict of arrays`; see kcenter.py and knn.py here.
    sequential : its first picks are those of any longer run, each at the same cost, so that its time for many may be
        extrapolated from few. Never ours.
    missing : device -> why it cannot run here at all, or None. Cheap: it imports nothing heavy.
    refuse : why it cannot do this problem, or None.
    source : where the code comes from, looked up without importing it.
    optional : runs only where it is asked for by name, by --also or by --isa.
    judged : what its answers are checked for where that is not exactness: "radius" (k-center: the covering radius,
        against that of the exact picks), "slack" (k-NN: squared distances, as a share of (|x| + |y|)^2), "product"
        (a matrix product: as a share of |x| |y|), "values" (rarity).
    tolerance : how far it may be off then.
    """

    name: str
    family: str
    about: str
    open: Callable[[dict[str, Any], str, int], Any]
    sequential: bool = False
    missing: Callable[[str], str | None] = lambda device: None
    refuse: Callable[[Problem], str | None] = lambda problem: None
    source: Callable[[], str] = lambda: ""
    optional: bool = False
    judged: str = ""
    tolerance: float = 0.0


def providers(task: str, plugin: str | None = None) -> dict[str, Provider]:
    """All providers of a task, "kcenter", "knn" or "rarity", in the order in which they are run."""
    found = dict(importlib.import_module(f"{__name__}.{task}").PROVIDERS)
    if plugin:
        if not Path(plugin).is_file() or Path(plugin).suffix != ".py":
            raise SystemExit(f"--plugin: {plugin} is no Python file")
        found.update(getattr(from_file(Path(plugin)), task.upper(), {}))
    return found


def from_file(path: Path) -> Any:
    """One module without the package that it is in: the demo's imports the pipeline, which need not be there."""
    name = f"benchmark_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def installed(module: str, package: str) -> Callable[[str], str | None]:
    """A `missing` that asks for an installed module."""

    def missing(device: str) -> str | None:
        return None if importlib.util.find_spec(module) else f"{package} is not installed"

    return missing


def cpu_only(inner: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """A `missing` for libraries without CUDA code."""

    def missing(device: str) -> str | None:
        return inner(device) or (f"runs on the CPU only, not on {device}" if device != "cpu" else None)

    return missing


def backend_missing(backend: str) -> Callable[[str], str | None]:
    """A `missing` for one of our backends: what explain_backends() says."""

    def missing(device: str) -> str | None:
        kind = device.split(":")[0]
        rows = [s for s in explain_backends() if s.backend == backend and s.device.split(":")[0] == kind]
        return None if any(s.available for s in rows) else "; ".join(s.reason for s in rows) or _unknown(backend)

    return missing


def _unknown(backend: str) -> str:
    known = any(s.backend == backend for s in explain_backends())
    return "no such device" if known else f"there is no backend {backend}"


def restated(name: str) -> Any:
    """A module of tests/peers: upstream's loops written again, which the tests compare with upstream itself."""
    return from_file(ROOT / "tests" / "peers" / f"{name}.py")
