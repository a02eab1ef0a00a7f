"""Graph of the patches of one image: edges to the nearest ones, and the max-relative convolution without its weights.

Vision GNN (Han et al., NeurIPS 2022), after Li et al. (ICCV 2019): an edge goes from each of K neighbours j to its
centre i, and node i becomes [x_i, max_j (x_j - x_i)] before a linear map. GraphCore (Xie et al., ICLR 2023) keeps such
nodes in a memory bank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from patchcore_fast.kernels import knn
from patchcore_fast.kernels.exact import power_of_two
from patchcore_fast.kernels.surroundings import undisturbed

_ROW_BITS, _MATRIX_BITS = 22, 16  # with 2^15 columns at most: sums of their products are integers below 2^53
_COLUMNS = 1 << 15


def nearest_nodes(centres: Tensor, others: Tensor, k: int, dilation: int = 1) -> Tensor:
    """Of each of the centres [Q, C] k of the others [M, C], [Q, k] int64, the nearest first.

    They are every `dilation`-th of the k * dilation nearest, from the first on: a node that is among the others is its
    own first neighbour, as in Vision GNN. Exact, ties to the lowest row (`kernels.knn`).

    Raises
    ------
    ValueError : fewer than k * dilation others.
    """
    if k * dilation > len(others):
        raise ValueError(
            f"graph: {k} neighbours at a dilation of {dilation} are among the {k * dilation} nearest patches, and the "
            f"image has {len(others)}: take fewer, or a larger image"
        )
    return knn(centres, others, k * dilation)[1][:, ::dilation]


def max_relative(centres: Tensor, others: Tensor, edges: Tensor) -> Tensor:
    """max_j (y_j - x_i) of centres x [Q, C] over the rows y_j of others [M, C] that edges [Q, k] name: [Q, C].

    Rounding keeps order, so that the maximum may be taken before the difference.
    """
    largest = others[edges[:, 0]]
    for column in edges[:, 1:].unbind(1):
        largest = torch.maximum(largest, others[column])
    return largest - centres


@undisturbed
def graph_nodes(nodes: Tensor, k: int, dilation: int = 1, projection: Tensor | None = None) -> Tensor:
    """[P, 2 C] float32 of the patches [P, C] float32 of one image: [x_i, max_j (x_j - x_i)]; projected, [P, dim].

    Permuting the patches permutes the result and changes no bit of it, whatever is equal and however many threads
    there are. All is computed from the different patches in the order of their numbers (lexicographic), which says
    nothing of where they were, each counted as often as it occurs: so of patches at exactly one distance those with the
    smaller numbers are nearer, and equal patches get equal rows. No sum depends on its order (`projected`).

    Parameters
    ----------
    k, dilation : see `nearest_nodes`.
    projection : [dim, 2 C] of `fusion.channel_projection`.

    Raises
    ------
    ValueError : fewer than k * dilation patches, or values that are not finite.
    """
    # + 0.0: of the two zeros one is left, which are equal numbers and not equal bits.
    rows, place, count = torch.unique(nodes + 0.0, dim=0, return_inverse=True, return_counts=True)
    edges = nearest_nodes(rows, rows.repeat_interleave(count, dim=0), k, dilation)
    numbers = torch.arange(len(rows), device=rows.device).repeat_interleave(count)
    found = torch.cat([rows, max_relative(rows, rows, numbers[edges])], dim=1)
    return (found if projection is None else projected(found, projection))[place]


def projected(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows [N, C] float32 times the transpose of matrix [dim, C], [N, dim] float32, the same for any order of the sums.

    Rows are rounded to 22 bits below their largest number and the matrix to 16 below its own: then all products and
    sums are integers that float64 holds exactly, whichever way a BLAS adds them up. float32 has 24 bits.

    Raises
    ------
    ValueError : more than 32,768 columns.
    """
    if rows.shape[1] > _COLUMNS:
        raise ValueError(f"graph: at most {_COLUMNS:,} columns can be projected, got {rows.shape[1]:,}")
    unit, steps = _units(matrix.abs().amax(), _MATRIX_BITS), _units(rows.abs().amax(dim=1, keepdim=True), _ROW_BITS)
    whole = (rows.double() / steps).round() @ (matrix.double() / unit).round().T
    return (whole * steps * unit).float()


def _units(largest: Tensor, bits: int) -> Tensor:
    """Powers of two, float64, of which numbers up to `largest` are at most 2^bits."""
    return power_of_two(largest.frexp().exponent - bits)
