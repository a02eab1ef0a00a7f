"""What all methods share: data, sizes, the threshold, and messages; shown with the smallest of them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.config.methods import MethodConfig, PadimSettings, SubspaceSettings
from patchcore_fast.errors import BankError, DataError
from patchcore_fast.methods import load_any, make_method
from patchcore_fast.methods.padim import Padim
from patchcore_fast.model.threshold import false_alarm_threshold

from .tiny import config, images


@pytest.fixture(scope="module")
def model() -> Padim:
    return make_method("padim", config(image_size=32), PadimSettings(dim=8), progress=False).fit(small(4))


def small(count: int, seed: int = 0) -> torch.Tensor:
    return images(count, seed)[:, :, :32, :32]


@pytest.mark.parametrize("name", ["padim", "subspace"])
def test_tensors_loaders_and_generators_give_the_same_model(name):
    pictures = small(4)
    ways = (pictures, [{"image": pictures[:3]}, {"image": pictures[3:]}], iter([pictures[:1], pictures[1:]]))
    scores = [make_method(name, config(image_size=32), progress=False).fit(way).predict(small(1, 7))[0].score
              for way in ways]  # fmt: skip
    assert scores == pytest.approx([scores[0]] * 3, rel=1e-5)


def test_files_that_cannot_be_read_end_the_fit_or_are_left_out(weave, tmp_path):
    folder = shutil.copytree(weave / "train/good", tmp_path / "good")
    (folder / "000.png").write_bytes(b"no picture")
    made = make_method("padim", config(image_size=32), PadimSettings(dim=8), progress=False)
    with pytest.raises(DataError, match=r"000\.png"):
        made.fit(folder)
    with pytest.raises(ValueError, match=r"PaDiM\.predict: there is no model yet"):
        made.predict(folder)
    made.fit(folder, on_error="return")
    assert [path.name for path, _ in made.unread_] == ["000.png"]
    assert made.learned.count == 5 and "000.png" not in made.learned.images and len(made.learned.images) == 5
    for path in folder.iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of 6 images can be read"):
        made.fit(folder, on_error="return")
    assert made.learned.count == 5  # the model that there was
    found = made.predict(folder, on_error="return")
    assert all(p.error and np.isnan(p.score) for p in found)


def test_images_have_the_size_of_the_settings(model):
    with pytest.raises(ValueError, match="PaDiM: images must have the 32 x 32 pixels of the settings, got 64 x 64"):
        model.predict(images(1))
    with pytest.raises(ValueError, match="got 64 x 64"):
        make_method("padim", config(image_size=32), progress=False).fit(images(2))


def test_the_threshold_and_the_score_can_be_others(model, tmp_path):
    held = model.learned.normal_scores.numpy()
    model.save(tmp_path / "m")
    again = load_any(tmp_path / "m", progress=False)
    again.decide(max_false_alarms=0.3)
    assert again.threshold == pytest.approx(false_alarm_threshold(held, 0.3)) and again.config.max_false_alarms == 0.3
    assert again.learned.config["decision"]["max_false_alarms"] == 0.3
    again.rescore(image_score="top:1")
    found = again.predict(small(1, 3))[0]
    assert found.score == pytest.approx(float(model.patch_scores(small(1, 3)).mean()), rel=1e-5)
    assert found.is_anomalous is None and again.learned.config["scoring"]["image_score"] == "top:1"
    with pytest.raises(ValueError, match=r"search\.price means nothing to method 'padim'"):
        again.rescore(price=1.0)
    with pytest.raises(ValueError, match="settings of the scoring are wanted, got sigma"):
        again.rescore(sigma=1.0)


def test_an_evaluation_says_which_method_it_is_of(model, weave):
    found = model.evaluate(weave)
    assert found.config == model.described.to_dict() and MethodConfig.from_dict(found.config) == model.described
    assert 0 <= found.metrics["expected_low"] <= found.metrics["expected_high"] <= 1
    assert len(found.predictions) == 6 and found.metrics["threshold"] == model.threshold


def test_the_module_gives_the_predictions_and_leaves_the_model(model):
    pictures = small(2, 5)
    scores, maps = model.module()(pictures)
    for score, heat, wanted in zip(scores, maps, model.predict(pictures), strict=True):
        assert float(score) == pytest.approx(wanted.score, rel=1e-5)
        np.testing.assert_allclose(heat.numpy(), wanted.anomaly_map, rtol=1e-5)


def test_maps_can_be_trained_on(model):
    weight = torch.ones(1, requires_grad=True)
    sum((m * weight).square().sum() for m in model.maps(small(1))).backward()
    assert weight.grad is not None and float(weight.grad) > 0


def test_a_network_of_the_user_s_is_wanted_again(tmp_path):
    class Net(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            kernel = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
            self.kernel = nn.Parameter(kernel)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(x, self.kernel, stride=4).relu()

    made = make_method("subspace", PatchCoreConfig(image_size=32, device="cpu"), SubspaceSettings(variance=0.5),
                       backbone=Net(0), progress=False).fit(small(3))  # fmt: skip
    made.save(tmp_path / "m")
    with pytest.raises(BankError, match=r"its backbone was an object, .*Net: give it with load\(path, backbone"):
        load_any(tmp_path / "m")
    with pytest.raises(BankError, match="was made with other weights"):
        load_any(tmp_path / "m", backbone=Net(1))
    again = load_any(tmp_path / "m", backbone=Net(0), progress=False)
    assert again.predict(small(1, 9))[0].score == made.predict(small(1, 9))[0].score


def test_names_of_methods_and_settings_of_others_are_refused():
    with pytest.raises(ValueError, match=r"method must be one of padim, .*did you mean padim"):
        make_method("padin")
    with pytest.raises(TypeError, match="settings must be PadimSettings"):
        make_method("padim", config(), SubspaceSettings())
    with pytest.raises(ValueError, match=r"selection\.ratio means nothing"):
        make_method("padim", config(ratio=0.5))
    made = make_method("padim", MethodConfig("padim", config(), PadimSettings(dim=7)))
    assert made.settings.dim == 7 and made.described.base == config()
