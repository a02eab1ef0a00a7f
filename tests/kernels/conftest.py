"""Uninitialised memory is poison here: a kernel that reads what it has not written shows it."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_empty(monkeypatch):
    empty = torch.empty

    def poisoned(*args, **kwargs):
        out = empty(*args, **kwargs)
        return out.fill_(torch.nan if out.is_floating_point() else 2**6 if out.element_size() == 1 else -(2**14))

    monkeypatch.setattr(torch, "empty", poisoned)
