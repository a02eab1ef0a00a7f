"""The rule that decides how much is pruned, on supports that say what a case is about."""

from __future__ import annotations

import pytest
import torch

from patchcore_fast.samplers.pruning import SupportRule
from patchcore_fast.scores import Layout, Support

from ..patches import positions

IMAGES, GRID = 20, (3, 3)
DEVIATION = torch.tensor([9.0, 8.0, 2.5, 1.7, 1.2, 0.7, *torch.linspace(0.4, -2.0, 14)], dtype=torch.float64)


class Told(Support):
    """One whose `missed` is told, by the number of images that go; what it was asked is kept."""

    def __init__(self, missed: dict[int, float], far: float = 1.5, outlying: int = 2) -> None:
        where = positions(IMAGES, GRID)
        image_distance = (DEVIATION * 0.05).exp().float()
        image_distance[0] = far
        distance = image_distance[where[:, 0]]
        raw = torch.where(torch.arange(IMAGES) < outlying, 5.0, 0.0).double()
        super().__init__(distance, image_distance, DEVIATION, raw, Layout.of("f", len(where), positions=where))
        object.__setattr__(self, "told", missed)
        object.__setattr__(self, "asked", [])

    def missed(self, gone: torch.Tensor, deviation: float = 1.0) -> float:
        images = len(self.layout.image[gone].unique())
        self.asked.append((images, deviation))
        return self.told[images]


def images(found: Support, rows: torch.Tensor) -> list[int]:
    return found.layout.image[rows].unique().tolist()


@pytest.mark.parametrize(
    "missed, gone, asked",
    [
        ({6: 0.0035}, 6, [(6, 0.5)]),  # 0.012 of a share of 6 / 20
        ({6: 0.0037, 5: 0.0}, 5, [(6, 0.5), (5, 1.0)]),
        ({6: 0.0037, 5: 0.0031, 4: 0.0023}, 4, [(6, 0.5), (5, 1.0), (4, 1.0)]),
        ({6: 0.1, 5: 0.1, 4: 0.0025, 3: 0.0017}, 3, [(6, 0.5), (5, 1.0), (4, 1.0), (3, 1.0)]),
    ],
)
def test_as_much_goes_as_the_others_do_not_miss(missed, gone, asked):
    found = Told(missed)
    rows, facts = SupportRule().judge(found)
    assert images(found, rows) == list(range(gone)) and found.asked == asked
    assert facts["images_pruned"] == gone and facts["contaminated"] is True
    assert list(facts["missed"].values()) == list(missed.values())
    assert facts["high"] == (0.5, 1.0, 1.5, 2.0)[len(asked) - 1] and f"{facts['high']:g}" == list(facts["missed"])[-1]


def test_where_all_are_missed_only_the_gross_ones_go():
    needed = dict.fromkeys((6, 5, 4, 3), 0.1)
    rows, facts = SupportRule().judge(Told(needed))
    assert not bool(rows.any()) and facts["images_pruned"] == 0 and "high" not in facts and len(facts["missed"]) == 4
    found = Told(needed, far=2.5)  # more than twice as far as the median image
    rows, facts = SupportRule().judge(found)
    assert images(found, rows) == [0] and facts["images_pruned"] == 1 and facts["high"] == 8.0


@pytest.mark.parametrize("outlying, contaminated", [(0, False), (1, False), (2, True)])
def test_it_takes_two_images_to_contaminate(outlying, contaminated):
    found = Told({6: 0.0}, outlying=outlying)
    rows, facts = SupportRule().judge(found)
    assert facts["contaminated"] is contaminated and bool(rows.any()) is contaminated
    assert ("missed" in facts) is contaminated and bool(found.asked) is contaminated


def test_a_share_is_taken_at_its_word():
    found = Told({}, outlying=0)
    rows, facts = SupportRule.of(0.2).judge(found)
    assert images(found, rows) == [0, 1, 2, 3] and facts["images_pruned"] == 4 and "missed" not in facts
