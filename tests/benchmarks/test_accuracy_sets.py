"""accuracy/: sets and what is moved into training, metrics and their resamples, memory of a selection."""

import os

import numpy as np
import pytest
import torch

pytest.importorskip("timm", reason="the extra pipeline is not installed")

from benchmarks.accuracy import bootstrap, cells, sets
from patchcore_fast import metrics
from patchcore_fast.samplers import RandomSampler


def test_contamination_moves_images(textures):
    truth = sets.read_truth(textures[0], 32)
    assert (len(truth.train), int((~truth.labels).sum()), int(truth.labels.sum())) == (32, 12, 20)
    small, large = sets.draw(truth, 0.05, 7), sets.draw(truth, 0.9, 7)
    assert len(small.moved) == 2 and len(large.moved) == 10  # round(0.05 * 32), half of the masked
    assert truth.labels[large.moved].all() and set(small.moved) <= set(large.moved)
    assert sorted(large.order[large.order >= 0]) == list(range(32))
    assert sorted(-1 - large.order[large.order < 0]) == sorted(large.moved)
    assert (large.order[large.order >= 0] == np.arange(32)).all()  # the good ones keep their order
    assert list(large.order) != [*range(32), *(-1 - large.moved)]  # the others stand among them
    assert not large.kept[large.moved].any() and large.kept.sum() == 22
    again, other = sets.draw(truth, 0.9, 7), sets.draw(truth, 0.9, 8)
    assert (again.order == large.order).all() and set(other.moved) != set(large.moved)

    train = torch.arange(32.0).repeat_interleave(6).view(32, 6, 1)
    features = sets.Features(train, 100 + torch.arange(32.0).repeat_interleave(6).view(32, 6, 1), (2, 3), "")
    rows, positions = sets.training_rows(features, large)
    expected = [i if i >= 0 else 100 + (-1 - i) for i in large.order]
    assert rows.view(-1, 6)[:, 0].tolist() == expected and rows.shape == (42 * 6, 1)
    assert positions[6 * 5 + 4].tolist() == [5, 1, 1] and positions.dtype == torch.int32
    inside = torch.tensor([6 * int(np.flatnonzero(large.order < 0)[0]), 6 * int(np.flatnonzero(large.order >= 0)[0])])
    assert cells.moved_share(inside, large, 6) == 0.5


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_and_resamples(textures, ties):
    """The shortcut against patchcore_fast.metrics, and weights against images that are really there n times."""
    truth = sets.read_truth(textures[0], 32)
    random = np.random.default_rng(3)
    scores = random.normal(truth.labels * 1.0, 1).astype(np.float32)
    maps = random.normal(truth.masks * 1.5, 1).astype(np.float32) + random.normal(size=(len(scores), 1, 1))
    maps = maps.astype(np.float32)
    if ties:
        scores, maps = scores.round(1), maps.round(1)
    kept = sets.draw(truth, 0.1, 0).kept
    weights = bootstrap.resamples(truth, kept, 40)
    values, replicates, binned = bootstrap.measure(truth, kept, weights, scores, maps)
    cells.agree(truth, kept, values, scores, maps)
    with pytest.raises(RuntimeError, match="metrics gives"):
        cells.agree(truth, kept, values + 1e-4, scores, maps)
    assert binned < (1e-6 if ties else 5e-3)  # rounded scores have a bin each
    for b in range(3):
        assert weights[b, ~kept].sum() == 0 and weights[b].sum() == kept.sum()
        for stratum in np.unique(truth.strata):
            assert weights[b, truth.strata == stratum].sum() == (kept & (truth.strata == stratum)).sum()
        drawn = np.repeat(np.arange(len(kept)), weights[b].astype(int))
        image, pixel = (
            metrics.binary_curve(s[drawn], t[drawn]) for s, t in ((scores, truth.labels), (maps, truth.masks))
        )
        pro = metrics.aupro(maps[drawn], truth.masks[drawn])
        assert replicates[b, :2] == pytest.approx([image.auroc, image.average_precision], abs=1e-6)
        assert replicates[b, 2:] == pytest.approx(
            [pixel.auroc, pixel.average_precision, pro], abs=1e-5 if ties else 5e-3
        )
    alone = bootstrap.image_auroc(truth, kept, weights, scores)
    assert alone[0] == values[0] and (alone[1] == replicates[:, 0]).all()


def test_resamples_are_paired(textures):
    brick, grass = (sets.read_truth(folder, 32) for folder in textures)
    every = np.ones(len(brick.test), dtype=bool)
    all_there = bootstrap.resamples(brick, every, 300)
    assert (all_there == bootstrap.resamples(brick, every, 300)).all()
    assert all_there.mean(axis=0) == pytest.approx(np.ones(32), abs=0.3)  # every image is drawn once on average
    kept = every.copy()
    kept[sets.draw(brick, 0.1, 0).moved] = False
    fewer = bootstrap.resamples(brick, kept, 300)
    good = ~brick.labels
    assert (fewer[:, good] == all_there[:, good]).all()  # what is untouched is drawn alike
    left = kept & brick.labels
    assert np.corrcoef(fewer[:, left].ravel(), all_there[:, left].ravel())[0, 1] > 0.9
    other = bootstrap.resamples(grass, np.ones(len(grass.test), dtype=bool), 300)
    assert not (other[:, :8] == all_there[:, :8]).all()


def test_memory_is_what_a_selection_takes():
    class Hungry(RandomSampler):
        def _select(self, features):
            held = np.ones(200 << 17)  # 200 MB
            return super()._select(features) + int(held[0] - 1)

    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the kernel's high-water mark cannot be set back here")
    features, cpu = torch.randn(1000, 8), torch.device("cpu")
    positions = torch.zeros(1000, 3, dtype=torch.int32)
    for _ in range(2):  # what was freed before does not hide what is taken now
        chosen = cells.select(Hungry(0.1), features, positions, cpu)
        assert 195 <= chosen.extra_bytes / 2**20 < 230 and len(chosen.rows) == 100
        assert cells.select(RandomSampler(0.1), features, positions, cpu).extra_bytes < 20 << 20
