"""The demo's data is disjoint, deterministic and exact; its opponent is a fair one; the whole runs without weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from patchcore_fast.data import scan
from patchcore_fast.demo import one_pick_at_a_time, run_demo, write_dataset, write_texture
from patchcore_fast.demo.defects import MAKERS, MASK_THRESHOLD, make_defect
from patchcore_fast.demo.race import _undisturbed, race
from patchcore_fast.demo.run import MARKER
from patchcore_fast.demo.textures import DEFECTS, DONOR, TILE, photograph
from patchcore_fast.errors import DataError
from patchcore_fast.kernels import k_center_greedy
from patchcore_fast.kernels.kcenter.trace import greedy_shortfall
from patchcore_fast.model import PatchCoreConfig


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_dataset(tmp_path_factory.mktemp("data"))


def grey(path: Path) -> np.ndarray:
    with Image.open(path) as im:
        return np.asarray(im).astype(float)


def digests(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


@pytest.mark.parametrize("name", DEFECTS)
def test_layout(dataset: dict[str, Path], name: str) -> None:
    images = scan(dataset[name])
    assert images.layout == "mvtec" and len(images.train) == len(images.test) == 32
    normal = [r for r in images.test if r.label == 0]
    assert len(normal) == 32 - 4 * len(DEFECTS[name]) >= 12
    for record in images.test:
        assert (record.mask is None) == (record.label == 0)
        if record.mask is not None:
            mask = grey(record.mask)
            assert set(np.unique(mask)) == {0, 255} and 0.002 < (mask > 0).mean() < 0.25


@pytest.mark.parametrize("name", DEFECTS)
def test_no_pixel_of_the_photograph_is_used_twice(dataset: dict[str, Path], name: str) -> None:
    """Each written normal tile is found again in the photograph: all at different squares of the grid."""
    photo = photograph(name).astype(float)
    squares = photo.reshape(8, TILE, 8, TILE).swapaxes(1, 2).reshape(64, TILE, TILE)
    images = scan(dataset[name])
    places = []
    for record in [r for r in images.train + images.test if r.label == 0]:
        with Image.open(record.path) as im:
            small = np.asarray(im.resize((TILE, TILE), Image.Resampling.BOX)).astype(float)
        # Light and noise differ, the pattern does not.
        likeness = [np.corrcoef(small.ravel(), s.ravel())[0, 1] for s in squares]
        places.append((int(np.argmax(likeness)), record in images.train))
        assert max(likeness) > 0.9
    assert len({p for p, _ in places}) == len(places)
    assert {p % 2 ^ p // 8 % 2 for p, is_train in places if is_train} == {0}
    assert {p % 2 ^ p // 8 % 2 for p, is_train in places if not is_train} == {1}


def test_equal_seeds_give_equal_files(dataset: dict[str, Path], tmp_path: Path) -> None:
    again = write_texture("grass", tmp_path / "again")
    other = write_texture("grass", tmp_path / "other", seed=1)
    assert digests(again) == digests(dataset["grass"])
    changed = {k for k, v in digests(other).items() if v != digests(again)[k]}
    assert changed == {k for k in digests(again) if k.endswith(".png")}


def enlarged(name: str) -> np.ndarray:
    return np.kron(photograph(name)[:64, 64:128], np.ones((3, 3))).astype(np.float64) / 255


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", DEFECTS)
def test_masks_tell_all_that_changed(kind: str, name: str) -> None:
    tile, donor = (enlarged(n) for n in (name, DONOR[name]))
    for index in range(4):
        image, mask = make_defect(kind, tile, donor, index, [7, index])
        changed = np.abs(image - tile) > MASK_THRESHOLD
        assert image.min() >= 0 and image.max() <= 1
        assert (image[~mask] == tile[~mask]).all(), "nothing changes outside"
        assert changed[mask].mean() > 0.8, "nearly all inside does"
        assert 0.002 < mask.mean() < 0.3


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of scratch"):
        make_defect("rust", np.zeros((8, 8)), np.zeros((8, 8)), 0, 0)
    with pytest.raises(ValueError, match="name must be one of brick"):
        photograph("sand")


def test_brightness_and_contrast_do_not_give_the_defects_away(dataset: dict[str, Path]) -> None:
    for cue in (np.mean, np.std):
        areas = []
        for folder in dataset.values():
            test = scan(folder).test
            areas.append(roc_auc_score([r.label for r in test], [cue(grey(r.path)) for r in test]))
        assert 0.35 < np.mean(areas) < 0.65, areas


def features(n: int = 600, d: int = 16) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(3)) * 3 + 5


@pytest.mark.parametrize("offset", [0, 3000], ids=["near", "far-from-zero"])
def test_the_loop_is_greedy(offset: float) -> None:
    x = features() + offset
    loop = one_pick_at_a_time(x, 200, 17)
    exact = k_center_greedy(x, 200, start=17)
    assert loop.indices.tolist() == exact.indices.tolist()
    torch.testing.assert_close(loop.radii, exact.radii, rtol=1e-4, atol=1e-4)
    assert len(loop.seconds) == 200 and loop.seconds == sorted(loop.seconds)
    assert greedy_shortfall(x, loop.indices) < 1e-6


def test_the_loop_picks_each_row_once() -> None:
    x = features(200)
    assert sorted(one_pick_at_a_time(torch.cat([x, x]), 400, 0).indices.tolist()) == list(range(400))


def test_the_loop_stops_when_told() -> None:
    loop = one_pick_at_a_time(features(), 300, 0, stop_after=0.0)
    assert 1 <= len(loop.indices) == len(loop.radii) == len(loop.seconds) < 300


@pytest.mark.parametrize(("shape", "k", "start"), [((4,), 1, 0), ((4, 2), 5, 0), ((4, 2), 0, 0), ((4, 2), 2, 4)])
def test_the_loop_refuses(shape: tuple[int, ...], k: int, start: int) -> None:
    with pytest.raises(ValueError, match="one_pick_at_a_time"):
        one_pick_at_a_time(torch.zeros(shape), k, start)


@pytest.mark.parametrize("limit", [60.0, 0.0], ids=["whole", "cut-short"])
def test_race(limit: float) -> None:
    results, seconds = race(features(3000), [30, 300], 0, limit)
    assert [r.picks for r in results] == [30, 300]
    for r in results:
        assert r.loop_picks == min(r.picks, len(seconds)) and r.shared == r.same == r.loop_picks
        assert r.ours > 0 and r.ratio == r.loop / r.ours
    if limit == 0.0:
        assert results[1].loop_picks < 300


@pytest.mark.parametrize(
    ("seconds", "k", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0], 4, 4.0),  # steady: as it was
        ([1.0, 2.0, 9.0, 10.0], 4, 4.0),  # disturbed once: not counted
        ([0.1, 1.1, 2.1, 3.1], 4, 3.1),  # never more than was measured
        ([1.0, 2.0, 9.0], 6, 6.0),  # stopped early
    ],
    ids=["steady", "disturbed", "measured", "stopped"],
)
def test_other_work_does_not_count_against_the_loop(seconds: list[float], k: int, expected: float) -> None:
    assert _undisturbed(seconds, k) == pytest.approx(expected)


def test_race_refuses_a_loop_that_cheats(monkeypatch: pytest.MonkeyPatch) -> None:
    def lazy(x: torch.Tensor, k: int, start: int, stop_after: float = 0.0) -> object:
        loop = one_pick_at_a_time(x, k, start)
        return type(loop)(torch.arange(len(x))[:k], loop.radii, loop.seconds)

    monkeypatch.setattr("patchcore_fast.demo.race.one_pick_at_a_time", lazy)
    with pytest.raises(RuntimeError, match="not greedy"):
        race(features(), [50], 0)


TINY = PatchCoreConfig(backbone="test_resnet", layers=(1, 2), weights="random", image_size=64, ratio=0.1)


def test_demo_from_end_to_end(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    lines: list[str] = []
    out = tmp_path / "demo"
    summary = run_demo(out, quick=True, config=TINY, say=lines.append)
    for name in ("contact_sheet.png", "roc.png", "histogram.png", "scores.csv", "metrics.json", "bank.safetensors"):
        assert (out / "brick" / name).stat().st_size > 500, name
    assert len(list((out / "brick" / "heatmaps").rglob("*.png"))) == 32
    assert json.loads((out / "summary.json").read_text())["race"][0]["same"] == summary["race"][0]["picks"]
    text = "\n".join(lines)
    for part in ("image AUROC", "one at a time", "contact_sheet.png", "selection.png", "patchcore-fast fit"):
        assert part in text
    # A second run replaces the first, and nothing else.
    (out / "mine.txt").write_text("keep")
    (out / "brick" / "stale.png").write_text("old")
    request.getfixturevalue("no_drawing")
    run_demo(out, quick=True, config=TINY, say=lines.append)
    assert (out / "mine.txt").exists() and not (out / "brick" / "stale.png").exists()
    assert not list(out.rglob("*.part"))


def test_demo_leaves_foreign_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "brick").mkdir()
    (tmp_path / "brick" / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="holds other files"):
        run_demo(tmp_path, config=TINY, say=print)
    assert [p.name for p in tmp_path.rglob("*")] == ["brick", "mine.txt"]
    with pytest.raises(DataError, match="is a file"):
        run_demo(tmp_path / "brick" / "mine.txt", config=TINY, say=print)
    assert not (tmp_path / MARKER).exists()
