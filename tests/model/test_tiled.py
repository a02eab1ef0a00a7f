"""Models that work in tiles or keep the aspect of images: from files of any size to maps, metrics and reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patchcore_fast.cli import main, predict
from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.data import ImageRecord, load_image
from patchcore_fast.errors import BankError
from patchcore_fast.export import export_model
from patchcore_fast.features import FeatureExtractor
from patchcore_fast.model import PatchCore, evaluation
from patchcore_fast.model.batches import Batches, at_once, batches_of

from ..evaluated import tiny_config
from ..pictures import texture
from ..programs import run

NATIVE = {"image_size": "native", "tile": 32, "overlap": 8}


def _set(root: Path, shapes: list[tuple[int, int]]) -> Path:
    """Weaves of several shapes; in test/spot a bright square whose mask is exact."""
    rng = np.random.default_rng(0)
    for part in ("train/good", "test/good", "test/spot", "ground_truth/spot"):
        (root / part).mkdir(parents=True)
    for i, (height, width) in enumerate(shapes):
        for part in ("train/good", "test/good", "test/spot"):
            picture = texture(rng, max(height, width))[:height, :width].copy()
            if part == "test/spot":
                mask = np.zeros((height, width), np.uint8)
                mask[height // 2 : height // 2 + 10, width // 3 : width // 3 + 12] = 255
                picture[mask > 0] = (250, 240, 40)
                Image.fromarray(mask).save(root / f"ground_truth/spot/{i}_mask.png")
            Image.fromarray(picture).save(root / part / f"{i}.png")
    return root


SHAPES = [(40, 90), (40, 90), (70, 33), (64, 64)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _set(tmp_path_factory.mktemp("tiled") / "mixed", SHAPES)


@pytest.mark.parametrize("settings", [
    {"tile": 60}, {"overlap": 64, "tile": 64}, {"image_size": "native"}, {"image_size": "whole"},
    {"image_size": "native", "tile": 64, "crop": 32}, {"image_size": (64, 48), "aspect": "keep"},
    {"aspect": "fit"}, {"tile": 0}, {"image_size": 32, "aspect": "keep", "crop": 40},
])  # fmt: skip
def test_settings_that_make_no_sense(settings: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError), match=r"tile|overlap|image_size|crop|aspect"):
        PatchCoreConfig(**({"overlap": 8} | settings if settings == {"tile": 0} else {"overlap": 70} | settings))


def test_sizes_that_a_config_knows() -> None:
    assert PatchCoreConfig(image_size=64, aspect="keep").input_size is None
    assert PatchCoreConfig(image_size=64, aspect="keep", crop=48).input_size == (48, 48)
    native = PatchCoreConfig(**NATIVE)
    assert native.resize is None and native.input_size is None
    assert PatchCoreConfig.from_dict(json.loads(json.dumps(native.to_dict()))) == native
    with pytest.raises(ValueError, match="at most the 32 pixels"):
        PatchCoreConfig(**NATIVE, sigma=33.0)


@pytest.mark.parametrize("settings", [NATIVE, {"image_size": 32, "aspect": "keep"},
                                      {"image_size": 48, "aspect": "keep", "tile": 32, "overlap": 8}])  # fmt: skip
def test_images_of_several_shapes(settings: dict[str, object], mixed: Path, tmp_path: Path) -> None:
    model = PatchCore(tiny_config(**settings), progress=False).fit(mixed)
    bank = model.bank
    assert bank.grid is None and bank.positions is not None and bank.threshold is not None
    result = model.evaluate(mixed)
    resized = [(40, 90), (40, 90), (70, 33), (64, 64)]
    if settings is not NATIVE:
        side = settings["image_size"]
        assert isinstance(side, int)
        resized = [(side, side * 90 // 40)] * 2 + [(side * 70 // 33, side), (side, side)]
    for prediction, shape, original in zip(result.predictions, resized * 2, SHAPES * 2, strict=True):
        assert prediction.anomaly_map.shape == prediction.resized_to == shape
        assert prediction.original_size == original and prediction.full_map().shape == original
    for name in ("image_auroc", "pixel_auroc", "pixel_ap", "aupro"):
        assert result.metrics[name] > {"pixel_ap": 0.3}.get(name, 0.9), name
    top = [np.unravel_index(p.full_map().argmax(), p.full_map().shape) for p in result.predictions[4:]]
    for (y, x), (height, width) in zip(top, SHAPES, strict=True):
        assert abs(y - height // 2 - 5) < 8 and abs(x - width // 3 - 6) < 8
    model.save(tmp_path / "bank.safetensors")
    again = PatchCore.load(tmp_path / "bank.safetensors", batch_size=3, progress=False)
    for p, q in zip(result.predictions, again.evaluate(mixed).predictions, strict=True):
        np.testing.assert_allclose(p.anomaly_map, q.anomaly_map, rtol=1e-4)
    assert model.update(sorted((mixed / "test" / "good").iterdir())) >= 0


@pytest.mark.parametrize("settings, plain", [
    ({}, True), ({"aspect": "keep", "crop": 48}, True), ({"aspect": "keep"}, False), (NATIVE, False),
    ({"tile": 64, "overlap": 16}, False),
])  # fmt: skip
def test_tiles_are_for_sizes_that_are_not_known(settings: dict[str, Any], plain: bool) -> None:
    config = tiny_config(**settings)
    assert (type(PatchCore(config).extractor) is FeatureExtractor) == plain
    assert at_once(config) == (4 if plain else 1)


@pytest.mark.parametrize("settings", [NATIVE, {"image_size": 32, "aspect": "keep"}], ids=["native", "keep"])
def test_shares_of_ranks_are_batches_of_one_process(settings: dict[str, Any], mixed: Path) -> None:
    def shown(batches: Batches) -> list[list[str]]:
        return [[str(r.path) for r in batch.records if r is not None] for batch in batches]

    whole = batches_of(mixed, tiny_config(**settings | {"batch_size": 3}), "train")
    for size in (1, 2, 3, 5):
        parts = [
            shown(whole.part(first, last))
            for first, last in (whole.share(r, size) for r in range(size))
            if last > first
        ]
        assert [batch for part in parts for batch in part] == shown(whole), size


def test_an_image_of_one_tile_is_as_without_tiles(mixed: Path) -> None:
    images = torch.stack([load_image(p, 64) for p in sorted((mixed / "train/good").iterdir())])
    plain = PatchCore(tiny_config(), progress=False).fit(images)
    tiled = PatchCore(tiny_config(tile=64, overlap=16, batch_size=1), progress=False).fit(images)
    torch.testing.assert_close(plain.bank.features, tiled.bank.features)
    for p, q in zip(plain.predict(images), tiled.predict(images), strict=True):
        np.testing.assert_allclose(p.anomaly_map, q.anomaly_map, rtol=1e-4)


def test_maps_end_where_the_image_does(mixed: Path) -> None:
    model = PatchCore(tiny_config(**NATIVE, sigma=0.0, upsample="nearest"), progress=False).fit(mixed)
    image = load_image(mixed / "test" / "spot" / "2.png")[None]  # 70 x 33: 18 x 9 places of 4 pixels
    found = model.predict(image)[0].anomaly_map
    assert found.shape == (70, 33)
    rows, columns = (np.flatnonzero(np.diff(found, axis=axis).any(axis=1 - axis)) for axis in (0, 1))
    assert not ((rows + 1) % 4).any() and not ((columns + 1) % 4).any()  # places are not stretched


def test_evaluate_lets_go_of_the_images(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    real = evaluation.evaluate_predictions

    def spied(predictions: Any, batches: Any, *more: Any) -> Any:
        kept.extend(batch.images.untyped_storage().nbytes() for batch in batches)
        return real(predictions, batches, *more)

    monkeypatch.setattr(evaluation, "evaluate_predictions", spied)
    PatchCore(tiny_config(**NATIVE), progress=False).fit(mixed).evaluate(mixed)
    assert kept == [0] * 8


def test_large_maps_set_the_scale_of_pictures_early(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = []
    real = predict._Run._draw
    monkeypatch.setattr(predict, "SCALE_PIXELS", 6000)
    monkeypatch.setattr(predict._Run, "_draw", lambda run, add: (waiting.append(len(run._waiting)), real(run, add)))
    PatchCore(tiny_config(**NATIVE), progress=False).fit(mixed).save(tmp_path / "b")
    assert main(["predict", str(tmp_path / "b"), str(mixed / "test"), "--output", str(tmp_path / "o")]) == 0
    assert waiting == [2, 1, 1, 1, 1, 1, 1, 0]


def test_broken_files_among_shapes(mixed: Path, tmp_path: Path) -> None:
    model = PatchCore(tiny_config(**NATIVE), progress=False).fit(mixed)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    records = [ImageRecord(p) for p in (broken, mixed / "test/good/0.png")]
    first, second = model.predict(records, on_error="return")
    assert first.error is not None and second.error is None and second.anomaly_map.shape == (40, 90)


def test_commands_and_report(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--backbone", "test_resnet", "--layers", "1,2", "--weights", "random", "--ratio", "0.1"]
    tiles = ["--image-size", "native", "--tile", "32", "--overlap", "8"]
    bank, out = str(tmp_path / "bank.safetensors"), tmp_path / "out"
    assert main(["fit", str(mixed), "--output", bank, *tiny, *tiles]) == 0
    assert main(["evaluate", str(mixed), "--bank", bank, "--output", str(out)]) == 0
    assert main(["report", str(out)]) == 0
    assert main(["predict", bank, str(mixed / "test/spot"), "--output", str(tmp_path / "maps")]) == 0
    heat = next((tmp_path / "maps").rglob("2*.png"))
    with Image.open(heat) as im:
        assert im.size[0] > im.size[1] * 0.2  # a panel of a narrow image
    record = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert record["intervals"]["metrics"]["pixel_auroc"] is not None
    capsys.readouterr()
    assert main(["fit", str(mixed), "--output", bank, *tiny, "--tile", "36", "--overlap", "8"]) != 0
    assert "multiple of 8" in capsys.readouterr().err


def test_a_file_of_a_tiled_model_takes_tiles(mixed: Path, tmp_path: Path) -> None:
    model = PatchCore(tiny_config(**NATIVE), progress=False).fit(mixed)
    difference = export_model(model, tmp_path / "tile.pt2")
    assert difference.images == 3
    program = torch.export.load(tmp_path / "tile.pt2", extra_files=(found := {"patchcore_fast.json": ""})).module()
    facts = json.loads(found["patchcore_fast.json"])
    assert (facts["tile"], facts["overlap"], facts["input_size"], facts["resize"]) == (32, 8, [32, 32], None)
    assert program(torch.rand(1, 3, 32, 32))[1].shape == (1, 32, 32)
    kept = PatchCore(tiny_config(image_size=32, aspect="keep"), progress=False).fit(mixed)
    with pytest.raises(BankError, match="one size"):
        export_model(kept, tmp_path / "kept.pt2")


_LARGE = """
import sys, numpy as np
from pathlib import Path
from patchcore_fast.model import PatchCore
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
model = PatchCore.load(sys.argv[1], batch_size=4, progress=False)
model.predict(sys.argv[2])
before = peak()
(found,) = model.predict(sys.argv[3])
print(found.anomaly_map.shape, (peak() - before) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc to read the memory from")
@pytest.mark.parametrize(
    ("tall", "wide", "most"), [(500, 4000, 400), pytest.param(2000, 8000, 1000, marks=pytest.mark.thorough)]
)
def test_a_large_image_takes_the_memory_of_its_pixels(
    tall: int, wide: int, most: int, mixed: Path, tmp_path: Path
) -> None:
    config = tiny_config(**NATIVE | {"tile": 448, "overlap": 32, "layers": (2, 3), "backbone": "test_resnet"})
    PatchCore(config, progress=False).fit(mixed).save(tmp_path / "b.st")
    side = texture(np.random.default_rng(0), 500)
    Image.fromarray(np.tile(side, (tall // 500, wide // 500, 1))).save(tmp_path / "large.png", compress_level=1)
    args = [tmp_path / "b.st", mixed / "test/good/0.png", tmp_path / "large.png"]
    done = run(_LARGE, *args)
    assert done.returncode == 0, done.stderr
    shape, grown = done.stdout.rsplit(maxsplit=1)
    assert shape == f"({tall}, {wide})" and int(grown) < most
