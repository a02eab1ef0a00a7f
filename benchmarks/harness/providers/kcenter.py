"""Selections: ours, the plain loop, and the samplers of other libraries in the way their users call them.

An opened provider answers `answer(k)` with {"indices": [k]}. What counts as its time is what its users wait for: with
anomalib and patchcore-inspection that includes their projection, with k-center its copy to float64. One that projects,
or starts from distances, gives its `space()`: the features that its picks are chosen on, and the initial distances.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import ROOT
from patchcore_fast.kernels import Tuning, k_center_greedy

from . import Problem, Provider, cpu_only, from_file, installed, restated
from .own import chosen_backend, own_providers

START = 0


class _Opened:
    """Features as a tensor on the device, and what the last answer left to tell."""

    def __init__(self, arrays: dict[str, Any], device: str, seed: int) -> None:
        self.array, self.device, self.seed = arrays["features"], device, seed
        self.features = torch.from_numpy(self.array).to(device)
        self._facts: dict[str, Any] = {}

    def facts(self) -> dict[str, Any]:
        return self._facts

    def draw_anew(self) -> None:
        """Upstream draws from the global generators."""
        torch.manual_seed(self.seed)
        np.random.seed(self.seed)  # noqa: NPY002


def ours(backend: str, tuning: dict[str, Any] | None = None, **arguments: Any) -> type[_Opened]:
    class Ours(_Opened):
        def answer(self, k: int) -> dict[str, Any]:
            asked = {"start": START, "backend": backend, "tuning": Tuning(**(tuning or {})), **arguments}
            found = k_center_greedy(self.features, k, **asked)
            self._facts = {"passes": found.passes, "share_of_distances": found.distances / (len(self.features) * k)}
            return {"indices": found.indices}

        def facts(self) -> dict[str, Any]:
            return {**self._facts, **({"backend": chosen_backend(self.device)} if backend == "auto" else {})}

    return Ours


class Loop(_Opened):
    def __init__(self, arrays: dict[str, Any], device: str, seed: int) -> None:
        super().__init__(arrays, device, seed)
        self.loop = from_file(ROOT / "patchcore_fast" / "demo" / "baseline.py").one_pick_at_a_time

    def answer(self, k: int) -> dict[str, Any]:
        return {"indices": self.loop(self.features.float(), k, START).indices}


class AnomalibLoop(_Opened):
    def answer(self, k: int) -> dict[str, Any]:
        """As anomalib 2.4 and later: differences from the newest pick, their norms, minimum, argmax."""
        nearest = torch.full((len(self.features),), torch.inf, device=self.device)
        picks = [START]
        while len(picks) < k:
            distance = torch.linalg.norm(self.features - self.features[picks[-1]], dim=1)
            nearest = torch.minimum(nearest, distance.float())
            picks.append(int(nearest.argmax()))
            nearest[picks[-1]] = 0
        return {"indices": np.array(picks)}


class _Anomalib(_Opened):
    projected: torch.Tensor | None = None

    def space(self) -> dict[str, np.ndarray]:
        return {"features": self.projected.float().cpu().numpy()}

    def ratio(self, k: int) -> float:
        return (k + 0.5) / len(self.features)  # int(N * ratio) is k


class OursForAnomalib(_Anomalib):
    def answer(self, k: int) -> dict[str, Any]:
        from patchcore_fast.compat.anomalib import KCenterGreedy

        self.projected = None  # the last run's, before memory is measured
        self.draw_anew()
        sampler = KCenterGreedy(self.features, self.ratio(k))
        rows = sampler.select_coreset_idxs()
        self.projected = sampler.features
        return {"indices": rows}


class Anomalib(_Anomalib):
    def answer(self, k: int) -> dict[str, Any]:
        self.projected = None
        self.draw_anew()
        upstream = _upstream("anomalib.models.components.sampling.k_center_greedy", "PATCHCORE_FAST_ANOMALIB_REPO")
        if isinstance(upstream, str):
            self._facts = {"source": f"our re-statement of anomalib 2.4's loop ({upstream})"}
            rows, self.projected = restated("restated_anomalib").run(self.features, self.ratio(k), "2.4")
        else:
            self._facts = {"source": "anomalib's class"}
            sampler = upstream.KCenterGreedy(self.features, self.ratio(k))
            rows, self.projected = sampler.select_coreset_idxs(), sampler.features
        return {"indices": rows}


class _Amazon(_Opened):
    def reduce(self) -> torch.Tensor:
        return restated("restated_amazon").projected(self.features.cpu())

    def space(self) -> dict[str, np.ndarray]:
        """The projected rows, and their mean distances to the starting rows."""
        from patchcore_fast.samplers.measures import mean_distance

        self.draw_anew()
        reduced = self.reduce()
        rows = np.random.choice(len(reduced), min(10, len(reduced)), replace=False)  # noqa: NPY002
        initial = mean_distance(reduced, reduced[torch.from_numpy(rows).to(reduced.device)])
        return {"features": reduced.cpu().numpy(), "initial": initial.cpu().numpy()}


class OursForAmazon(_Amazon):
    def sampler(self, k: int) -> Any:
        from patchcore_fast.compat.amazon import ApproximateGreedyCoresetSampler

        self.draw_anew()
        return ApproximateGreedyCoresetSampler((k + 0.5) / len(self.features), torch.device(self.device))

    def reduce(self) -> torch.Tensor:
        """Rounded once from float64, where upstream sums in float32."""
        return self.sampler(1)._reduce_features(self.features)

    def answer(self, k: int) -> dict[str, Any]:
        return {"indices": self.sampler(k).select(self.features)}


class Amazon(_Amazon):
    def answer(self, k: int) -> dict[str, Any]:
        self.draw_anew()
        upstream = _upstream("patchcore.sampler", "PATCHCORE_FAST_AMAZON_REPO")
        if isinstance(upstream, str):
            self._facts = {"source": f"our re-statement of patchcore-inspection's loop ({upstream})"}
            again = restated("restated_amazon")
            return {"indices": again.approximate(again.projected(self.features).to(self.device), k)}
        self._facts = {"source": "patchcore-inspection's class"}
        sampler = upstream.ApproximateGreedyCoresetSampler((k + 0.5) / len(self.features), torch.device(self.device))
        reduced = sampler._reduce_features(self.features).detach()
        return {"indices": sampler._compute_greedy_coreset_indices(reduced)}


class AmazonExact(_Amazon):
    def answer(self, k: int) -> dict[str, Any]:
        self.draw_anew()
        again = restated("restated_amazon")
        self._facts = {"source": "our re-statement of patchcore-inspection's exact sampler"}
        return {"indices": again.exact(again.projected(self.features).to(self.device), k)}

    def space(self) -> dict[str, np.ndarray]:
        arrays = super().space()
        del arrays["initial"]  # the first row is free, all others are by distance
        return arrays


class QuickFPS(_Opened):
    def answer(self, k: int) -> dict[str, Any]:
        import torch_quickfps

        low = {"low_d": 8} if self.device != "cpu" else {}
        return {"indices": torch_quickfps.sample_idx(self.features[None], k, h=7, start_idx=START, **low)[0]}


class TorchFPS(_Opened):
    def answer(self, k: int) -> dict[str, Any]:
        from torch_fps import farthest_point_sampling

        mask = torch.ones(1, len(self.features), dtype=torch.bool, device=self.device)
        start = torch.full((1,), START, device=self.device)
        return {"indices": farthest_point_sampling(self.features[None], mask, k, start_idx=start)[0]}


class KCenterRust(_Opened):
    def answer(self, k: int) -> dict[str, Any]:
        from k_center import KCenter

        return {"indices": KCenter(n_clusters=k, random_state=None).fit(self.array).center_indices_}


class FPSample(_Opened):
    def answer(self, k: int) -> dict[str, Any]:
        import fpsample

        return {"indices": fpsample.fps_sampling(self.array, k, start_idx=START).astype(np.int64)}


def _upstream(module: str, variable: str) -> Any:
    """The module, from the checkout that the variable names or as installed; else why not."""
    place = os.environ.get(variable)
    if place:
        root = Path(place)
        folder = str(root / "src" if (root / "src").is_dir() else root)
        if folder not in sys.path:
            sys.path.insert(0, folder)
    elif importlib.util.find_spec(module.split(".")[0]) is None:
        return f"{module.split('.')[0]} is not installed and {variable} not set"
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever a foreign package raises when its parts do not fit together
        return f"{module} cannot be imported: {type(error).__name__}"


def _matrix_fits(problem: Problem) -> str | None:
    need = 12 * problem.n**2  # three float32 N x N arrays at the same time
    return f"its N x N matrices need {need / 1e9:,.0f} GB" if need > problem.limit else None


_RUST = "Rust, all rows per pick in float64; KCenter(n_clusters=k, random_state=None).fit"
_LIST = (
    *own_providers("k_center_greedy(x, k, start=0)", ours, "radius", unpruned={"prune": "none"},
                   triton={"graph": {"tuning": {"graph": True}}, "no graph": {"tuning": {"graph": False}}}),
    Provider("gemv loop", "loop", "one fused matrix-vector product per pick: the best that sequential torch can do",
             Loop, sequential=True),
    Provider("anomalib loop", "anomalib loop", "anomalib's selection loop (2.4 and later) on the rows as they are, "
             "without its projection", AnomalibLoop, sequential=True, optional=True),
    Provider("fpsample", "fpsample", "fpsample.fps_sampling; its bucket variants refuse more than 8 columns",
             FPSample, sequential=True, missing=cpu_only(installed("fpsample", "fpsample"))),
    Provider("torch-quickfps", "torch-quickfps", "torch_quickfps.sample_idx, h = 7 (CUDA: low_d = 8)", QuickFPS,
             sequential=True, missing=installed("torch_quickfps", "torch-quickfps")),
    Provider("torch-fps", "torch-fps", "torch_fps.farthest_point_sampling, C++ on the CPU, Triton on CUDA", TorchFPS,
             sequential=True, missing=installed("torch_fps", "torch-fps")),
    Provider("k-center", "k-center", _RUST, KCenterRust, sequential=True,
             missing=cpu_only(installed("k_center", "k-center (needs Python 3.11 or later)"))),
    Provider("amazon", "amazon", "patchcore-inspection's approximate sampler, projection to 128 included", Amazon,
             sequential=True),
    Provider("ours for amazon", "ours for amazon", "compat.amazon: the same projection and rule on our engine",
             OursForAmazon),
    Provider("amazon exact", "amazon exact", "patchcore-inspection's exact sampler, N x N", AmazonExact,
             sequential=True, refuse=_matrix_fits),
    Provider("anomalib", "anomalib", "KCenterGreedy of anomalib 2.4 and later, its sparse projection included",
             Anomalib, sequential=True, missing=installed("sklearn", "scikit-learn, which its projection needs,")),
    Provider("ours for anomalib", "ours for anomalib", "compat.anomalib: the same projection and start on our engine",
             OursForAnomalib, missing=installed("sklearn", "scikit-learn, which its projection needs,")),
)  # fmt: skip
PROVIDERS = {p.name: p for p in _LIST}
