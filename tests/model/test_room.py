"""A fit or a selection that there is no room for is refused before it begins, with what would make it fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from patchcore_fast.cli import main
from patchcore_fast.cli import select as command
from patchcore_fast.feature_store import FeatureStore
from patchcore_fast.features import FeatureExtractor
from patchcore_fast.model import PatchCore, room
from patchcore_fast.samplers import GreedyCoresetSampler, IdentitySampler, RandomSampler, make_sampler
from patchcore_fast.scratch import placed, refusal, refuse

from ..evaluated import TINY, tiny_config
from ..pictures import write_mvtec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_mvtec(tmp_path_factory.mktemp("room") / "weave", train=6)


def short(monkeypatch, memory=10**15, disk=10**15):
    monkeypatch.setattr(room, "available_memory", lambda: memory)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda place: room.shutil._ntuple_diskusage(disk, 0, disk))


def test_what_is_made_first_takes_memory_first():
    assert placed([], 0) == (0, 0)
    assert placed([50, 30], 100) == (50, 30)  # the second would take more than half of what the first leaves
    assert placed([50, 25], 100) == (75, 0)
    assert placed([51, 50], 100) == (50, 51)


def refused(sampler, rows, columns=200, stored=False, views=0):
    try:
        room.check_fit(sampler, rows, columns if isinstance(columns, tuple) else (columns,), 4, stored, views)
    except MemoryError as error:
        return str(error)
    return None


def test_what_is_counted(monkeypatch):
    greedy, some, all_ = GreedyCoresetSampler(0.1), RandomSampler(0.1), IdentitySampler()
    bank, state, features, projected = 80_000, 56_000, 800_000, 512_000  # bytes, of 1,000 rows of 200 columns
    short(monkeypatch, memory=bank + state, disk=features + projected)
    assert refused(greedy, 1000) is None  # both in files
    short(monkeypatch, memory=bank + state - 1, disk=features + projected)
    assert "0.0 GB of memory are wanted" in (refused(greedy, 1000) or "")
    short(monkeypatch, memory=bank + state, disk=features + projected - 1)
    assert "of disk in" in (refused(greedy, 1000) or "")
    short(monkeypatch, memory=bank + state, disk=3 * features + projected)
    assert refused(greedy, 1000, views=2) is None
    short(monkeypatch, memory=bank + state, disk=3 * features + projected - 1)
    assert "of disk in" in (refused(greedy, 1000, views=2) or "")
    two_levels = make_sampler("two-level", 0.1)  # its share is the patch sampler's
    short(monkeypatch, memory=state, disk=features)
    assert refused(two_levels, 1000) is None
    short(monkeypatch, memory=bank + state, disk=features + projected - 1)
    assert refused(greedy, 1000, stored=True) is None  # rows stay in the store
    assert refused(some, 1000, stored=True) is None
    short(monkeypatch, memory=bank - 1)
    assert refused(some, 1000) is not None
    short(monkeypatch, memory=features - 1)
    assert refused(all_, 1000) is not None and refused(some, 1000) is None
    # Two layers: the wider alone is projected, and one layer's rows are held at a time.
    short(monkeypatch, memory=bank + state, disk=features + projected)
    assert refused(greedy, 1000, (72, 128)) is None and refused(greedy, 1000, (100, 100)) is None
    short(monkeypatch, memory=bank + state, disk=features + projected - 1)
    assert refused(greedy, 1000, (100, 100)) is not None and refused(greedy, 1000, (100, 100), stored=True) is None
    short(monkeypatch, memory=bank + state, disk=features - 1)
    assert refused(greedy, 1000, (72, 128), stored=True) is not None  # that of 128 is looked at itself


@pytest.mark.parametrize("what", [{"memory": 1000}, {"disk": 1000, "memory": 500_000}], ids=["memory", "disk"])
def test_fit(folder, tmp_path, monkeypatch, capsys, what):
    with PatchCore(tiny_config(), progress=False).extract(folder, tmp_path / "s") as store:
        short(monkeypatch, **what)
        computed: list[int] = []
        model = PatchCore(tiny_config(batch_size=1), progress=False)
        whole = FeatureExtractor.__call__
        monkeypatch.setattr(FeatureExtractor, "__call__", lambda self, images: (
            computed.append(len(images)), whole(self, images))[1])  # fmt: skip
        with pytest.raises(MemoryError, match=r"PatchCore\.fit: out of memory before it begins: .* --image-size"):
            model.fit(folder)
        assert computed == [1] and model._bank is None
        if "memory" in what and what["memory"] == 1000:
            with pytest.raises(MemoryError, match="before it begins"):
                PatchCore(tiny_config(), progress=False).fit(store)
    assert isinstance(store, FeatureStore)
    monkeypatch.undo()
    short(monkeypatch, **what)
    bank = tmp_path / "b.safetensors"
    assert main(["fit", str(folder), "--output", str(bank), *TINY]) == 2 and not bank.exists()
    said = capsys.readouterr().err
    assert "error: PatchCore.fit: out of memory before it begins" in said and "--precision float16" in said


def test_select(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((1000, 150), dtype=np.float32))
    out = tmp_path / "o.npy"
    select = ["select", str(tmp_path / "x.npy"), "--ratio", "0.01", "--output", str(out)]
    monkeypatch.setattr(command, "available_memory", lambda: 55_999)
    assert main(select) == 2 and not out.exists()
    said = capsys.readouterr().err
    assert "x.npy: out of memory before it begins: 0.0 GB of memory are wanted" in said and "--sampler random" in said
    assert main([*select, "--method", "random"]) == 0
    monkeypatch.setattr(command, "available_memory", lambda: 56_000)
    assert main(select) == 0
    usage = command.shutil.disk_usage(tmp_path)._replace(free=511_999)
    monkeypatch.setattr(command.shutil, "disk_usage", lambda place: usage)
    assert main(select) == 2
    assert "an --output on another disk" in capsys.readouterr().err


def test_one_sentence_for_all():
    why = refusal([100, 100], 10, 209, 0, Path("/d"), "less", "more")
    assert why == "0.0 GB of disk in /d are wanted, 0.0 GB are free: more would make it fit"
    assert refusal([100], 10, 209, 0, Path("/d"), "less") is None
    assert refusal([100], 110, 209, 0, Path("/d"), "less") == (
        "0.0 GB of memory are wanted, 0.0 GB are free: less would make it fit"
    )
    with pytest.raises(MemoryError, match="x: out of memory before it begins: because"):
        refuse("x", "because")
    refuse("x", None)
