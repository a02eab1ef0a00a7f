"""A bank for each layer: each as if it were fitted alone, scores joined by the formula, and all that follows."""

from __future__ import annotations

import json
import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from patchcore_fast.cli import main
from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.data import scan
from patchcore_fast.errors import BankError
from patchcore_fast.export import export_model
from patchcore_fast.layered_bank import LayeredBank
from patchcore_fast.model import PatchCore, selection
from patchcore_fast.model.layered import joined, scale_of
from patchcore_fast.model.threshold import false_alarm_threshold
from patchcore_fast.samplers import make_sampler

from ..evaluated import TINY, tiny_config


@pytest.fixture(scope="module")
def model(place: Path) -> PatchCore:
    return PatchCore(tiny_config(banks="layer"), progress=False).fit(scan(place / "weave"))


def test_each_bank_is_chosen_of_its_own_columns(model: PatchCore, weave: Path) -> None:
    rows = model.training_features(scan(weave)).features
    assert isinstance(model.bank, LayeredBank)
    assert [part.width for part in model.bank.parts] == list(model.extractor.backbone.channels)
    for part, (begin, end) in zip(model.bank.parts, model.bank.spans, strict=True):
        own = rows[:, begin:end].contiguous()
        wanted = make_sampler("greedy", ratio=0.1, seed=0).select(own)
        assert torch.equal(part.indices, wanted) and torch.equal(part.features, own[wanted])


