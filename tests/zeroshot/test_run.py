"""From images to scores of each other: the same numbers whatever the images come as, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from patchcore_fast.data import load_image, scan
from patchcore_fast.errors import DataError
from patchcore_fast.model.passes import make_extractor
from patchcore_fast.zeroshot import ZeroShot, run

from ..evaluated import tiny_config
from .alike import write_alike
from .test_mutual import plain_rows, plain_scores

DEGREES = (1, 3)


@pytest.fixture(scope="module")
def weave(tmp_path_factory):
    return write_alike(tmp_path_factory.mktemp("zeroshot") / "weave", train=1, good=4, bad=2)


@pytest.fixture(scope="module")
def tested(weave):
    return scan(weave).test


def test_scores_are_the_mean_over_layers_and_degrees(tested):
    config = tiny_config()
    images = torch.stack([load_image(r.path, config.resize) for r in tested])
    maps = make_extractor(config, torch.device("cpu")).backbone(images)
    assert len({m.shape[2:] for m in maps}) == 2  # a coarse layer has to be resized
    wanted = torch.zeros(len(images), *maps[0].shape[2:], dtype=torch.float64)
    for layer in maps:
        for degree in DEGREES:
            own = torch.from_numpy(plain_scores(plain_rows(layer, degree), 0.3)).view(-1, 1, *layer.shape[2:])
            wanted += F.interpolate(own, size=wanted.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    wanted /= len(maps) * len(DEGREES)
    found = list(ZeroShot(config, degrees=DEGREES).predict(tested))
    np.testing.assert_allclose([p.score for p in found], wanted.flatten(1).amax(1).numpy(), atol=2e-5)
    assert [p.path for p in found] == [r.path for r in tested]
    assert all(
        p.anomaly_map.shape == (64, 64) and p.is_anomalous is None and p.original_size == (64, 64) for p in found
    )


def test_labels_measure_and_do_not_score(weave, tested):
    model = ZeroShot(tiny_config(), degrees=DEGREES)
    result = model.evaluate(weave)
    assert result.metrics["image_auroc"] == 1 and result.metrics["pixel_auroc"] > 0.9
    assert [row["score"] for row in result.images] == [p.score for p in model.predict([r.path for r in tested])]
    assert math.isnan(result.metrics["threshold"]) and "selection" not in result.config
    assert result.config["zeroshot"] == {"degrees": [1, 3], "share": 0.3, "group": None, "seed": 0}
    assert model.forecast_ > 0 and model.seconds_ > 0


def test_tensors_and_loaders_score_as_files_do(tested):
    config = tiny_config(batch_size=2)
    images = torch.stack([load_image(r.path, 64) for r in tested])
    wanted = [p.score for p in ZeroShot(config, degrees=(1,)).predict(tested)]
    for data in (images, [part for part in images.split(4)]):
        found = [
            p.score for p in ZeroShot(config, degrees=(1,)).predict(iter(data) if isinstance(data, list) else data)
        ]
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_groups_score_by_themselves(tested):
    config = tiny_config(seed=3)
    model = ZeroShot(config, degrees=(1,), group=2)
    groups = model._groups(len(tested))
    assert sorted(torch.cat(groups).tolist()) == list(range(len(tested))) and {len(g) for g in groups} == {2}
    found = np.array([p.score for p in model.predict(tested)])
    for group in groups:
        alone = [p.score for p in ZeroShot(config, degrees=(1,)).predict([tested[i] for i in group.tolist()])]
        np.testing.assert_allclose(found[group], alone, atol=1e-6)
    assert all(len(g) >= 2 for n in range(2, 9) for g in ZeroShot(config, group=2)._groups(n))
    assert len(ZeroShot(config, group=50)._groups(6)) == 1


def test_a_file_that_cannot_be_read_scores_nothing(tested, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    paths = [r.path for r in tested]
    model = ZeroShot(tiny_config(batch_size=2), degrees=(1,))
    wanted = [p.score for p in model.predict(paths)]
    found = list(model.predict([broken, *paths[:3], broken, *paths[3:]], on_error="return"))
    assert [i for i, p in enumerate(found) if p.error] == [0, 4] and math.isnan(found[0].score)
    np.testing.assert_allclose([p.score for p in found if p.error is None], wanted, atol=1e-6)
    with pytest.raises(DataError, match=r"broken\.png"):
        list(model.predict([broken, *paths]))
    with pytest.raises(DataError, match="none of 2 images can be read"):
        list(model.predict([broken, broken], on_error="return"))


def test_work_of_more_than_a_day_is_refused(tested, monkeypatch):
    monkeypatch.setattr(run, "LONGEST", 0.0)
    with pytest.raises(DataError, match=r"6 images would score each other for about .* \(--group\)"):
        list(ZeroShot(tiny_config(), degrees=(1,)).predict(tested))


def test_one_image_and_other_sizes_are_refused(tested):
    model = ZeroShot(tiny_config(), degrees=(1,))
    with pytest.raises(DataError, match="two images or more"):
        list(model.predict(tested[:1]))
    with pytest.raises(DataError, match="of one size"):
        list(model.predict(iter([torch.rand(1, 3, 64, 64), torch.rand(1, 3, 96, 64)])))


@pytest.mark.parametrize(
    "wrong", [{"degrees": ()}, {"degrees": (2,)}, {"degrees": (True,)}, {"share": 0}, {"group": 1}]
)
def test_wrong_options_are_named(wrong):
    with pytest.raises(ValueError, match=f"ZeroShot: .*{next(iter(wrong)).rstrip('s')[:5]}"):
        ZeroShot(tiny_config(), **wrong)


@pytest.mark.parametrize("changes", [{"tile": 32, "overlap": 0}, {"aspect": "keep"}])
def test_images_of_one_size_are_wanted(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="images of one size are compared whole"):
        ZeroShot(tiny_config(**changes))
