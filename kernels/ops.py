"""torch.library registration: schemas, fakes, implementations; nothing else. One op call is one whole job."""

from __future__ import annotations

import torch
from torch import Tensor

from .backends import choose_backend
from .exact import root
from .rounding import full_float32

_LIBRARY = torch.library.Library("patchcore_fast", "DEF")
_LIBRARY.define("knn(Tensor query, Tensor bank, int k, str backend='auto') -> (Tensor, Tensor)")


def _knn(query: Tensor, bank: Tensor, k: int, backend: str = "auto") -> tuple[Tensor, Tensor]:
    if query.shape[0] == 0:
        return _knn_fake(query, bank, k, backend)
    with full_float32(query.device):
        chosen = choose_backend("knn", backend, query.device)
        squared, rows = chosen.knn(query, bank, k)
    return root(squared).float(), rows


def _knn_fake(query: Tensor, bank: Tensor, k: int, backend: str = "auto") -> tuple[Tensor, Tensor]:
    shape = (query.shape[0], k)
    return query.new_empty(shape, dtype=torch.float32), query.new_empty(shape, dtype=torch.int64)


_LIBRARY.impl("knn", _knn, "CompositeExplicitAutograd")
torch.library.register_fake("patchcore_fast::knn", _knn_fake, lib=_LIBRARY)
