"""`k_center_greedy` of DeepCore (Guo, Zhao and Bai 2022), which also sits in many active-learning repositories.

One line in a script that uses DeepCore:

    from patchcore_fast.compat import deepcore; deepcore.install()

and for a repository with a copy of its own: deepcore.install(that_module). The budget x N matrix of upstream is not
built, and its numpy.in1d, gone from NumPy 2.4, is not used.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import kernels
from ..kernels.checks import check_int, check_matrix
from ..kernels.surroundings import undisturbed
from ..samplers.base import as_tensor
from ._replace import Replacement, replace_all

__all__ = ["install", "k_center_greedy"]

_NAME = "k_center_greedy"


@undisturbed
def k_center_greedy(
    matrix: Tensor | np.ndarray,
    budget: int,
    metric: Callable[[Tensor, Tensor], Any],
    device: torch.device | str,
    random_seed: int | None = None,
    index: Sequence[Any] | np.ndarray | Tensor | None = None,
    already_selected: Sequence[Any] | np.ndarray | None = None,
    print_freq: int = 20,
) -> Any:
    """Choose `budget` rows by k-center greedy, from a random row or from those selected before.

    NumPy's global generator is left as upstream leaves it: seeded with `random_seed` (None: anew from the system), and
    one number drawn where nothing is selected yet. Nothing is printed.

    Parameters
    ----------
    matrix : [N, D] floating tensor or ndarray.
    budget : rows to add; with nothing selected before, the random one is the first of them. More than are left: all.
    metric : Euclidean distance, as DeepCore's `euclidean_dist`; it is tried on a few rows (`is_euclidean`) and not
        used otherwise, since ours is exact.
    device : where to compute.
    index : [N] names of the rows, or None for 0..N-1.
    already_selected : [S] names of rows selected before, those not in `index` do not count; None or empty: none.
    print_freq : has no effect.

    Returns
    -------
    The entries of `index`, as ndarray (a tensor if index is one), of all rows that were selected before or are now,
    in the order of `index`.

    Raises
    ------
    TypeError : wrong types.  ValueError : "Illegal budget size." for a negative budget; wrong shapes; a metric that
    is not Euclidean distance; an `already_selected` that is not empty but names no row; non-finite rows.
    """
    if isinstance(matrix, np.ndarray):
        if matrix.dtype.kind != "f":
            raise TypeError(f"{_NAME}: matrix must be floating, got an ndarray of {matrix.dtype}")
        matrix = as_tensor(matrix)
    check_matrix(_NAME, "matrix", matrix)
    rows = matrix.detach().to(device)
    n = rows.shape[0]
    if isinstance(budget, (int, np.integer)) and budget < 0:
        raise ValueError(f"Illegal budget size. {_NAME}: budget must be >= 0, got {budget}")
    budget = check_int(_NAME, "budget", budget, 0, sys.maxsize)
    names = np.arange(n) if index is None else index.cpu().numpy() if isinstance(index, Tensor) else np.asarray(index)
    if names.shape != (n,):
        raise ValueError(f"{_NAME}: index must have shape ({n},), one name a row, got {names.shape}")
    if not callable(metric):
        raise TypeError(f"{_NAME}: metric must be callable, got {type(metric).__name__}")
    if not is_euclidean(metric, rows):
        label = getattr(metric, "__name__", repr(metric))
        raise ValueError(f"{_NAME}: metric must be Euclidean distance, as euclidean_dist; got {label}, which differs")
    before = np.asarray([] if already_selected is None else already_selected)

    np.random.seed(random_seed)  # noqa: NPY002  (upstream's generator, and its effect on what follows)
    if before.size:
        chosen = np.isin(names, before)
        if not chosen.any():
            raise ValueError(f"{_NAME}: already_selected must name rows of index, got none of them in {before.size}")
        start = None
    else:
        chosen = np.zeros(n, dtype=bool)
        start = int(np.random.randint(0, n)) if budget else None  # noqa: NPY002
    selected = torch.from_numpy(chosen.nonzero()[0])
    count = min(budget, n - len(selected))
    if count:
        result = kernels.k_center_greedy(rows, count, start=start, selected=selected)
        chosen[result.indices.cpu().numpy()] = True
    return index[torch.from_numpy(chosen).to(index.device)] if isinstance(index, Tensor) else names[chosen]


def is_euclidean(metric: Callable[[Tensor, Tensor], Any], like: Tensor) -> bool:
    """Whether metric(x [A, D], y [B, D]) -> [A, B] gives Euclidean distances, to 1e-3, on a few small integer rows.

    like : [N, D] tensor whose width, dtype and device the rows get. The original `euclidean_dist` calls addmm_ in a
    form that torch has deprecated; where it fails, its name is enough.
    """
    step = torch.arange(1, like.shape[1] + 1, dtype=torch.float64)
    probe = torch.stack([(step * 3) % 5, (step * 5) % 7 + 4, -((step * 2) % 3), (step * step) % 11])
    probe[:, 16:] = 0  # so that squares stay within half precision
    probe[0, 16:] = 1
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = probe.to(dtype=like.dtype, device=like.device)
            got = torch.as_tensor(metric(rows[:2], rows[1:])).double().cpu()
    except Exception:
        return getattr(metric, "__name__", "") == "euclidean_dist"
    want = torch.cdist(probe[:2], probe[1:], compute_mode="donot_use_mm_for_euclid_dist")
    # The width of bfloat16 and TF32 shows at distance zero, where expanded forms cancel.
    slack = 0.05 * probe.square().sum(1).max().sqrt()
    close = (got - want).abs() <= torch.where(want > 0, _RTOL.get(like.dtype, 1e-3) * want, slack)
    return got.shape == want.shape and bool(close.all())


_RTOL = {torch.float16: 2e-2, torch.bfloat16: 5e-2}


def install(*modules: ModuleType) -> Replacement:
    """Put the function into modules that hold upstream's.

    modules : without any, every imported module of `deepcore.methods` that holds the name, and
        `deepcore.methods.kcentergreedy`, which is imported.

    Returns
    -------
    Replacement : `undo()` puts the originals back; as a context manager it does so at the end of the block.

    Raises
    ------
    ImportError : DeepCore cannot be imported.  AttributeError : a module lacks the name; nothing is changed.
    """
    targets = list(modules)
    if not targets:
        first = importlib.import_module("deepcore.methods.kcentergreedy")
        loaded = [module for name, module in sorted(sys.modules.items()) if name.startswith("deepcore.methods.")]
        targets = [first] + [module for module in loaded if module is not first and hasattr(module, _NAME)]
    return replace_all(targets, {_NAME: k_center_greedy})
