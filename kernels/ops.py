"""torch.library registration: schemas, fakes, implementations; nothing else. One op call is one whole job."""

from __future__ import annotations

import torch
from torch import Tensor

from .backends import choose_backend
from .exact import root
from .kcenter import k_center_greedy
from .surroundings import undisturbed
from .tuning import Budget

_LIBRARY = torch.library.Library("patchcore_fast", "DEF")
_OPTIONS = "str backend='auto', str precision='float32', int? memory_limit=None"
_LIBRARY.define(f"knn(Tensor query, Tensor bank, int k, {_OPTIONS}) -> (Tensor, Tensor)")
_LIBRARY.define(
    "k_center_greedy(Tensor features, int k, *, int? start=None, Tensor? initial_min_dist=None, "
    f"Tensor? selected=None, Tensor? weights=None, {_OPTIONS}) -> (Tensor indices, Tensor radii)"
)


@undisturbed
def _knn(
    query: Tensor,
    bank: Tensor,
    k: int,
    backend: str = "auto",
    precision: str = "float32",
    memory_limit: int | None = None,
) -> tuple[Tensor, Tensor]:
    budget = Budget.checked("knn", precision, memory_limit)
    if query.shape[0] == 0:
        return _knn_fake(query, bank, k)
    chosen = choose_backend("knn", backend, query.device, "knn")
    squared, rows = chosen.knn(query, bank, k, budget)
    return root(squared).float(), rows


def _knn_fake(query: Tensor, bank: Tensor, k: int, *options: object) -> tuple[Tensor, Tensor]:
    shape = (query.shape[0], k)
    return query.new_empty(shape, dtype=torch.float32), query.new_empty(shape, dtype=torch.int64)


def _k_center_greedy(
    features: Tensor,
    k: int,
    *,
    start: int | None = None,
    initial_min_dist: Tensor | None = None,
    selected: Tensor | None = None,
    weights: Tensor | None = None,
    backend: str = "auto",
    precision: str = "float32",
    memory_limit: int | None = None,
) -> tuple[Tensor, Tensor]:
    found = k_center_greedy(
        features,
        k,
        start=start,
        initial_min_dist=initial_min_dist,
        selected=selected,
        weights=weights,
        backend=backend,
        precision=precision,
        memory_limit=memory_limit,
    )
    return found.indices, found.radii


def _k_center_greedy_fake(features: Tensor, k: int, **options: object) -> tuple[Tensor, Tensor]:
    return features.new_empty((k,), dtype=torch.int64), features.new_empty((k,), dtype=torch.float32)


_LIBRARY.impl("knn", _knn, "CompositeExplicitAutograd")
_LIBRARY.impl("k_center_greedy", _k_center_greedy, "CompositeExplicitAutograd")
for _name in ("knn", "k_center_greedy"):  # neighbours and picks have no gradient: results do not ask for one
    _LIBRARY.impl(_name, torch.library.fallthrough_kernel, "Autograd")
torch.library.register_fake("patchcore_fast::knn", _knn_fake, lib=_LIBRARY)
torch.library.register_fake("patchcore_fast::k_center_greedy", _k_center_greedy_fake, lib=_LIBRARY)