def test_one_projection_is_held_at_a_time(weave: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    real = selection.space_of

    def spied(*args: Any) -> Any:
        assert not [ref for ref in held if ref() is not None]
        found = real(*args)
        held.append(weakref.ref(found[0]))
        return found

    monkeypatch.setattr(selection, "space_of", spied)
    bank = PatchCore(tiny_config(banks="layer"), progress=False).fit(scan(weave)).bank
    assert len(held) >= 2 and bank.threshold is not None


def score(x: torch.Tensor, bank: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """The mean of the three smallest sqrt(d^2 + (s / 4)^2), of each row [Q] float64."""
    squared = torch.cdist(x.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    return (squared + (support.double() / 4).square()).sqrt().sort(dim=1).values[:, :3].mean(dim=1)


def to_other_images(chosen: torch.Tensor, rows: torch.Tensor, each: int) -> torch.Tensor:
    """Distances of rows, by number, to the nearest of another image with `each` rows."""
    table = torch.cdist(rows[chosen].double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist")
    table[chosen[:, None] // each == torch.arange(len(rows)) // each] = torch.inf
    return table.amin(dim=1)


def test_scores_follow_the_formula(model: PatchCore, weave: Path) -> None:
    bank = model.bank
    assert isinstance(bank, LayeredBank)
    images = scan(weave).test
    rows = model.training_features([r.path for r in images]).features
    training = model.training_features(scan(weave))
    want = torch.zeros(len(rows), dtype=torch.float64)
    for part, scale, (begin, end) in zip(bank.parts, bank.scales, bank.spans, strict=True):
        assert part.support is not None
        wanted = to_other_images(part.indices, training.features[:, begin:end], training.total // 6)
        np.testing.assert_allclose(part.support.numpy(), wanted.numpy(), rtol=1e-6)
        want += score(rows[:, begin:end], part.features, part.support) / scale
    want = (want / 2).view(len(images), -1).amax(dim=1)
    got = [p.score for p in model.predict([r.path for r in images])]
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-4)


def test_scales_and_threshold_are_of_images_held_out(model: PatchCore, weave: Path) -> None:
    """Six training images are held out one by one; both layers are selected anew without each."""
    bank, found = model.bank, model.training_features(scan(weave))
    assert isinstance(bank, LayeredBank) and found.grid is not None
    images = found.features.view(6, -1, found.features.shape[1])
    by_image = []
    for held in range(6):
        rest = torch.cat([images[i] for i in range(6) if i != held])
        layers = []
        for begin, end in bank.spans:
            own = rest[:, begin:end].contiguous()
            chosen = make_sampler("greedy", ratio=0.1, seed=0).select(own)
            support = to_other_images(chosen, own, images.shape[1])
            layers.append(score(images[held][:, begin:end], own[chosen], support).float())
        by_image.append(torch.stack(layers, dim=1))
    every = torch.cat(by_image).double().numpy()
    for layer, scale in enumerate(bank.scales):
        s = np.sort(every[:, layer])
        middle = s[(len(s) - 1) // 2]
        spread = np.sort(abs(s - middle))[(len(s) - 1) // 2]
        assert scale == pytest.approx(1.4826 * spread, rel=1e-3)
    scores = [float(joined(one, bank.scales).max()) for one in by_image]
    assert bank.normal_scores is not None
    np.testing.assert_allclose(np.sort(bank.normal_scores.numpy()), np.sort(scores), rtol=1e-3)
    assert bank.threshold == pytest.approx(false_alarm_threshold(scores, model.config.max_false_alarms), rel=1e-3)


def test_the_scale_of_equal_scores() -> None:
    assert scale_of(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(1.4826)
    assert scale_of(torch.full((9,), 3.0)) == 3.0
    assert scale_of(torch.zeros(9)) == 1.0


def test_a_single_image_has_scales_and_no_threshold(weave: Path) -> None:
    bank = PatchCore(tiny_config(banks="layer", shots=1), progress=False).fit(scan(weave)).bank
    assert isinstance(bank, LayeredBank) and bank.threshold is None and bank.normal_scores is None
    assert all(0 < scale < 1e6 for scale in bank.scales)


def test_it_finds_what_is_wrong_after_loading_too(model: PatchCore, weave: Path, tmp_path: Path) -> None:
    found = model.evaluate(weave)
    assert found.metrics["image_auroc"] == 1.0 and found.metrics["pixel_auroc"] > 0.95
    assert found.metrics["false_positives"] <= 1 and found.metrics["true_positives"] == 3
    model.save(tmp_path / "b")
    again = PatchCore.load(tmp_path / "b", progress=False)
    assert isinstance(again.bank, LayeredBank) and again.bank.threshold == model.bank.threshold
    assert [p.score for p in again.predict(weave / "test")] == [p.score for p in model.predict(weave / "test")]
    again.decide(max_false_alarms=0.2)
    assert again.bank.threshold is not None and model.bank.threshold is not None
    assert again.bank.threshold < model.bank.threshold and again.config.max_false_alarms == 0.2
    again.rescore(neighbours=2)
    assert again.bank.threshold is None and again.evaluate(weave).metrics["image_auroc"] == 1.0


@pytest.mark.parametrize("settings", [
    {"sampler": "random"}, {"sampler": "elfs", "ratio": 0.05}, {"augment": "rotate", "shots": 3},
    {"scorer": "influence"}, {"precision": "float16"}, {"distance": "squared"}, {"layers": (2,)},
    {"image_size": "native", "tile": 32, "overlap": 8},
])  # fmt: skip
def test_with_other_settings(settings: dict[str, object], weave: Path, tmp_path: Path) -> None:
    model = PatchCore(tiny_config(banks="layer", **settings), progress=False).fit(scan(weave))
    assert model.evaluate(weave).metrics["image_auroc"] > 0.9
    model.save(tmp_path / "b")
    again = PatchCore.load(tmp_path / "b", progress=False)
    assert len(again.bank) == len(model.bank) and again.predict(weave / "test")[0].score > 0


def test_what_does_not_go_with_it(model: PatchCore, weave: Path, tmp_path: Path) -> None:
    for settings in ({"fusion": "amazon"}, {"image_score": "reweighted"}, {"banks": "each"}):
        with pytest.raises(ValueError, match=r"concat|into one bank|joint, layer"):
            PatchCoreConfig(**({"banks": "layer"} | settings))
    with pytest.raises(ValueError, match="into one bank"):
        model.rescore(image_score="reweighted")
    with pytest.raises(ValueError, match="fit again"):
        model.update(scan(weave))
    model.save(tmp_path / "b")
    other = PatchCore(tiny_config(banks="joint"), progress=False).fit(scan(weave))
    parts = model.bank.parts
    parts[0].save(tmp_path / "part")  # says banks="layer", and is one
    with pytest.raises(BankError, match="banks is 'layer', of which there are 1"):
        PatchCore.load(tmp_path / "part")
    assert isinstance(model.bank, LayeredBank)
    LayeredBank(parts, model.bank.scales, other.config.to_dict()).save(tmp_path / "whole")
    with pytest.raises(BankError, match="banks is 'joint', of which there are 2"):
        PatchCore.load(tmp_path / "whole")
    LayeredBank(parts[::-1], model.bank.scales, model.bank.config).save(tmp_path / "turned")
    with pytest.raises(BankError, match="its rows have 32 and 24 features, its settings give 24 and 32"):
        PatchCore.load(tmp_path / "turned")


def test_the_exported_file_gives_the_same(model: PatchCore, tmp_path: Path) -> None:
    found = export_model(model, tmp_path / "m.pt2")
    assert found.score < 1e-4 and found.map < 1e-4


def test_commands(weave: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank, out = str(tmp_path / "b"), tmp_path / "out"
    assert main(["fit", str(weave), "--output", bank, *TINY, "--banks", "layer"]) == 0
    assert re.search(r"([\d,]+) of ([\d,]+) patches of \d+ numbers and \1 of \2 patches", capsys.readouterr().out)
    assert main(["evaluate", str(weave), "--bank", bank, "--output", str(out)]) == 0
    assert main(["report", str(out)]) == 0
    facts = json.loads((out / "report.json").read_text(encoding="utf-8"))["bank"]
    assert facts["rows"] == 2 * int(0.1 * facts["patches"]) and facts["coverage"] is not None
    assert (out / "provenance.png").exists()
    assert main(["predict", bank, str(weave / "test"), "--output", str(tmp_path / "maps")]) == 0
    assert main(["threshold", bank, "--max-false-alarms", "0.1"]) == 0
    assert main(["threshold", bank]) == 0
    capsys.readouterr()
    assert main(["merge", bank, bank, "--output", str(tmp_path / "m")]) != 0
    assert "a bank for each layer" in capsys.readouterr().err
    assert main(["update", bank, str(weave), "--output", str(tmp_path / "u")]) != 0
    assert "fit again" in capsys.readouterr().err
    assert main(["inspect", str(weave), "--bank", bank, "--output", str(tmp_path / "i")]) != 0
    assert "inspect shows one selection" in capsys.readouterr().err
