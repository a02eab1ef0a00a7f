"""goldener's `GoldGreedyKCenterSelectionTool` on our engine, without its matrix of all rows by all rows.

    from patchcore_fast.compat import goldener; goldener.install()

before or after the tool is made. The tool's device, distance and anchors mean what they mean there.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ..kernels import k_center_greedy
from ..kernels.checks import check_int, check_matrix
from ..kernels.surroundings import undisturbed
from ..samplers.measures import farthest_from_mean
from ._replace import Replacement

__all__ = ["install", "select"]

_CLASS = "GoldGreedyKCenterSelectionTool"


@undisturbed
def select(self: Any, x: Tensor, k: int, anchors: Tensor | None = None) -> list[int]:
    """Rows of x [N, D] chosen by k-center greedy: each is the one farthest from the anchors and the rows before it.

    Without anchors the first is the row whose distances to all rows have the largest norm. Once every row lies on a
    chosen one, row 0 comes again and again, as in goldener.

    Parameters
    ----------
    self : the tool, with `device` and `distance_func` (torch.cdist, or goldener's cosine_distance).
    k : 0..N; N gives all rows in their order.  anchors : [A, D], or None.

    Raises
    ------
    ValueError : x is not 2-D, k is larger than N, rows that are not finite, another distance.
    """
    if not isinstance(x, Tensor) or x.ndim != 2:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"GoldSelectionTool only accepts 2D tensors (num_vectors, feature_dim). Got shape {got}.")
    if k > len(x):
        raise ValueError("k cannot be greater than the number of data points in x.")
    k = check_int("select", "k", k, 0, len(x))
    if k in (0, len(x)):
        return list(range(k))
    x = x.detach().to(self.device)
    check_matrix("select", "x", x)
    known = 0
    if anchors is not None and len(anchors):
        known = len(anchors)
        x = torch.cat([anchors.detach().to(device=x.device, dtype=x.dtype), x])
    cosine = _is_cosine(self.distance_func)
    if cosine:  # 1 - cos is half the square of the distance of rows of unit length: the same order
        x = torch.nn.functional.normalize(x, dim=1)
    if known:
        found = k_center_greedy(x, k, selected=torch.arange(known))
    else:
        found = k_center_greedy(x, k, start=_most_distant(x) if cosine else farthest_from_mean(x))
    radii = found.radii if known else found.radii[1:]
    distinct = k - len(radii) + int((radii > 0).sum())
    return (found.indices[:distinct] - known).tolist() + [0] * (k - distinct)


def _is_cosine(distance: Any) -> bool:
    if distance is torch.cdist:
        return False
    if getattr(distance, "__name__", "") == "cosine_distance":
        return True
    raise ValueError(f"select: the distance must be torch.cdist or goldener's cosine_distance, got {distance!r}")


def _most_distant(x: Tensor) -> int:
    """The row of unit rows with the largest sum over all rows of (1 - cos)^2, by the D x D matrix of their products."""
    rows = x.double()
    total = ((rows @ (rows.T @ rows)) * rows).sum(1) - 2 * (rows @ rows.sum(0))
    return int(total.argmax())


def install() -> Replacement:
    """Let goldener's tool select by our engine, until `undo()` of what is returned, or the end of its block.

    Raises
    ------
    ImportError : goldener cannot be imported.  AttributeError : it has no such tool.
    """
    try:
        module = import_module("goldener.select")
    except ImportError as error:
        raise ImportError(f"patchcore_fast.compat.goldener: goldener must be installed ({error})") from error
    replacement = Replacement()
    replacement.set(getattr(module, _CLASS), "select", select)
    return replacement
