"""How much each feature dimension of a patch moves its anomaly score: in closed form, from the neighbours found.

The score of a patch x is s(x) = 1/k * sum_j |x - n_j| over its k nearest bank rows. Between the places where a
neighbour changes, these are fixed, so

    ds/dx_i = 1/k * sum_j (x_i - n_ji) / |x - n_j|,

or 2/k * sum_j (x_i - n_ji) for squared distances. A neighbour at distance 0 adds nothing: 0 is a subgradient there, and
the one that autograd takes. The influence of dimension i is |ds/dx_i|.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from patchcore_fast.kernels import PreparedBank, knn, prepare
from patchcore_fast.kernels.checks import check_int, check_matrix
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.search import Search as Search

CHUNK_SIZE = 2048  # query rows whose neighbours are looked up together; beside the results, memory is 2 such blocks


class Influence(NamedTuple):
    """influence : [Q, D], float64 where an argument was, else float32.  distances : [Q, k] float32, ascending.
    rows : [Q, k] int64, the bank rows at these distances."""

    influence: Tensor
    distances: Tensor
    rows: Tensor


@undisturbed
def influence(
    query: Tensor,
    bank: Tensor,
    k: int = 1,
    *,
    squared: bool = False,
    chunk_size: int = CHUNK_SIZE,
    search: Search | None = None,
) -> Influence:
    """|d/dx_i mean distance to the k nearest bank rows| of every dimension i of every query row x.

    One search, chunk by chunk, each chunk's neighbours taken while they are near; no autograd graph, no loop over
    dimensions, nothing Q x M.

    Parameters
    ----------
    query : [Q, D] floating; Q may be 0.  bank : [M, D] floating, same device.  k : 1..M.
    squared : of the mean squared distance.
    chunk_size : query rows at a time, at least 1; changes speed and memory only.
    search : (query, k) -> distances, rows in place of the exact `knn`, for instance that of an approximate index.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape or range, different devices, rows that are not finite.
    """
    name = "influence"
    check_matrix(name, "query", query, "Q, D", empty=True)
    check_matrix(name, "bank", bank, "M, D")
    if query.shape[1] != bank.shape[1]:
        raise ValueError(f"{name}: query and bank must have equal width, got {query.shape[1]} and {bank.shape[1]}")
    if query.device != bank.device:
        raise ValueError(f"{name}: query is on {query.device}, bank is on {bank.device}")
    k = check_int(name, "k", k, 1, bank.shape[0], f" (the bank has {bank.shape[0]} rows)")
    chunk_size = check_int(name, "chunk_size", chunk_size, 1, 2**62)
    query, bank = query.detach(), bank.detach()
    out = query.new_empty(query.shape, dtype=working_type(query, bank))
    distances = query.new_empty((len(query), k), dtype=torch.float32)
    rows = torch.empty(len(query), k, dtype=torch.int64, device=query.device)
    ready = prepare(bank) if search is None and len(query) > chunk_size else bank
    for part, dist, near in search_chunks(query, ready, k, chunk_size, search):
        distances[part], rows[part] = dist, near
        gradient(query[part], bank, dist, near, squared, out=out[part]).abs_()
    return Influence(out, distances, rows)


def rows_of(bank: Tensor | PreparedBank) -> Tensor:  # [M, D]
    """The rows of a bank, prepared or not."""
    return bank.rows if isinstance(bank, PreparedBank) else bank


def search_chunks(
    query: Tensor, bank: Tensor | PreparedBank, k: int, chunk_size: int, search: Search | None
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(slice of the query, its distances, its rows), chunk by chunk."""
    for lo in range(0, len(query), chunk_size):
        part = slice(lo, min(lo + chunk_size, len(query)))
        dist, near = knn(query[part], bank, k) if search is None else search(query[part], k)
        yield part, dist, near


def working_type(*tensors: Tensor) -> torch.dtype:
    """float64 where one of them is, else float32: half-precision rows are widened, not computed with."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def gradient(
    x: Tensor, bank: Tensor, dist: Tensor, near: Tensor, squared: bool = False, out: Tensor | None = None
) -> Tensor:
    """ds/dx [Q, D] of rows x with neighbours bank[near[:, j]] at dist[:, j]; see the module for the formula.

    In difference form: each x_i - n_ji is rounded once, so a component is as exact as its own neighbours' terms.
    """
    kind, k = working_type(x, bank), dist.shape[1]
    x = x.to(kind)
    out = torch.empty_like(x) if out is None else out
    for j in range(k):
        difference = bank.index_select(0, near[:, j]).to(kind)
        torch.sub(x, difference, out=difference)
        if squared:
            weight = torch.full_like(difference[:, :1], 2.0 / k)
        else:
            d = dist[:, j : j + 1]
            if kind == torch.float64:  # float32 distances would cost digits here
                d = torch.linalg.vector_norm(difference, dim=1, keepdim=True)
            weight = torch.where(d > 0, 1.0 / (k * d), 0.0)
        if j == 0:
            torch.mul(difference, weight, out=out)
        else:
            out.addcmul_(difference, weight)
    return out


def others(bank: Tensor, k: int, chunk_size: int = CHUNK_SIZE) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Chunks of bank rows with distances to, and numbers of, their k nearest *other* bank rows, k < M."""
    ready = prepare(bank) if len(bank) > chunk_size else bank
    for part, dist, near in search_chunks(bank, ready, k + 1, chunk_size, None):
        own = near == torch.arange(part.start, part.stop, device=bank.device)[:, None]
        # Of many equal rows the search may name others only: then the last of the k + 1 goes.
        drop = torch.where(own.any(1), own.int().argmax(1), k)
        kept = torch.arange(k + 1, device=bank.device)[None] != drop[:, None]
        yield part, dist[kept].view(-1, k), near[kept].view(-1, k)


@undisturbed
def typical_influence(bank: Tensor, k: int = 1) -> Tensor:
    """Mean influence of each dimension over the bank rows, each scored against the others: [D] float64.

    A bank of one row has no others: ones. k is cut to M - 1.
    """
    check_matrix("typical_influence", "bank", bank, "M, D")
    k = check_int("typical_influence", "k", k, 1, 2**31 - 1)
    if len(bank) < 2:
        return torch.ones(bank.shape[1], dtype=torch.float64, device=bank.device)
    total = torch.zeros(bank.shape[1], dtype=torch.float64, device=bank.device)
    for part, dist, near in others(bank, min(k, len(bank) - 1)):
        total += gradient(bank[part], bank, dist, near).abs_().sum(0, dtype=torch.float64)
    return total / len(bank)
