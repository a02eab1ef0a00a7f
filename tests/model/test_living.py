"""Banks that go on: what update and merge promise, against plain restatements; the commands."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from patchcore_fast.cli import main
from patchcore_fast.kernels.exact import squared_distance
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore
from patchcore_fast.model.living import merged
from patchcore_fast.samplers.projection import project

from ..evaluated import TINY, tiny_config
from ..pictures import write_mvtec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("living") / "weave", train=8)


@pytest.fixture(scope="module")
def parts(folder: Path) -> tuple[list[Path], list[Path]]:
    paths = sorted((folder / "train/good").iterdir())
    return paths[:4], paths[4:]


@pytest.fixture(scope="module")
def half(parts) -> PatchCore:
    return PatchCore(tiny_config()).fit(parts[0])


def nearest(x: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """Float64 distances of rows to a bank."""
    return torch.stack([squared_distance(bank, row).min() for row in x]).sqrt()


def space_of(bank: MemoryBank, x: torch.Tensor) -> torch.Tensor:
    return x if bank.projection is None else project(x, bank.projection, torch.device("cpu"))


def test_new_rows_are_as_near_as_the_old_ones(half, parts) -> None:
    old, new = (half.training_features(part).features for part in parts)
    promised = half.bank.radius
    before = space_of(half.bank, half.bank.features)
    assert float(nearest(space_of(half.bank, old), before).max()) <= promised
    last = nearest(before[-1:], before[:-1])  # the farthest of all when it was picked
    assert promised == pytest.approx(float(last), rel=1e-6) and promised >= float(last)
    model = copy.copy(half)
    assert model.update(parts[1]) == promised
    after = space_of(model.bank, model.bank.features)
    everything = space_of(model.bank, torch.cat([old, new]))
    assert float(nearest(everything, after).max()) <= promised == model.bank.radius
    assert len(half.bank) < len(model.bank) < len(half.bank) + len(new)
    assert torch.equal(model.bank.features[: len(half.bank)], half.bank.features)
    # Without the last row that joined, some new one would lie farther.
    assert float(nearest(everything, after[:-1]).max()) > promised


def test_what_a_row_is_stays_known(half, parts, folder) -> None:
    model = copy.copy(half)
    model.update(parts[1])
    bank, rows = model.bank, half.training_features(parts[1])
    assert bank.images == [*half.bank.images, *(p.name for p in parts[1])]
    assert bank.patches == half.bank.patches + rows.used
    joined = slice(len(half.bank), None)
    numbers = bank.indices[joined] - half.bank.patches
    assert torch.equal(rows.features[numbers], bank.features[joined])
    where = rows.positions(numbers)
    where[:, 0] += 4
    assert torch.equal(bank.positions[joined], where)
    assert len(bank.normal_scores) == len(half.bank.normal_scores) + 4
    assert torch.equal(bank.normal_scores[:4], half.bank.normal_scores)
    assert bank.threshold is not None and bank.config == half.bank.config


def test_scores_of_new_images_are_by_banks_without_them(half, parts) -> None:
    model = copy.copy(half)
    model.update(parts[1])
    for i, path in enumerate(parts[1]):
        without = copy.copy(half)
        without.update([p for p in parts[1] if p != path])
        assert model.bank.normal_scores[4 + i] == pytest.approx(without.predict([path])[0].score, rel=1e-6)


def test_a_number_and_a_size(half, parts) -> None:
    rows = half.training_features(parts[1]).features
    added = copy.copy(half)
    reached = added.update(parts[1], add=7)
    assert len(added.bank) == len(half.bank) + 7
    found = nearest(space_of(added.bank, rows), space_of(added.bank, added.bank.features))
    assert reached == pytest.approx(float(found.max()), rel=1e-5)
    sized = copy.copy(half)
    sized.update(parts[1], size=30)
    assert len(sized.bank) == 30
    every = torch.cat([half.bank.features, rows])
    assert all(bool((every == row).all(1).any()) for row in sized.bank.features)
    wide = copy.copy(half)
    assert wide.update(parts[1], radius=1e9) == 1e9 and len(wide.bank) == len(half.bank)


def farthest(bank: MemoryBank, rows: torch.Tensor) -> float:
    """Float64 distance of the row that is farthest from a bank, in the space of its selection."""
    return float(nearest(space_of(bank, rows), space_of(bank, bank.features)).max())


def test_one_image_at_a_time_has_the_radius_of_the_fit(half, parts) -> None:
    steps = copy.copy(half)
    assert [steps.update([path]) for path in parts[1]] == [half.bank.radius] * 4
    rows = half.training_features([*parts[0], *parts[1]]).features
    assert farthest(steps.bank, rows) <= steps.bank.radius == half.bank.radius
    assert steps.bank.images[-4:] == [p.name for p in parts[1]]


def test_the_radius_is_of_all_rows_whatever_was_done(half, parts) -> None:
    old, new = (half.training_features(part).features for part in parts)
    both = torch.cat([old, new])
    for growth in ({"radius": half.bank.radius / 2}, {"radius": 3 * half.bank.radius}, {"add": 1}, {"add": 40},
                   {"size": 20}, {"size": 2 * len(half.bank)}):  # fmt: skip
        model = copy.copy(half)
        reached = model.update(parts[1], **growth)
        assert farthest(model.bank, new) <= reached, growth
        assert farthest(model.bank, both) <= model.bank.radius, growth
        assert model.update(parts[1][:1]) == model.bank.radius, growth  # and goes on with it
        assert farthest(model.bank, both) <= model.bank.radius, growth
    other = PatchCore(tiny_config(ratio=0.02)).fit(parts[1])
    for size in (None, 2 * len(half.bank), 15):
        one = merged([half.bank, other.bank], size, torch.device("cpu"))
        assert farthest(one, both) <= one.radius, size
        assert one.radius == max(half.bank.radius, other.bank.radius) or size is not None


def test_a_row_far_from_all_does_not_widen_what_comes_after(half, parts) -> None:
    """The last row that joined is no measure: it may have been an outlier."""
    from PIL import Image

    odd = parts[1][0].with_name("odd.png")
    with Image.open(parts[1][0]) as image:
        Image.effect_noise(image.size, 255).convert("RGB").save(odd)
    model = copy.copy(half)
    try:
        model.update([odd], add=1)
    finally:
        odd.unlink()
    joined = nearest(*(space_of(model.bank, rows) for rows in (model.bank.features[-1:], half.bank.features)))
    assert float(joined) > 1.2 * half.bank.radius
    model.update([parts[1][1]], radius=half.bank.radius)
    rows = half.training_features([*parts[0], parts[1][1]]).features
    assert farthest(model.bank, rows) <= half.bank.radius


def test_saved_and_read_again(half, parts, tmp_path) -> None:
    model = copy.copy(half)
    model.update(parts[1])
    model.save(tmp_path / "grown.safetensors")
    again = PatchCore.load(tmp_path / "grown.safetensors")
    assert torch.equal(again.bank.features, model.bank.features) and again.threshold == model.threshold
    assert again.update(parts[0]) == half.bank.radius == again.bank.radius  # and it goes on


def test_with_copies(parts) -> None:
    model = PatchCore(tiny_config(augment="rotate", augmentations=2)).fit(parts[0])
    before = len(model.bank)
    model.update(parts[1])
    assert len(model.bank) > before and len(model.bank.normal_scores) == 8
    assert int(model.bank.positions[:, 0].max()) <= 7


def test_wrong_calls(half, parts) -> None:
    for options, kind in (({"radius": 1.0, "add": 3}, ValueError), ({"add": 0}, ValueError), ({"size": 2.5}, TypeError),
                          ({"size": 10**9}, ValueError), ({"radius": -1.0}, ValueError)):  # fmt: skip
        with pytest.raises(kind, match=r"update|radius"):
            copy.copy(half).update(parts[1], **options)
    for sampler in ("random", "approximate"):  # the second begins with distances to rows that it does not take
        other = PatchCore(tiny_config(sampler=sampler)).fit(parts[0])
        with pytest.raises(ValueError, match="does not say how far a patch may be"):
            other.update(parts[1])
        other.update(parts[1], add=5)
        assert other.bank.radius is None
    assert merged([half.bank, other.bank], None, torch.device("cpu")).radius is None
    with pytest.raises(ValueError, match="no memory bank yet"):
        PatchCore(tiny_config()).update(parts[1])


def test_banks_become_one(half, parts) -> None:
    other = PatchCore(tiny_config()).fit(parts[1])
    both = merged([half.bank, other.bank], None, torch.device("cpu"))
    assert torch.equal(both.features, torch.cat([half.bank.features, other.bank.features]))
    assert both.images == [*half.bank.images, *other.bank.images] and both.patches == 2 * half.bank.patches
    assert torch.equal(both.positions[len(half.bank) :, 0], other.bank.positions[:, 0] + 4)
    assert both.normal_scores.tolist() == [*half.bank.normal_scores.tolist(), *other.bank.normal_scores.tolist()]
    plain = {name: value for name, value in other.bank.config["features"].items() if name not in ("norm", "metric")}
    earlier = replace(other.bank, config=other.bank.config | {"features": plain})  # as earlier versions wrote it
    assert torch.equal(merged([half.bank, earlier], None, torch.device("cpu")).features, both.features)
    for group, name in (("scoring", "scorer"), ("features", "precision"), ("features", "tile")):  # settings of later
        some = {key: value for key, value in other.bank.config[group].items() if key != name}
        earlier = replace(other.bank, config=other.bank.config | {group: some})
        assert torch.equal(merged([half.bank, earlier], None, torch.device("cpu")).features, both.features), name
        assert len(merged([earlier, half.bank], None, torch.device("cpu"))) == len(both)
    few = merged([half.bank, other.bank], 20, torch.device("cpu"))
    assert len(few) == 20 and few.threshold is None and few.normal_scores is None
    for row, place in zip(few.features, few.indices, strict=True):
        assert torch.equal(both.features[(both.indices == place).nonzero()[0, 0]], row)
    others = (
        ({"seed": 3}, "weights|projection"),
        ({"layers": (1,)}, "settings of features"),
        ({"image_score": "reweighted"}, "settings of scoring"),
        ({"neighbours": 2}, "neighbours"),
        ({"price": 0.0}, "price"),
        ({"index": "faiss-flat"}, None),
    )
    for changes, words in others:
        odd = PatchCore(tiny_config(**changes)).fit(parts[1]).bank
        if words is None:
            merged([half.bank, odd], None, torch.device("cpu"))
            continue
        with pytest.raises(ValueError, match=f"merge: bank 2 has other {words}"):
            merged([half.bank, odd], None, torch.device("cpu"))
    odd = replace(other.bank, config=other.bank.config | {"decision": {"max_false_alarms": "few"}})
    with pytest.raises(ValueError, match=r"merge: settings of bank 2 cannot be used \(.*decision\.max_false_alarms"):
        merged([half.bank, odd], None, torch.device("cpu"))
    with pytest.raises(ValueError, match="two banks or more"):
        merged([half.bank], None, torch.device("cpu"))


def test_the_commands(folder, tmp_path, capsys) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for number, path in enumerate(sorted((folder / "train/good").iterdir())):
        (tmp_path / ("one" if number < 4 else "two") / path.name).write_bytes(path.read_bytes())
    assert main(["fit", str(tmp_path / "one"), "--output", str(first), *TINY]) == 0
    assert main(["fit", str(tmp_path / "two"), "--output", str(second), *TINY]) == 0
    was = first.read_bytes()
    grown = tmp_path / "grown.safetensors"
    assert main(["update", str(first), str(tmp_path / "two"), "--output", str(grown)]) == 0
    said = capsys.readouterr().out
    assert "4 images joined: " in said and "Every new patch lies within " in said and first.read_bytes() == was
    assert main(["update", str(first), str(tmp_path / "two"), "--size", "25"]) == 0
    assert len(MemoryBank.load(first)) == 25
    both = tmp_path / "both.safetensors"
    assert main(["merge", str(grown), str(second), "--output", str(both), "--size", "40"]) == 0
    assert "40 rows now" in capsys.readouterr().out and len(MemoryBank.load(both)) == 40
    assert main(["predict", str(both), str(tmp_path / "one"), "--output", str(tmp_path / "out")]) == 0
    assert main(["update", str(first), str(tmp_path / "two"), "--size", "5", "--add", "3"]) == 2
    assert main(["merge", str(first), "--output", str(both)]) == 2


def others(rows: torch.Tensor, image: torch.Tensor, known: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """Float64 distances of rows to the nearest known row of another image."""
    away = torch.stack([squared_distance(known, row) for row in rows]).sqrt()
    away[image[:, None] == of[None]] = torch.inf
    return away.amin(dim=1)


@pytest.mark.parametrize("copies", [0, 2])
def test_support_of_an_updated_bank_is_of_all_that_is_known(parts, copies) -> None:
    """Of the old images there are the bank's rows, and how far these were from each other; of the new ones all."""
    more = {"augment": "rotate", "augmentations": copies} if copies else {}
    model = PatchCore(tiny_config(**more)).fit(parts[0])
    before = model.bank
    rows = model.training_features(parts[1])
    image = rows.positions(torch.arange(rows.used))[:, 0] // (1 + copies)
    model.update(parts[1], add=20)
    bank, held = model.bank, len(before)
    numbers = bank.indices[held:] - before.patches
    old = torch.full((held,), -1)
    known, of = torch.cat([before.features, rows.features]), torch.cat([old, image])
    wanted = torch.minimum(others(before.features, old, known, of), before.support.double())
    assert bool((wanted < before.support).any()) and bool((wanted == before.support).any())
    torch.testing.assert_close(bank.support[:held].double(), wanted, rtol=1e-6, atol=0)
    joined = others(bank.features[held:], image[numbers], known, of)
    torch.testing.assert_close(bank.support[held:].double(), joined, rtol=1e-6, atol=0)
    query = rows.features[:50]  # and it is what is searched by
    far = (
        torch.stack([squared_distance(bank.features, row) for row in query])
        + (bank.support.double() * model.config.search.price).square()
    )
    torch.testing.assert_close(bank.search(query, 3)[0].double(), far.sqrt().sort(dim=1).values[:, :3])


def test_support_of_a_merged_bank_is_of_all_that_is_known(half, parts) -> None:
    other = PatchCore(tiny_config()).fit(parts[1])
    one, two = half.bank, other.bank
    both = merged([one, two], None, torch.device("cpu"))
    owners = torch.cat([torch.zeros(len(one)), torch.ones(len(two))])
    wanted = torch.minimum(
        others(both.features, owners, both.features, owners), torch.cat([one.support, two.support]).double()
    )
    assert bool((both.support < torch.cat([one.support, two.support])).any())
    torch.testing.assert_close(both.support.double(), wanted, rtol=1e-6, atol=0)
    few = merged([one, two], 15, torch.device("cpu"))
    where = [int((both.indices == i).nonzero()[0, 0]) for i in few.indices]
    assert torch.equal(few.support, both.support[where])


def test_a_bank_that_knows_no_support_stays_without(half, parts) -> None:
    bare = copy.copy(half)
    bare._bank = replace(half.bank, support=None)
    bare.update(parts[1])
    assert bare.bank.support is None and bare.predict(parts[1][:1])[0].score > 0
    assert merged([half.bank, replace(half.bank, support=None)], None, torch.device("cpu")).support is None
