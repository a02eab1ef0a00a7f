"""Selections that come from a file."""

import numpy as np
import pytest

from patchcore_fast.errors import DataError
from patchcore_fast.samplers import PrecomputedSampler

from .test_base import features


def test_precomputed_from_file(tmp_path):
    np.save(tmp_path / "rows.npy", np.array([5, 2, 9]))
    assert PrecomputedSampler(tmp_path / "rows.npy").select(features()).tolist() == [5, 2, 9]


def test_damaged_selection_file(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00 cut short")
    with pytest.raises(DataError, match=r"x.npy is not a readable .npy file"):
        PrecomputedSampler(tmp_path / "x.npy")
