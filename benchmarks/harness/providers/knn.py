"""k nearest neighbours: ours, faiss, scikit-learn, torch.cdist + topk, KeOps; and the matrix product alone, as a floor.

An opened provider answers `answer(k)` with {"rows": [Q, k]}. What a library can prepare once for a bank (an index) is
prepared when it is opened, outside the time; ours prepares nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
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


def ours(backend: str, tuning: dict[str, Any] | None = None, **arguments: Any) -> type[_Opened]:
    """knn has no tuning."""

    class Ours(_Opened):
        def answer(self, k: int) -> dict[str, Any]:
            return {"rows": knn(self.queries, self.bank, k, backend=backend, **arguments)[1]}

        def facts(self) -> dict[str, Any]:
            return {"backend": chosen_backend(self.device, "knn")} if backend == "auto" else {}

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
        return {"rows": torch.cat(parts)}


class Whole(_Opened):
    def answer(self, k: int) -> dict[str, Any]:
        return {"rows": torch.cdist(self.queries, self.bank).topk(k, largest=False).indices}


def product(tf32: bool) -> type[_Opened]:
    class Product(_Opened):
        """query @ bank.T into memory that is there: what any search by products has to do, and no more."""

        def prepare(self, device: str) -> None:
            torch.backends.cuda.matmul.allow_tf32 = tf32
            self.out = torch.empty(len(self.queries), len(self.bank), device=device)

        def answer(self, k: int) -> dict[str, Any]:
            return {"product": torch.mm(self.queries, self.bank.T, out=self.out)}

        def shown(self, answer: dict[str, Any]) -> dict[str, Any]:
            rows = np.arange(0, len(self.queries), max(1, len(self.queries) // 16))
            return {"rows": rows, "product": answer["product"][torch.from_numpy(rows).to(self.device)]}

    return Product


class KeOps(_Opened):
    def answer(self, k: int) -> dict[str, Any]:
        from pykeops.torch import LazyTensor

        squared = ((LazyTensor(self.queries[:, None]) - LazyTensor(self.bank[None])) ** 2).sum(-1)
        return {"rows": squared.argKmin(k, dim=1)}


def _faiss_missing(device: str) -> str | None:
    missing = installed("faiss", "faiss-cpu or faiss-gpu")(device)
    if missing or device == "cpu":
        return missing
    import faiss

    return None if hasattr(faiss, "StandardGpuResources") else "faiss is installed without its CUDA part"


def _whole_fits(problem: Problem) -> str | None:
    need = 4 * problem.n * problem.queries
    return f"its Q x M matrix needs {need / 1e9:,.0f} GB" if 1.1 * need > problem.limit else None


def _tf32_missing(device: str) -> str | None:
    if device == "cpu":
        return "TF32 is for CUDA devices"
    return None if torch.cuda.get_device_capability(device) >= (8, 0) else "this card knows no TF32"


_LIST = (
    *own_providers("knn(query, bank, k)", ours, "slack"),
    Provider("faiss", "faiss", "IndexFlatL2.search; the index is made outside the time", Faiss, missing=_faiss_missing),
    Provider("scikit-learn", "scikit-learn", 'NearestNeighbors(algorithm="brute", n_jobs=-1), fitted outside the time',
             ScikitLearn, missing=cpu_only(installed("sklearn", "scikit-learn"))),
    Provider("torch chunks", "torch chunks", "torch.cdist and topk, 128 MB of distances at a time", Chunks),
    Provider("torch whole", "torch whole", "torch.cdist and topk, all Q x M distances at once", Whole,
             refuse=_whole_fits),
    Provider("GEMM", "GEMM", "torch.mm(query, bank.T) in float32 and nothing else", product(tf32=False),
             refuse=_whole_fits, optional=True, judged="product", tolerance=1e-5),
    Provider("GEMM tf32", "GEMM tf32", "torch.mm(query, bank.T) in TF32 and nothing else", product(tf32=True),
             missing=_tf32_missing, refuse=_whole_fits, optional=True, judged="product", tolerance=2**-9),
    Provider("KeOps", "KeOps", "pykeops LazyTensor, argKmin", KeOps, missing=installed("pykeops", "pykeops")),
)  # fmt: skip
PROVIDERS = {p.name: p for p in _LIST}
