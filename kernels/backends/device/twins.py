"""Equal rows of a bank: where a search meets many, those that no query can need are left out."""

from __future__ import annotations

import torch
from torch import Tensor

from ...rounding import row_chunks

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_MIX, _STEP = -0x61C8864680B583EB, 0x2545F4914F6CDD1D  # odd, their bits spread: the golden ratio, and xorshift64*'s


def surplus_twins(bank: Tensor, k: int) -> Tensor:
    """[M, D] -> [M] bool: rows with k equal rows before them, which no query can have as neighbours.

    Rows of equal hash are compared with the one before, value by value: a collision only hides twins.
    """
    key = torch.empty(bank.shape[0], dtype=torch.int64, device=bank.device)
    step = torch.arange(1, bank.shape[1] + 1, device=bank.device) * _STEP
    for part in row_chunks(bank):
        bits = bank[part].contiguous().view(_BITS[bank.element_size()]).long()
        bits = (bits + step) * _MIX
        key[part] = ((bits ^ (bits >> 29)) * _STEP).sum(1)
    key, order = key.sort(stable=True)
    same = torch.zeros_like(key, dtype=torch.bool)
    for part in row_chunks(bank[1:]):
        one, next_one = order[:-1][part], order[1:][part]
        same[1:][part] = (bank[one] == bank[next_one]).all(1) & (key[:-1][part] == key[1:][part])
    place = torch.arange(key.shape[0], device=bank.device)
    run = place - torch.where(same, 0, place).cummax(0).values
    return torch.empty_like(same).scatter_(0, order, run >= k)
