"""k nearest neighbours: ours, faiss, scikit-learn, torch.cdist + topk, KeOps.

An opened provider answers `answer(k)` with {"rows": [Q, k]}. What a library can prepare once for a bank (an index) is
prepared when it is opened, outside the time; ours prepares nothing.
"""

from __future__ import annotations

from typing import Any

import torch

from patchcore_fast.kernels import knn

from . import Problem, Provider, cpu_only, installed
from .own import chosen_backend, own_providers

_CHUNK_BYTES = 128 << 20


class _Opened:
    def __init__(self, arrays: dict[str, Any], device: str, seed: int) -> None:
        self.bank_array, self.query_array = arrays["bank"], arrays["queries"]
        self.bank = torch.from_numpy(self.bank_array).to(device)
        self.queries = torch.from_numpy(self.query_array).to(device)
        self.device = device
        self.prepare(device)

    def prepare(self, device: str) -> None:
        """Once for a bank."""


def ours(backend: str) -> type[_Opened]:
    class Ours(_Opened):
        def answer(self, k: int) -> dict[str, Any]:
            return {"rows": knn(self.queries, self.bank, k, backend=backend)[1].cpu()}

        def facts(self) -> dict[str, Any]:
            return {"backend": chosen_backend(self.device)} if backend == "auto" else {}

    return Ours


class Faiss(_Opened):
    def prepare(self, device: str) -> None:
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        self.index = faiss.IndexFlatL2(self.bank.shape[1])
        if device != "cpu":
            self.index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, self.index)
        self.index.add(self.bank_array)

    def answer(self, k: int) -> dict[str, Any]:
        return {"rows": self.index.search(self.query_array, k)[1]}


class ScikitLearn(_Opened):
    def prepare(self, device: str) -> None:
        from sklearn.neighbors import NearestNeighbors

        self.index = NearestNeighbors(algorithm="brute", n_jobs=-1).fit(self.bank_array)

    def answer(self, k: int) -> dict[str, Any]:
        return {"rows": self.index.kneighbors(self.query_array, k)[1]}


class Chunks(_Opened):
    def answer(self, k: int) -> dict[str, Any]:
        step = max(1, _CHUNK_BYTES // (4 * len(self.bank)))
        parts = [torch.cdist(q, self.bank).topk(k, largest=False).indices for q in self.queries.split(step)]
        return {"rows": torch.cat(parts).cpu()}


class Whole(_Opened):
    def answer(self, k: int) -> dict[str, Any]:
        return {"rows": torch.cdist(self.queries, self.bank).topk(k, largest=False).indices.cpu()}


class KeOps(_Opened):
    def answer(self, k: int) -> dict[str, Any]:
        from pykeops.torch import LazyTensor

        squared = ((LazyTensor(self.queries[:, None]) - LazyTensor(self.bank[None])) ** 2).sum(-1)
        return {"rows": squared.argKmin(k, dim=1).cpu()}


def _faiss_missing(device: str) -> str | None:
    missing = installed("faiss", "faiss-cpu or faiss-gpu")(device)
    if missing or device == "cpu":
        return missing
    import faiss

    return None if hasattr(faiss, "StandardGpuResources") else "faiss is installed without its CUDA part"


def _whole_fits(problem: Problem) -> str | None:
    need = 4 * problem.n * problem.queries
    return f"its Q x M matrix needs {need / 1e9:,.0f} GB" if 1.1 * need > problem.limit else None


_LIST = (
    *own_providers("knn(query, bank, k)", ours),
    Provider("faiss", "faiss", "IndexFlatL2.search; the index is made outside the time", Faiss, missing=_faiss_missing),
    Provider("scikit-learn", "scikit-learn", 'NearestNeighbors(algorithm="brute", n_jobs=-1), fitted outside the time',
             ScikitLearn, missing=cpu_only(installed("sklearn", "scikit-learn"))),
    Provider("torch chunks", "torch chunks", "torch.cdist and topk, 128 MB of distances at a time", Chunks),
    Provider("torch whole", "torch whole", "torch.cdist and topk, all Q x M distances at once", Whole,
             refuse=_whole_fits),
    Provider("KeOps", "KeOps", "pykeops LazyTensor, argKmin", KeOps, missing=installed("pykeops", "pykeops")),
)  # fmt: skip
PROVIDERS = {p.name: p for p in _LIST}
