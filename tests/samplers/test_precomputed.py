"""Selections that come from a file: row numbers, picks of a store, the chosen rows themselves."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from patchcore_fast.chain import ChainFile
from patchcore_fast.errors import DataError
from patchcore_fast.feature_store import FeatureStore
from patchcore_fast.samplers import PrecomputedSampler, describe_sampler

from ..stores import write_store
from .test_base import features


def test_precomputed_from_file(tmp_path):
    np.save(tmp_path / "rows.npy", np.array([5, 2, 9]))
    sampler = PrecomputedSampler(tmp_path / "rows.npy")
    assert sampler.select(features()).tolist() == [5, 2, 9]
    assert sampler.recorded is None and not sampler.searches and describe_sampler(sampler) == ("precomputed", {})
    kept = torch.zeros(len(features()), dtype=torch.bool)
    kept[[2, 3]] = True
    assert sampler.without(kept).tolist() == [5, 9]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_floats_are_no_row_numbers_of_whatever_type(dtype):
    for needed in (False, True):
        with pytest.raises(DataError, match=r"indices must hold integers \[k\], got float32 of shape \(2,\)"):
            PrecomputedSampler(torch.tensor([1, 2], dtype=dtype, requires_grad=needed))


def test_damaged_selection_file(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00 cut short")
    with pytest.raises(DataError, match=r"x.npy is not a readable .npy file"):
        PrecomputedSampler(tmp_path / "x.npy")


def test_rows_twice_and_rows_that_are_not_there_are_refused(tmp_path):
    np.save(tmp_path / "rows.npy", np.array([5, 2, 5]))
    with pytest.raises(DataError, match=r"rows.npy holds row 5 more than once"):
        PrecomputedSampler(tmp_path / "rows.npy")
    with pytest.raises(DataError, match="row 10000 was selected"):
        PrecomputedSampler([10_000]).select(features())


def test_picks_say_what_chose_them(tmp_path):
    with FeatureStore(write_store(tmp_path / "store")) as store:
        for settings in ({"sampler": "greedy", "ratio": 0.1}, None):
            file = ChainFile.of("picks", store, {"rows": 180, "selection": settings}, {"indices": np.array([4, 1])})
            file.save(tmp_path / "p.safetensors")
            sampler = PrecomputedSampler(tmp_path / "p.safetensors")
            assert sampler.recorded == settings and sampler.rows.tolist() == [4, 1]
        ChainFile.of("scores", store, {}, {"rarity": np.zeros(180, np.float32)}).save(tmp_path / "s.safetensors")
    with pytest.raises(DataError, match="holds scores, which score wrote; picks are wanted"):
        PrecomputedSampler(tmp_path / "s.safetensors")


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64], ids=["f2", "f4", "f8"])
@pytest.mark.parametrize("given", ["npy", "safetensors"])
def test_chosen_rows_are_found_again(tmp_path, monkeypatch, kind, given):
    monkeypatch.setattr("patchcore_fast.samplers.precomputed._BLOCK_BYTES", 8 * 6 * 16)  # 16 rows at a time
    x = np.random.default_rng(0).normal(size=(100, 6)).astype(kind)
    x[70] = x[3]  # equal rows: in the order in which they lie
    x[50, 2] = 0.0
    rows = np.array([99, 50, 3, 70, 17])
    chosen = x[rows].copy()
    chosen[1, 2] = -0.0
    path = tmp_path / f"c.{given}"
    if given == "npy":
        np.save(path, chosen)
    else:
        save_file({"features": chosen, "indices": rows}, path)
    sampler = PrecomputedSampler(path)
    assert sampler.searches and sampler.rows is None and not sampler.takes_group
    assert sampler.select(x).tolist() == rows.tolist()
    assert sampler.select(torch.from_numpy(x)).tolist() == rows.tolist()
    if kind == np.float32:  # wider features hold the same numbers
        assert sampler.select(x.astype(np.float64)).tolist() == rows.tolist()


def test_chosen_rows_that_do_not_occur_are_named(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    chosen = x[[4, 8, 9]].copy()
    chosen[1, 0] = np.nextafter(chosen[1, 0], np.float32(9))
    np.save(tmp_path / "c.npy", chosen)
    with pytest.raises(DataError, match=r"row 1 of .*c.npy does not occur among the 40 features; 1 of 3 do not"):
        PrecomputedSampler(tmp_path / "c.npy").select(x)
    np.save(tmp_path / "c.npy", x[[4, 4]])
    with pytest.raises(DataError, match=r"row 1 of .*c.npy does not occur among the 40 features so often"):
        PrecomputedSampler(tmp_path / "c.npy").select(x)
    with pytest.raises(DataError, match=r"has rows of 6 numbers, the features of 5"):
        PrecomputedSampler(tmp_path / "c.npy").select(x[:, :5])
    np.save(tmp_path / "c.npy", np.full((2, 6), np.nan))
    with pytest.raises(DataError, match="finite floats"):
        PrecomputedSampler(tmp_path / "c.npy")
