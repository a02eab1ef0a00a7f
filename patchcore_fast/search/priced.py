"""Bank rows with a price: what no other training image supports counts as farther away (docs/price.md)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from patchcore_fast.kernels import knn, prepare

Search = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]  # query [Q, D], k -> distances, rows [Q, k]


def with_price(bank: torch.Tensor, support: torch.Tensor | None, price: float) -> torch.Tensor:
    """Rows with their price as one more number: neighbours of a query with a zero there are those by priced distance.

        |(x, 0) - (b_j, c s_j)|^2 = |x - b_j|^2 + (c s_j)^2

    Parameters
    ----------
    bank : [M, D] floating.  support : [M], s_j: how far each is from the nearest row of another image; or None.
    price : c, at least 0.

    Returns
    -------
    [M, D + 1] of the type and on the device of the bank; the bank itself without support or price.
    """
    if support is None or price == 0:
        return bank
    column = (support.to(bank.device).double() * price).clamp(max=torch.finfo(bank.dtype).max).to(bank.dtype)
    return torch.cat([bank, column[:, None]], dim=1)


def widened(query: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """Queries [Q, D] as rows of a bank [M, D or D + 1] are: with a zero at the price."""
    return query if query.shape[1] == bank.shape[1] else F.pad(query, (0, bank.shape[1] - query.shape[1]))


def priced_search(bank: torch.Tensor, support: torch.Tensor | None, price: float) -> Search | None:
    """An exact search by priced distance in rows [M, D]; None where they have no price, and `knn` finds the same."""
    rows = with_price(bank, support, price)
    if rows is bank:
        return None
    ready = prepare(rows)
    return lambda query, k: knn(widened(query, rows), ready, k)
