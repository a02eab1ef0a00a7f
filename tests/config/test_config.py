"""The settings in groups: by name alone and by group, in TOML, and what is said of wrong ones."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from patchcore_fast.config import (
    GROUPS,
    INDEXES,
    SAMPLERS,
    SCORERS,
    PatchCoreConfig,
    ScoringSettings,
    SelectionSettings,
)
from patchcore_fast.config.base import settings_of
from patchcore_fast.config.record import flat, grouped
from patchcore_fast.errors import DataError
from patchcore_fast.samplers.named import NAMED
from patchcore_fast.scorers.choice import make_scorer

DOC = Path(__file__).parents[2] / "docs" / "config.md"
CHANGED: dict[str, Any] = {"ratio": 0.1, "layers": ("a", "b"), "crop": (32, 48), "image_size": 64, "dim": 8,
                           "fusion": "amazon", "image_score": "reweighted", "device": "cuda:1"}  # fmt: skip


def test_one_setting_has_one_name_and_two_ways_to_it() -> None:
    names = [f.name for kind in GROUPS.values() for f in settings_of(kind)]
    assert len(names) == len(set(names)) and not set(names) & set(GROUPS)
    config = PatchCoreConfig(ratio=0.1, sigma=2, scoring=ScoringSettings(scorer="noising"))
    assert config == PatchCoreConfig(selection=SelectionSettings(ratio=0.1), scorer="noising", sigma=2)
    assert config.ratio == config.selection.ratio == 0.1 and config.scorer == "noising"
    assert hash(config) == hash(copy.deepcopy(config)) and pickle.loads(pickle.dumps(config)) == config
    changed = config.replace(ratio=0.2, scoring=ScoringSettings())
    assert changed.ratio == 0.2 and changed.scorer == "distance" and changed != config
    assert dataclasses.replace(config, ratio=0.2) == config.replace(ratio=0.2)  # type: ignore[call-arg]
    assert repr(config) == "PatchCoreConfig(ratio=0.1, scorer='noising', sigma=2)" and eval(repr(config)) == config
    assert repr(PatchCoreConfig()) == "PatchCoreConfig()"


def test_the_words_are_those_that_the_code_knows() -> None:
    import torch

    from patchcore_fast.cli.export import PRECISIONS, SUFFIXES
    from patchcore_fast.export import PRECISIONS as COMPUTED
    from patchcore_fast.export import SUFFIXES as WRITTEN
    from patchcore_fast.search import INDEXES as SEARCHED

    assert tuple(NAMED) == SAMPLERS and INDEXES is SEARCHED and SUFFIXES == WRITTEN and PRECISIONS == COMPUTED
    assert all(make_scorer(name, torch.rand(3, 2)).k == 1 for name in SCORERS)
    for device in ("cpu", "cuda", "cuda:1", "cuda:127", "mps", "xpu:0", "meta", "cuda:01", "cpu:-1", "gpu"):
        try:
            known = bool(torch.device(device))
        except (RuntimeError, OverflowError):
            known = False
        try:
            assert PatchCoreConfig(device=device).device == device and known, device
        except ValueError:
            assert not known, device


def test_settings_need_no_torch() -> None:
    code = "import sys, patchcore_fast.config, patchcore_fast.cli.parser; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_earlier_words_mean_the_same() -> None:
    for old in ({"score": "reweighted"}, {"scorer": "reweighted"}, {"scorer": "reweighted", "score": "max"}):
        config = PatchCoreConfig(**old)
        assert config.scorer == "distance" and config.image_score == config.score == "reweighted"
        assert PatchCoreConfig.from_dict(old) == config == PatchCoreConfig().replace(**old)
    assert PatchCoreConfig.anomalib(score="max").image_score == "max"
    assert PatchCoreConfig.amazon().input_size == (224, 224)
    assert PatchCoreConfig.anomalib(scorer="influence").scorer_name == "influence + reweighted"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PatchCoreConfig(rato=1), TypeError, r"unknown fields rato \(did you mean ratio\?\)"),
        (lambda: PatchCoreConfig(sampler="gredy"), ValueError, r"selection\.sampler must be one of .* mean greedy\?"),
        (lambda: PatchCoreConfig(features={}), TypeError, "features must be a FeatureSettings, got dict"),
        (lambda: SelectionSettings(seed=-1), ValueError, r"selection\.seed must be at least 0, got -1"),
        (lambda: PatchCoreConfig(sigma=300), ValueError, r"scoring\.sigma .* at most the 256 pixels"),
        (lambda: PatchCoreConfig.from_dict({"search": 1}), TypeError, "search must hold settings by name, got 1"),
        (lambda: PatchCoreConfig.from_dict({"search": {"k": 1}}), ValueError, r"unknown fields search\.k"),
        (lambda: PatchCoreConfig(sampler="a.B", sampler_parameters={"x": {}}), ValueError, "texts, numbers and lists"),
        (lambda: PatchCoreConfig(sampler="a.B", sampler_parameters=3), TypeError, "names with values, got 3"),
        (lambda: PatchCoreConfig().rato, AttributeError, r"no setting rato \(did you mean ratio\?\)"),
    ],
)  # fmt: skip
def test_errors_name_group_and_setting(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_dicts_with_and_without_groups() -> None:
    config = PatchCoreConfig(**CHANGED, sampler="a.B", sampler_parameters={"x": [1, 2.5], "y": None, "z": "é"})
    told = config.to_dict()
    assert set(told) == set(GROUPS) and PatchCoreConfig.from_dict(json.loads(json.dumps(told))) == config
    assert PatchCoreConfig.from_dict({"scoring": {}}) == PatchCoreConfig.from_dict({}) == PatchCoreConfig()
    mixed = {k: v for group in told.values() for k, v in group.items()}
    assert PatchCoreConfig.from_dict(mixed) == config
    assert grouped({"search": {"index": 4, "odd": 1}, "index": 8, "a": 2}) == {"search": {"index": 8, "odd": 1}, "a": 2}
    assert flat(told)["selection.sampler_parameters.x"] == [1, 2.5] and flat(told)["search.index"] == "exact"


def test_toml_round_trip(tmp_path: Path) -> None:
    odd = PatchCoreConfig(weights='C:\\a "b"\té\x7f\x01', seed=2**63 - 1, sigma=1e-9, ratio=0.1 + 0.2)
    recorded = PatchCoreConfig(sampler="a.B", sampler_parameters={"x y": [1, 2], "z": True})
    for config in (PatchCoreConfig(), PatchCoreConfig(**CHANGED), PatchCoreConfig.amazon(), odd, recorded):
        assert config.to_toml(tmp_path / "c.toml") == (tmp_path / "c.toml").read_text(encoding="utf-8")
        assert PatchCoreConfig.from_toml(tmp_path / "c.toml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[selection]\nratio = 10", r"c\.toml: selection\.ratio must be in \(0, 1\), got 10"),
        ("[selection]\nrati = 0.1", r"c\.toml: unknown fields selection\.rati \(did you mean ratio\?\)"),
        ("[features]\nratio = 0.1", r"c\.toml: unknown fields features\.ratio \(it belongs into selection\)"),
        ("ratio = 0.1", r"c\.toml: ratio belongs into \[selection\]"),
        ("[serch]\nindex = 'exact'", r"c\.toml: unknown fields serch \(did you mean search\?\)"),
        ("features = 1", r"c\.toml: features must hold settings"),
        ("[scoring]\nsigma = '4'", r"c\.toml: scoring\.sigma must be a number, got '4'"),
        ("[selection", r"c\.toml: is no TOML"),
        ("a = '\udcff'", r"c\.toml: is no TOML"),
        (None, r"c\.toml: no such file"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "c.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        PatchCoreConfig.from_toml(tmp_path / "c.toml")


def test_the_example_of_the_docs_loads(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "example.toml").write_text(example, encoding="utf-8")
    config = PatchCoreConfig.from_toml(tmp_path / "example.toml")
    assert config.ratio == 0.02 and config.crop == 224 and config.image_score == "reweighted"
    assert config == PatchCoreConfig.from_dict(config.to_dict())
