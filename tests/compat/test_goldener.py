"""goldener's k-center tool on our engine against its algorithm restated with the whole matrix in float64."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from patchcore_fast.compat import goldener


def cosine_distance(a, b):
    unit = torch.nn.functional.normalize
    return 1 - (unit(a, dim=1) @ unit(b, dim=1).T).clamp(-1, 1)


def exact(a, b):
    return (a[:, None] - b).norm(dim=2)


def plain(x, k, distance, anchors=None):
    """As goldener does it: all distances, then the argmax of the minima so often."""
    if k == len(x):
        return list(range(k))
    known = 0 if anchors is None else len(anchors)
    x = (x if not known else torch.cat([anchors, x])).double()
    matrix = distance(x, x)
    picks = []
    if known:
        nearest = matrix[:known].amin(0)
        nearest[:known] = -torch.inf
    else:
        picks.append(int(matrix.norm(dim=1).argmax()))
        nearest = matrix[picks[0]]
    while len(picks) < k:
        row = int(nearest.argmax())
        picks.append(row - known)
        nearest = torch.minimum(nearest, matrix[row])
    return picks


def tool(distance=torch.cdist):
    return SimpleNamespace(device="cpu", distance_func=distance)


def rows(n, d, seed, high=None):
    generator = torch.Generator().manual_seed(seed)
    if high is None:
        return torch.randn(n, d, generator=generator)
    return torch.randint(high, (n, d), generator=generator).float()


@pytest.mark.parametrize("anchors", [None, 1, 7])
@pytest.mark.parametrize("n, d, k", [(1, 2, 1), (30, 3, 1), (60, 4, 25), (200, 16, 199)])
def test_picks_are_those_of_the_matrix(n, d, k, anchors):
    x, given = rows(n, d, 0), None if anchors is None else rows(anchors, d, 1)
    assert goldener.select(tool(), x, k, given) == plain(x, k, exact, given)
    assert goldener.select(tool(), x, k, x[:0]) == goldener.select(tool(), x, k)


@pytest.mark.parametrize("anchors", [None, 5])
def test_cosine(anchors):
    x, given = rows(80, 5, 2), None if anchors is None else rows(anchors, 5, 3)
    assert goldener.select(tool(cosine_distance), x, 30, given) == plain(x, 30, cosine_distance, given)


@pytest.mark.parametrize("scale", [1, 1e30])
def test_cosine_of_nearly_equal_directions_is_measured_in_float64(scale):
    x = (rows(1, 6, 4) + 1e-4 * rows(200, 6, 5)) * scale
    wanted = plain(x, 150, cosine_distance)
    assert goldener.select(tool(cosine_distance), x, 150) == wanted
    assert goldener.select(tool(cosine_distance), x.double(), 150) == wanted


@pytest.mark.parametrize(
    ("zeros", "anchors", "said"),
    [((3, 5), None, "got 2 of zeros .*, the first is row 3"), ((3,), 2, "the first is row 3"),
     ((), 0, "the first is anchor 1")],
)  # fmt: skip
def test_rows_without_a_direction_are_refused(zeros, anchors, said):
    x, given = rows(20, 4, 6), None if anchors is None else rows(3, 4, 7)
    x[list(zeros)] = 0
    if anchors == 0:
        given[1] = 0
    with pytest.raises(ValueError, match=f"select: cosine distance wants rows that have a direction, .*{said}"):
        goldener.select(tool(cosine_distance), x, 5, given)
    assert goldener.select(tool(cosine_distance), x, 20, given) == list(range(20))
    assert goldener.select(tool(), x, 5, given) == plain(x, 5, exact, given)  # of no matter to Euclidean distance


@pytest.mark.parametrize("anchors", [None, 3])
def test_row_0_repeats_once_all_lie_on_a_pick(anchors):
    x, given = rows(40, 2, 4, high=3), None if anchors is None else rows(anchors, 2, 5, high=3)
    found = goldener.select(tool(), x, 30, given)
    assert found == plain(x, 30, exact, given) and found[-5:] == [0] * 5


def test_all_rows_and_none():
    x = rows(6, 3, 0)
    assert goldener.select(tool(), x, 6) == [0, 1, 2, 3, 4, 5] and goldener.select(tool(), x, 0) == []


@pytest.mark.parametrize(
    ("x", "k", "distance", "said"),
    [
        (torch.zeros(3), 1, torch.cdist, "only accepts 2D tensors"),
        ([[1.0]], 1, torch.cdist, "only accepts 2D tensors"),
        (torch.zeros(3, 2), 4, torch.cdist, "k cannot be greater than the number of data points in x"),
        (torch.zeros(3, 2), -1, torch.cdist, r"k must lie in 0\.\.3"),
        (torch.full((3, 2), torch.nan), 2, torch.cdist, "finite"),
        (torch.zeros(3, 2), 2, torch.dist, "the distance must be"),
    ],
)
def test_what_cannot_be_selected_is_said(x, k, distance, said):
    with pytest.raises(ValueError, match=said):
        goldener.select(tool(distance), x, k)


def test_install_and_undo(monkeypatch):
    class GoldGreedyKCenterSelectionTool:
        device, distance_func = "cpu", staticmethod(torch.cdist)

        def select(self, x, k, anchors=None):
            return "theirs"

    module = ModuleType("goldener.select")
    module.GoldGreedyKCenterSelectionTool = GoldGreedyKCenterSelectionTool
    monkeypatch.setitem(sys.modules, "goldener", ModuleType("goldener"))
    monkeypatch.setitem(sys.modules, "goldener.select", module)
    x = rows(20, 3, 0)
    with goldener.install():
        assert GoldGreedyKCenterSelectionTool().select(x, k=5) == plain(x, 5, exact)
    assert GoldGreedyKCenterSelectionTool().select(x, 5) == "theirs"
    monkeypatch.setitem(sys.modules, "goldener.select", None)
    with pytest.raises(ImportError, match="goldener must be installed"):
        goldener.install()
