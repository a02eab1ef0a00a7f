"""The threshold from normal images alone: who is held out, what a score then says, and what few scores can say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.model.selection import Selector
from patchcore_fast.model.threshold import ASKED, false_alarm_interval, false_alarm_threshold, held_out_folds
from patchcore_fast.samplers import IdentitySampler, RandomSampler
from patchcore_fast.scores import support_distance

CONFIG = {"weights": "random", "image_size": 64, "device": "cpu", "ratio": 0.2}


def _images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def _rows(grids: list[tuple[int, int]], dim: int = 3) -> FeatureRows:
    rows = FeatureRows(len(grids))
    for i, grid in enumerate(grids):
        rows.add(torch.full((grid[0] * grid[1], dim), float(i)) + torch.rand(grid[0] * grid[1], dim) / 9, grid)
    return rows


@pytest.mark.parametrize("count", [2, 9, 10, 20, 57, 200, 1000, 5000])
def test_every_image_is_held_out_once_and_never_many_together(count: int) -> None:
    folds = list(held_out_folds(torch.arange(count), count))
    asked = torch.cat(folds)
    assert len(asked) == len(asked.unique()) == min(count, ASKED)
    assert max(map(len, folds)) <= max(count // 10, 1)
    assert asked.min() == 0 and asked.max() == count - 1


def test_only_those_that_may_be_asked_are() -> None:
    assert torch.cat(list(held_out_folds(torch.tensor([3, 8, 5]), 30))).sort().values.tolist() == [3, 5, 8]


@pytest.mark.parametrize("grids", [[(2, 3)] * 7, [(2, 3), (1, 2), (2, 3), (4, 1), (2, 2), (2, 3), (3, 3)]],
                         ids=["one grid", "many grids"])  # fmt: skip
@pytest.mark.parametrize("aside", [[0], [6], [1, 3, 5], [5, 6], [0, 1, 2, 3, 4, 5], list(range(7)), []])
def test_rows_set_aside_are_parted_and_come_back(grids: list[tuple[int, int]], aside: list[int]) -> None:
    rows = _rows(grids)
    before = rows.features.clone()
    with rows.set_aside(torch.tensor(aside, dtype=torch.int64)) as (rest, held, numbers):
        assert numbers.tolist() == sorted(aside)
        assert rest.features[:, 0].floor().tolist() == sorted(rest.features[:, 0].floor().tolist())
        assert held.grids == [grids[i] for i in numbers.tolist()]
        for part, wanted in ((held, set(aside)), (rest, set(range(7)) - set(aside))):
            assert set(part.features[:, 0].floor().int().tolist()) == wanted
            assert part.used == sum(h * w for h, w in part.grids)
            if part.used:  # each row still belongs to the image that its position says
                image = part.positions(torch.arange(part.used))[:, 0].long()
                first = part.features[part.starts[:-1]][:, 0].floor()
                assert torch.equal(part.features[:, 0].floor(), first[image])
    assert torch.equal(rows.features, before)


def test_rows_come_back_after_an_error() -> None:
    rows = _rows([(2, 2)] * 5)
    before = rows.features.clone()
    with pytest.raises(KeyError), rows.set_aside(torch.tensor([1])):
        raise KeyError
    assert torch.equal(rows.features, before)


@pytest.mark.parametrize("sampler", [None, IdentitySampler(), RandomSampler(0.3)], ids=["greedy", "identity", "random"])
def test_a_held_out_score_is_that_of_a_model_fitted_without_the_image(sampler: object) -> None:
    images = _images(5)
    model = PatchCore(PatchCoreConfig(**CONFIG), sampler, progress=False).fit(images)
    assert model.bank.normal_scores is not None and len(model.bank.normal_scores) == 5
    wanted = []
    for i in range(5):
        others = torch.arange(5) != i
        without = PatchCore(PatchCoreConfig(**CONFIG), sampler, progress=False).fit(images[others])
        wanted.append(without.predict(images[i : i + 1])[0].score)
    assert model.bank.normal_scores.tolist() == pytest.approx(wanted, rel=1e-5)
    assert model.threshold == pytest.approx(false_alarm_threshold(wanted, 0.05), rel=1e-5)


def test_copies_are_held_out_with_their_image_and_not_asked() -> None:
    images = _images(4)
    model = PatchCore(PatchCoreConfig(**CONFIG, sampler="identity"), progress=False).fit(images, augment="rotate")
    wanted = []
    for i in range(4):
        others = torch.cat([torch.rot90(images[torch.arange(4) != i], q, (2, 3)) for q in range(4)])
        without = PatchCore(PatchCoreConfig(**CONFIG, sampler="identity"), progress=False).fit(others)
        rows = without.training_features(others)
        image = rows.positions(torch.arange(rows.total))[:, 0].long() % 3  # a copy is no other image
        support = support_distance(rows.features, image_ids=image).distance
        assert not torch.equal(without.bank.support, support)
        without._bank = replace(without.bank, support=support)
        wanted.append(without.predict(images[i : i + 1])[0].score)
    assert model.bank.normal_scores is not None
    assert model.bank.normal_scores.tolist() == pytest.approx(wanted, rel=1e-4)


class _Draws(RandomSampler):
    """Draws from the global generators, as drop-ins do."""

    def select(self, features):
        torch.rand(3), np.random.rand(3)
        return super().select(features)


def test_folds_leave_sampler_and_random_state_as_the_selection_left_them() -> None:
    torch.manual_seed(5), np.random.seed(5)
    model = PatchCore(PatchCoreConfig(**CONFIG), sampler := _Draws(0.2), progress=False).fit(_images(6))
    drawn = torch.rand(1), np.random.rand()
    torch.manual_seed(5), np.random.seed(5)
    torch.rand(3), np.random.rand(3)
    assert (torch.rand(1), np.random.rand()) == drawn
    assert torch.equal(sampler.indices_, model.bank.indices)


def test_a_sampler_that_fails_without_some_images_gives_no_scores(caplog: pytest.LogCaptureFixture) -> None:
    class Whole(RandomSampler):
        def select(self, features):
            if len(features) < 3 * 64:
                raise ValueError("three images are wanted")
            return super().select(features)

    model = PatchCore(PatchCoreConfig(**CONFIG), Whole(0.2), progress=False).fit(_images(3))
    assert model.threshold is None and model.bank.normal_scores is None
    assert "three images are wanted" in caplog.text


def test_the_selection_reports_progress() -> None:
    rows = FeatureRows(5)
    for part in torch.rand(5, 64, 8):
        rows.add(part, (8, 8))
    seen: list[tuple[int, int]] = []
    selector = Selector(PatchCoreConfig(**CONFIG), None, torch.device("cpu"))
    selector.held_out_scores(rows, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]


def test_the_threshold_is_the_limit_of_a_prediction_interval() -> None:
    logs = np.linspace(-0.2, 0.2, 41)  # no score is clipped
    variance = (4 * 0.06**2 + 40 * logs.var(ddof=1)) / 44
    wanted = np.exp(stats.t.ppf(0.95, 44) * np.sqrt(variance * (1 + 1 / 41)))
    assert false_alarm_threshold(np.exp(logs).tolist(), 0.05) == pytest.approx(wanted)
    # Squared distances: the logarithms are twice as large, and so is everything that is done with them.
    assert false_alarm_threshold(np.exp(2 * logs).tolist(), 0.05, squared=True) == pytest.approx(wanted**2)


@pytest.mark.parametrize("count", [5, 20, 50, 200])
@pytest.mark.parametrize("share", [0.02, 0.05, 0.2])
def test_log_normal_scores_exceed_it_as_often_as_asked(count: int, share: float) -> None:
    random = np.random.default_rng(0)
    rates = []
    for _ in range(300):
        threshold = false_alarm_threshold(np.exp(random.normal(1, 0.08, count)).tolist(), share)
        rates.append(1 - stats.norm.cdf((np.log(threshold) - 1) / 0.08))
    assert share / 1.7 < np.mean(rates) < share * 1.4  # five images are too few for a tail of 2 %: that side is safe


def test_one_odd_training_image_moves_it_little() -> None:
    random = np.random.default_rng(1)
    scores = np.exp(random.normal(0, 0.08, 50))
    with_one = np.append(scores[:-1], 5.0)
    assert false_alarm_threshold(with_one.tolist(), 0.05) < 1.1 * false_alarm_threshold(scores.tolist(), 0.05)


@pytest.mark.parametrize(
    ("scores", "low", "high"),
    [([], None, None), ([2.0], None, None), ([0.0, 0.0, 0.0], 0.0, 0.0), ([0.0, 0.0, 3.0], 3.0, 3.0),
     ([2.0, 2.0], 2.0, 3.0), ([0.0, 2.0, 2.0], 1.0, 6.0)],
    ids=["none", "one", "copies only", "most are copies", "equal", "one copy"],
)  # fmt: skip
def test_few_and_odd_scores(scores: list[float], low: float | None, high: float | None) -> None:
    found = false_alarm_threshold(scores, 0.05)
    assert found is None if low is None or high is None else found is not None and low <= found <= high


def test_the_interval_is_clopper_and_pearsons() -> None:
    assert false_alarm_interval([], 1.0) is None
    low, high = false_alarm_interval([float(i) for i in range(20)], 18.5) or (0, 0)  # 1 of 20 above
    assert (low, high) == pytest.approx((stats.beta.ppf(0.025, 1, 20), stats.beta.ppf(0.975, 2, 19)))
    assert false_alarm_interval([1.0] * 20, 2.0) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
