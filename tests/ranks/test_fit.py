"""`fit` on several ranks: the bank of one process, whatever the ranks have; and what is said when one cannot go on."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from patchcore_fast.errors import DataError, RankError
from patchcore_fast.feature_store import FeatureStore
from patchcore_fast.layered_bank import Bank
from patchcore_fast.model import PatchCore, pricing
from patchcore_fast.samplers import GreedyCoresetSampler

from ..evaluated import tiny_config
from ..pictures import texture, write_mvtec
from .workers import Workers

COUNT = 7  # images; batches of 3, so that of three ranks each has one
FACTS = ("config", "threshold", "images", "grid", "patches", "weights", "size")
TENSORS = ("features", "indices", "positions", "projection", "support")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of its images is no image."""
    made = write_mvtec(tmp_path_factory.mktemp("fit") / "weave", train=COUNT)
    (made / "train/good/004.png").write_bytes(b"no image")
    return made


def small(**changes):
    return tiny_config(**({"image_size": 32, "batch_size": 3} | changes))


def timed(group, rank, data, changes):
    """The size of this rank's bank."""
    return fitted(group, rank, data, changes)[0].size


def fitted(group, rank, data, changes, store=None, on_error="return"):
    """The bank of this rank, and what it left out."""
    torch.set_num_threads(1)
    model = PatchCore(small(**changes), progress=False, group=group)
    model.fit(FeatureStore(data) if str(data).endswith(".store") else data, on_error=on_error, store=store)
    return model.bank, model.unread_


def same(one: Bank, other: Bank) -> bool:
    for name in FACTS:
        assert getattr(one, name) == getattr(other, name), name
    assert getattr(one, "scales", None) == getattr(other, "scales", None)
    pairs = [("normal_scores", one.normal_scores, other.normal_scores)]
    for mine, theirs in zip(one.parts, other.parts, strict=True):
        assert mine.radius == theirs.radius
        pairs += [(name, getattr(mine, name), getattr(theirs, name)) for name in TENSORS]
    for name, a, b in pairs:
        assert (a is None) == (b is None) and (a is None or torch.equal(a, b)), name
    return True


@pytest.fixture
def one_thread(threads):
    threads(1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"sampler": "random", "scorer": "influence"}, marks=pytest.mark.thorough),
        pytest.param({"sampler": "identity", "shots": 6}, marks=pytest.mark.thorough),
        pytest.param({"augment": "rotate", "precision": "bfloat16"}, marks=pytest.mark.thorough),
        pytest.param({"sampler": "approximate", "image_score": "reweighted"}, marks=pytest.mark.thorough),
        pytest.param({"layers": (1,), "batch_size": 1}, marks=pytest.mark.thorough),
        {"banks": "layer", "metric": "cosine", "tile": 32, "image_size": 48, "overlap": 16},
        pytest.param({"banks": "layer", "sampler": "elfs"}, marks=pytest.mark.thorough),
        {"ratio": None, "budget": "6KB"},
        pytest.param({"ratio": None, "budget": "40", "banks": "layer"}, marks=pytest.mark.thorough),
        pytest.param({"ratio": None, "count": 40, "sampler": "two-level"}, marks=pytest.mark.thorough),
        pytest.param(
            {"ratio": None, "count": 30, "sampler": "elfs", "sampler_options": {"w_density": -1}},
            marks=pytest.mark.thorough,
        ),
    ],
    ids=str,
)
def test_the_bank_of_one_process(workers, folder, tmp_path, one_thread, changes):
    alone, unread = fitted(None, 0, folder, changes)
    assert alone.threshold is not None and all(part.support is not None for part in alone.parts)
    PatchCore(small(**changes), progress=False).extract(folder, tmp_path / "a.store", on_error="return")
    for size in (2,) if changes else (1, 2, 3):
        kinds = [(folder, None), (tmp_path / "a.store", None), (folder, tmp_path / f"{size}.store")]
        for data, store in kinds if size == 3 else kinds[:1]:
            for bank, left_out in workers.call(fitted, size, data, changes, store):
                assert same(bank, alone)
                assert [str(path)[-7:] for path, _ in left_out] == [str(path)[-7:] for path, _ in unread]


def narrow(group, rank, data, store=None, enough=pricing.ENOUGH):
    """Of a selection that looks at eight numbers of a row."""
    torch.set_num_threads(1)
    sampler = GreedyCoresetSampler(0.1, dimension_to_project_features_to=8, device="cpu")
    model = PatchCore(small(), sampler, progress=False, group=group)
    with patch.object(pricing, "ENOUGH", enough):
        return model.fit(data, on_error="return", store=store).bank


def test_support_that_is_found_in_a_projection(workers, folder, tmp_path, one_thread):
    alone = narrow(None, 0, folder)
    assert alone.projection.shape[1] == 8 and alone.support is not None
    for size in (2, 3):
        for store in (None, tmp_path / f"{size}.store"):
            assert all(same(bank, alone) for bank in workers.call(narrow, size, folder, store))


def test_support_among_some_rows(workers, folder, one_thread):
    alone = narrow(None, 0, folder, enough=4)
    assert not torch.equal(alone.support, narrow(None, 0, folder).support)
    for size in (2, 3):
        assert all(same(bank, alone) for bank in workers.call(narrow, size, folder, None, 4))


