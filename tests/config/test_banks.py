"""Settings in bank files: those without groups that earlier versions wrote, and samplers that were objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from patchcore_fast.bank_file import digest
from patchcore_fast.compat.amazon import RandomSampler as AmazonsRandomSampler
from patchcore_fast.config.selection import TEXT
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.samplers import (
    ELFSCoresetSampler,
    GreedyCoresetSampler,
    LowestDensitySampler,
    RandomSampler,
    TwoLevelSampler,
    describe_sampler,
)
from patchcore_fast.samplers.two_level import SupportedImages

# Written when there were no groups, by a fit with scorer="reweighted", of three shots, turned, with the seed 7.
FLAT = Path(__file__).parent / "flat_settings.safetensors"
WANTED = PatchCoreConfig(
    backbone="test_resnet", layers=(1,), weights="random", image_size=32, ratio=0.05, image_score="reweighted",
    noise_scale=0.25, neighbours=2, price=0.0, sigma=2.0, max_false_alarms=0.1, precision="float16", seed=7, shots=3,
    augment="rotate",
)  # fmt: skip
TINY: dict[str, Any] = {"backbone": "test_resnet", "layers": (1,), "weights": "random", "image_size": 32}


def _images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_bank_without_groups_loads(tmp_path: Path) -> None:
    with safetensors.safe_open(str(FLAT), framework="pt") as f:
        assert f.metadata()["format_version"] == "2" and json.loads(f.metadata()["facts"])["config"]["scorer"]
    old = PatchCore.load(FLAT, "cpu")
    assert old.config == WANTED.replace(device="cpu") and old.threshold == pytest.approx(0.3521938)
    assert old.bank.config["running"] == {"batch_size": 3, "workers": 0, "device": "cpu"}
    old.save(tmp_path / "new")
    new = PatchCore.load(tmp_path / "new", "cpu")
    assert new.config == old.config and new.bank.config == old.bank.config
    assert [p.score for p in new.predict(_images())] == [p.score for p in old.predict(_images())]
    fresh = PatchCore(old.config.replace(shots=None, augment="none"), progress=False).fit(_images())
    fresh._bank = old.bank
    assert [p.score for p in fresh.predict(_images())] == [p.score for p in old.predict(_images())]


def test_a_bank_of_format_1_that_names_a_quantile_loads(tmp_path: Path) -> None:
    with safetensors.safe_open(str(FLAT), framework="pt") as f:
        tensors, metadata = {k: f.get_tensor(k) for k in f.keys()}, f.metadata()  # noqa: SIM118
    facts = json.loads(metadata["facts"])
    del facts["config"]["max_false_alarms"], metadata["digest"]
    facts["config"]["threshold_quantile"] = 0.8
    metadata |= {"facts": json.dumps(facts), "format_version": "1"}
    (tmp_path / "old").write_bytes(safetensors.torch.save(tensors, metadata))
    assert PatchCore.load(tmp_path / "old").config.max_false_alarms == pytest.approx(0.2)
    metadata["digest"] = digest(tensors, metadata)
    assert metadata["digest"] != digest(tensors, metadata | {"facts": ""})


class Every:
    """A sampler of nobody: every n-th row."""

    def __init__(self, step: int, offsets: Any = (0, 1), *, table: Any = None, hidden: int = 1, **more: Any) -> None:
        self.step, self.offsets, self.table, self._hidden = step, offsets, table, hidden

    def select(self, features: torch.Tensor) -> torch.Tensor:
        return torch.arange(0, len(features), self.step)


def test_a_sampler_that_is_an_object_is_on_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = PatchCore(PatchCoreConfig(**TINY, ratio=0.01), Every(9), progress=False).fit(_images())
    model.save(tmp_path / "b")
    back = PatchCore.load(tmp_path / "b")
    evaluated = model.evaluate([{"image": _images(), "label": [0, 1, 0]}])
    for config in (model.bank.config, back.bank.config, back.config.to_dict(), evaluated.config):
        selection = config["selection"]
        assert selection["sampler"] == f"{__name__}.Every" and selection["ratio"] is None
        assert selection["sampler_parameters"] == {"step": 9, "offsets": [0, 1], "table": None}
    assert model.config.sampler == "greedy", "what the user said stays"
    assert torch.equal(back.bank.indices, torch.arange(0, back.bank.patches, 9))
    with pytest.raises(ValueError, match=r"sampler .*Every, which was given as an object"):
        back.fit(_images())
    again = PatchCore(back.config, Every(5), progress=False).fit(_images())
    assert again.bank.config["selection"]["sampler_parameters"]["step"] == 5
    assert back.training_features(_images()).used == back.bank.patches
    plain = PatchCore(back.config.replace(sampler="random", sampler_parameters=None, ratio=0.1), progress=False)
    assert plain.fit(_images()).bank.config["selection"]["sampler_parameters"] is None


def test_presets_and_two_levels_as_objects_are_on_record(tmp_path: Path) -> None:
    composite = ELFSCoresetSampler(0.3, preset="composite", w_density=-1, noise_T=2)
    for sampler, name in ((composite, "composite"), (TwoLevelSampler(SupportedImages(), composite), "two-level")):
        PatchCore(PatchCoreConfig(**TINY), sampler, progress=False).fit(_images()).save(tmp_path / "b")
        back = PatchCore.load(tmp_path / "b").config
        assert (back.sampler, back.ratio, back.count, back.sampler_options) == (name, None, None, ())
        told = dict(back.sampler_parameters)
        if name == "composite":
            wanted = {"percentage": 0.3, "preset": "composite", "w_density": -1.0, "noise_T": 2, "instability": "noise"}
            assert wanted.items() <= told.items()
        else:
            assert told["image_sampler"] == "SupportedImages()"
            assert told["patch_sampler"].startswith("composite(percentage=0.3, preset='composite', ")
    assert describe_sampler(LowestDensitySampler(0.1))[0] == "lowest-density"
    size = {"ratio": None, "count": 5}
    with pytest.raises(
        ValueError, match=r"selection\.count is of a sampler by its name; one that is given as an object"
    ):
        PatchCore(PatchCoreConfig(**TINY, **size), composite, progress=False).fit(_images())
    options = PatchCoreConfig(**TINY, sampler="elfs", sampler_options={"settle": 0})  # not of the object
    bank = PatchCore(options, composite, progress=False).fit(_images()).bank
    assert bank.config["selection"]["sampler_options"] == {}


def test_what_is_written_down_of_a_sampler() -> None:
    name, told = describe_sampler(GreedyCoresetSampler(0.25, "cpu", 64, seed=3))
    assert name == "greedy" and told["percentage"] == 0.25 and told["device"] == "device(type='cpu')"
    assert (told["dimension_to_project_features_to"], told["seed"], told["backend"]) == (64, 3, "auto")
    assert describe_sampler(AmazonsRandomSampler(0.5)) == (
        "patchcore_fast.compat.amazon.RandomSampler", {"percentage": 0.5})  # fmt: skip
    name, told = describe_sampler(TwoLevelSampler(SupportedImages(), RandomSampler(0.1, seed=2)))
    assert name == "two-level" and told["image_sampler"] == "SupportedImages()"
    assert told["patch_sampler"] == "random(percentage=0.1, seed=2)"
    _, told = describe_sampler(Every(np.int64(3), range(10**6), table={"a": "x" * 10_000}))
    assert told["step"] == 3 and type(told["step"]) is int and told["offsets"] == "range(0, 1000000)"
    assert len(told["table"]) <= TEXT
    _, told = describe_sampler(Every(1, [0.0] * 10**6, table=float("nan")))
    assert len(told["offsets"]) <= TEXT and told["table"] == "nan"
    for sampler in (Every(1, object()), Every(2, table=torch.rand(1000))):
        kind, told = describe_sampler(sampler)
        json.dumps(PatchCoreConfig(sampler=kind, sampler_parameters=told).to_dict(), allow_nan=False)


def test_settings_of_a_stranger_import_nothing(tmp_path: Path) -> None:
    bank = MemoryBank.load(FLAT)
    told = {"sampler": "this.module.DoesNotExist", "sampler_parameters": {"a": 1}}
    MemoryBank(bank.features, bank.indices, config=bank.config | told).save(tmp_path / "b")
    assert PatchCore.load(tmp_path / "b").config.sampler == "this.module.DoesNotExist"
