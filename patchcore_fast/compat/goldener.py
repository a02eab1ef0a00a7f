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
from ..kernels.checks import LARGEST, check_int, check_matrix, raise_unusable
from ..kernels.surroundings import undisturbed
from ..samplers.measures import farthest_from_mean
from ._replace import Replacement

__all__ = ["install", "select"]

_CLASS = "GoldGreedyKCenterSelectionTool"
_SHORTEST = 1e-12  # rows that are shorter goldener's cosine_distance does not bring to length 1


@undisturbed
def select(self: Any, x: Tensor, k: int, anchors: Tensor | None = None) -> list[int]:
    """Rows of x [N, D] chosen by k-center greedy: each is the one farthest from the anchors and the rows before it.

    Without anchors the first is the row whose distances to all rows have the largest norm. Once every row lies on a
    chosen one, row 0 comes again and again, as in goldener.

    With cosine distance rows are brought to length 1 in float64. A row of zeros has no direction and is refused; in
    goldener it is at distance 1 from all rows and from itself, and once chosen may be chosen again and again.

    Parameters
    ----------
    self : the tool, with `device` and `distance_func` (torch.cdist, or goldener's cosine_distance).
    k : 0..N; N gives all rows in their order.  anchors : [A, D], or None.

    Raises
    ------
    ValueError : x is not 2-D, k is larger than N, rows that are not finite, another distance; with cosine distance
        rows or anchors of zeros (shorter than 1e-12), unless all rows are asked for, or none.
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
        x = _directions(x, known)
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


def _directions(x: Tensor, known: int) -> Tensor:
    """Rows [A + N, D], of which the first `known` are anchors, of unit length in float64."""
    rows = x.double()
    if not bool((rows.abs() <= LARGEST).all()):
        raise_unusable("select", "x", rows)
    short = (rows.norm(dim=1) < _SHORTEST).nonzero()[:, 0].tolist()
    if short:
        which = f"anchor {short[0]}" if short[0] < known else f"row {short[0] - known}"
        raise ValueError(
            f"select: cosine distance wants rows that have a direction, got {len(short)} of zeros (shorter than "
            f"{_SHORTEST:g}), the first is {which}"
        )
    return torch.nn.functional.normalize(rows, dim=1)


def _most_distant(x: Tensor) -> int:
    """The row of unit rows [N, D] float64 with the largest sum over all rows of (1 - cos)^2, in O(N D^2).

    1 - cos is half of |a - b|^2, which is written out for rows less their mean: of rows that hardly differ, sums of
    cosines themselves would keep nothing but rounding.
    """
    rows = x - x.mean(0)
    length = rows.square().sum(1)
    across = 4 * rows @ (rows.T @ rows) - 4 * (length @ rows) - 4 * length[:, None] * rows.sum(0)
    total = len(x) * length.square() + 2 * length * length.sum() + (across * rows).sum(1)
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
