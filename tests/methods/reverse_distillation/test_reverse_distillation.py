"""Reverse distillation as a method: training, files, scores and rates."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import gaussian_filter

from patchcore_fast.config.methods import MethodConfig, ReverseDistillationSettings
from patchcore_fast.errors import BankError
from patchcore_fast.methods import load_any, make_method
from patchcore_fast.methods.reverse_distillation import ReverseDistillation
from patchcore_fast.methods.reverse_distillation.loss import distance, summed
from patchcore_fast.methods.reverse_distillation.noise import LayerNoise
from patchcore_fast.methods.training import TrainedMethod

from ..tiny import config, images

LAYERS = {"layers": (1, 2, 3)}


def fitted(count=9, *, epochs=2, batch_size=3, settings=None, **changes):
    given = ReverseDistillationSettings(epochs=epochs, batch_size=batch_size, **(settings or {}))
    return make_method("rd", config(**(LAYERS | changes)), given, progress=False).fit(images(count))


@pytest.fixture(scope="module")
def model():
    return fitted()


@pytest.fixture(scope="module")
def noisy():
    return fitted(scorer="noising", noise_scale=1.0, noise_draws=2)


def test_maps_are_smoothed_sums_of_distances_and_the_score_is_their_maximum(model):
    new = images(2, seed=1)
    maps = model.maps(new)
    student = model._trained["student"]
    assert not student.training and not any(p.requires_grad for p in student.parameters())
    with torch.no_grad():
        apart = summed([distance(t, s) for t, s in zip(maps, student(maps), strict=True)], (64, 64))
    assert torch.equal(model.patch_scores(new), apart)
    for prediction, plain in zip(model.predict(new), apart, strict=True):
        wanted = gaussian_filter(plain.numpy(), 2.0)
        assert torch.allclose(torch.as_tensor(prediction.anomaly_map), torch.from_numpy(wanted), atol=1e-5)
        assert prediction.score == pytest.approx(wanted.max(), rel=1e-5)
    assert model.threshold is not None and len(model.learned.normal_scores) == 2


def test_training_lowers_the_loss_and_the_seed_decides_it():
    first, again = (fitted(8, epochs=4) for _ in range(2))
    losses = [row["loss"] for row in first.curve_]
    assert losses[-1] < losses[0] and losses == [row["loss"] for row in again.curve_]
    assert all(torch.equal(a, b) for a, b in zip(first._tensors().values(), again._tensors().values(), strict=True))
    other = fitted(8, epochs=4, settings={"loss": "position"})
    assert [row["loss"] for row in other.curve_] != losses


@pytest.mark.parametrize("which", ["model", "noisy"])
def test_a_file_gives_the_same_scores(which, request, tmp_path):
    trained, new = request.getfixturevalue(which), images(2, seed=1)
    trained.save(tmp_path / "rd.safetensors")
    loaded = load_any(tmp_path / "rd.safetensors", progress=False)
    assert isinstance(loaded, ReverseDistillation) and loaded.threshold == trained.threshold
    assert [p.score for p in loaded.predict(new)] == [p.score for p in trained.predict(new)]


def test_noising_is_by_the_features_of_the_images_that_were_trained_on(noisy):
    new = images(2, seed=1)
    maps = noisy.maps(new)
    noise = LayerNoise(noisy._normal, 1.0, 2, 0)
    with torch.no_grad():
        found = summed(noise(maps, noisy._trained["student"](maps)), (64, 64))
    assert torch.allclose(noisy.patch_scores(new), found)
    _, trained = noisy._parts(9)
    seen = noisy.maps(images(9))[-1][trained].flatten(2).movedim(1, -1).flatten(0, 1)
    assert all(bool((seen == row).all(1).any()) for row in noisy._normal[-1])
    with pytest.raises(BankError, match='scorer must be "distance"'):
        noisy.module()


def test_a_file_of_noising_needs_its_features(noisy, tmp_path, monkeypatch):
    monkeypatch.setattr(noisy, "_normal", None)
    noisy.save(tmp_path / "rd.safetensors")
    with pytest.raises(BankError, match=r"normal\.0 is missing"):
        load_any(tmp_path / "rd.safetensors", progress=False)


def test_whether_maps_are_signed_a_small_image_tells(monkeypatch):
    large = make_method("rd", config(**LAYERS, image_size=2048), ReverseDistillationSettings(), progress=False)
    seen, maps = [], ReverseDistillation.maps
    monkeypatch.setattr(ReverseDistillation, "maps", lambda self, x: seen.append(tuple(x.shape[2:])) or maps(self, x))
    assert large._layout.ratios == (2, 2)
    assert seen == [(256, 256)]


def test_features_of_more_than_ten_layers_come_back_in_their_order(noisy, monkeypatch):
    monkeypatch.setattr(noisy, "_normal", None)
    rows = [torch.full((1, 2), float(i)) for i in range(11)]
    noisy._restore(TrainedMethod._tensors(noisy) | {f"normal.{i}": r for i, r in enumerate(rows)})
    assert [float(r[0, 0]) for r in noisy._normal] == list(range(11))


def test_the_module_is_the_model(model):
    new = images(2, seed=1)
    program = torch.export.export(model.module(), (new,)).module()
    scores, maps = program(new)
    for prediction, score, laid in zip(model.predict(new), scores, maps, strict=True):
        assert float(score) == pytest.approx(prediction.score, rel=1e-5)
        assert torch.allclose(laid, torch.as_tensor(prediction.anomaly_map), atol=1e-5)


def test_the_rate_grows_and_then_has_a_step():
    model = make_method("rd", config(**LAYERS), ReverseDistillationSettings(epochs=10, warmup=2, decay_at=0.8))
    assert [model._rate(e) for e in (0, 0.5, 2, 7.9, 8, 9.5)] == pytest.approx([0, 0.25, 1, 1, 0.1, 0.1])
    assert make_method("rd", config(**LAYERS))._rate(0) == 1.0


def test_a_backbone_without_negative_values_is_decoded_without(model):
    assert model._layout.signed  # of EfficientNet maps end in a plain convolution
    resnet = make_method("rd", config(backbone="test_resnet", layers=(1, 2, 3)))
    assert not resnet._layout.signed


def test_settings_of_the_presets_and_what_is_refused():
    ader = MethodConfig.preset("rd-ader")
    s = ader.settings
    assert (s.batch_size, s.weight_decay, s.warmup, s.decay_at, s.epochs) == (8, 1e-4, 5, 0.8, 100)
    assert (s.learning_rate, s.betas, ader.base.layers) == (0.005, (0.5, 0.999), (1, 2, 3))
    assert MethodConfig.preset("rd").settings == ReverseDistillationSettings()
    with pytest.raises(ValueError, match="scorer must be one of distance, noising, got 'influence'"):
        make_method("rd", config(**LAYERS, scorer="influence"))
    with pytest.raises(ValueError, match=r"scoring\.upsample means nothing"):
        make_method("rd", config(**LAYERS, upsample="nearest"))