def test_a_budget_in_time_is_one_ranks_measurement(workers, folder, one_thread):
    """Also where the first ranks have no image."""
    images = sorted((folder / "train/good").glob("00[0-2].png"))
    for size, data in ((2, folder), (4, images)):
        first, *others = workers.call(timed, size, data, {"ratio": None, "budget": "10s", "batch_size": 1})
        assert first.row_ms > 0 and all(size == first for size in others)


def test_images_of_several_shapes(workers, tmp_path, one_thread):
    """Shapes change inside of what three images at a time would be."""
    for i, (height, width) in enumerate([(40, 90), (40, 90), (70, 33), (70, 33), (70, 33), (64, 64), (64, 64)]):
        picture = texture(np.random.default_rng(i), max(height, width))[:height, :width]
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    for changes in ({"aspect": "keep"}, {"image_size": "native", "tile": 32, "overlap": 8}):
        alone, _ = fitted(None, 0, tmp_path, changes)
        assert alone.grid is None
        for size in (2, 3):
            assert all(same(bank, alone) for bank, _ in workers.call(fitted, size, tmp_path, changes))


def test_fewer_images_than_ranks(workers, folder, tmp_path, one_thread):
    images = sorted((folder / "train/good").glob("00[0-2].png"))
    alone, _ = fitted(None, 0, images, {"batch_size": 1})
    for data, store in ((images, None), (images, tmp_path / "4.store"), (tmp_path / "4.store", None)):
        found = workers.call(fitted, 4, data, {"batch_size": 1}, store)
        assert all(same(bank, alone) for bank, _ in found)


def test_tensors_are_shared_out_too(workers, one_thread):
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    alone, _ = fitted(None, 0, images, {"batch_size": 2})
    assert all(same(bank, alone) for bank, _ in workers.call(fitted, 2, images, {"batch_size": 2}))


def test_an_unreadable_image_ends_all(workers, folder):
    workers.ask(fitted, 3, folder, {}, None, "raise")
    found = workers.answers(3)
    assert isinstance(found[1], DataError) and "004.png" in str(found[1])
    for error in (found[0], found[2]):
        assert isinstance(error, RankError) and "rank 1 of 3 has failed: DataError: " in str(error)
    junk = [folder / "train/good/004.png"]
    workers.ask(fitted, 2, junk, {})
    assert all(isinstance(e, DataError) and "none of 1 images" in str(e) for e in workers.answers(2))


def refused(group, rank, data, changes):
    with pytest.raises((ValueError, TypeError)) as error:
        PatchCore(small(**changes), progress=False, group=group).fit(data)
    return str(error.value)


def test_what_cannot_be_shared_is_refused(workers, folder):
    for words in workers.call(refused, 2, [torch.rand(1, 3, 64, 64)] * 2, {}):
        assert "only a folder, an ImageSet, paths or a tensor" in words
    for words in workers.call(differing, 2, folder):
        assert "settings must be the same on all ranks" in words


def differing(group, rank, data):
    return refused(group, rank, data, {"ratio": 0.1 + 0.1 * rank})


class Alone:
    """A sampler of one's own."""

    def select(self, features):
        raise AssertionError("nothing may begin")


ONE_PROCESS = {
    "with preset 'composite'": {"sampler": "composite"},
    "LowestDensitySampler": {"sampler": "lowest-density"},
    "ELFSImageSampler": {"sampler": "two-level", "sampler_options": {"images": "elfs"}},
}


def test_a_sampler_that_takes_no_group(workers):
    for words in workers.call(lonely, 2):
        assert "Alone selects in one process only" in words[0]
        for name, said in zip(ONE_PROCESS, words[1:], strict=True):
            assert f"{name} selects in one process only: " in said
            assert said.endswith("take one of greedy, elfs, two-level, approximate, random, identity")


def lonely(group, rank):
    said = []
    for changes, sampler in (({}, Alone()), *((changes, None) for changes in ONE_PROCESS.values())):
        with pytest.raises(ValueError) as error:
            PatchCore(tiny_config(**changes), sampler, progress=False, group=group).fit("no folder at all")
        said.append(str(error.value))
    return said


def dying(group, rank, data, at):
    """Rank 1 is killed in the middle of computing features, or of the threshold."""
    from patchcore_fast.model import selection

    if rank == 1 and at == "features":
        PatchCore._built = lambda self: os.kill(os.getpid(), signal.SIGKILL)
    elif rank == 1:
        selection.image_scores = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    return fitted(group, rank, data, {})


@pytest.mark.parametrize("at, size", [("features", 2), pytest.param("threshold", 3, marks=pytest.mark.thorough)])
def test_a_rank_that_dies(folder, at, size):
    workers = Workers(size, sizes=(size,), timeout=timedelta(seconds=20))
    try:
        workers.ask(dying, size, folder, at)
        found = workers.answers(size, 40)
        for rank in range(0, size, 2):
            assert isinstance(found[rank], RankError), found
            assert f"rank 1 of {size} has died or cannot be reached" in str(found[rank])
    finally:
        for process in workers.processes:
            process.kill()
        workers.close()
