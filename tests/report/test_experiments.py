"""Pictures of experiments: axes that say what they are, and no words on top of others."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from patchcore_fast.experiments.combinations import grid, steps
from patchcore_fast.experiments.table import row_of
from patchcore_fast.report import experiments as pictures

WHOLE = ((-1.0, 0.0, 0.5, 1.0), (10, 30, 100), (0, 1, 2), ("composite", "diversity"))


def table(plan, tested=True):
    rng = np.random.default_rng(0)
    rows = []
    for c in plan:
        auroc = float(rng.uniform(0.8, 0.99))
        more = {"test_auroc": 0.9, "test_pixel_auroc": auroc} if tested else {}
        rows.append(row_of(c, {"rows": int(20_000 * c.ratio), "auroc": auroc, "pixel_auroc": 0.95, "pixel_ap": 0.5,
                               "seconds": float(rng.uniform(0.2, 30))} | more))  # fmt: skip
    return rows


GRID = table(grid(*WHOLE, [0.01, 0.1], [0], limit=24)[0])
BEST = max((row for row in GRID if row["sampler"] == "composite"), key=lambda row: row["choice"])["name"]
DRAWN = {
    "time": lambda path: pictures.plot_against_time(GRID, path, best=BEST, title="bottles: accuracy against time"),
    "size": lambda path: pictures.plot_against_size(GRID, path, best=BEST, title="bottles: accuracy against size"),
    "parallel": lambda path: pictures.plot_parallel(GRID, path, best=BEST, title="bottles: settings"),
    "steps": lambda path: pictures.plot_steps(table(steps([0.01, 0.1], [0])), path, title="bottles: step by step"),
    "steps-untested": lambda path: pictures.plot_steps(table(steps([0.01], [0]), False), path),
}


@pytest.mark.parametrize("name", DRAWN)
def test_words_are_inside_and_lie_on_no_others(tmp_path, monkeypatch, name):
    from matplotlib.text import Text

    found = []
    monkeypatch.setattr(pictures, "save_figure", lambda figure, path: found.append(figure))
    DRAWN[name](tmp_path / "a.png")
    (figure,) = found
    figure.draw_without_rendering()
    words = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
    boxes = {t: t.get_window_extent() for t in words}
    whole = figure.bbox
    drawn = [t for t in words if t not in _beyond(figure)]
    for t in drawn:
        box = boxes[t]
        assert whole.x0 - 1 <= box.x0 and box.x1 <= whole.x1 + 1, f"{t.get_text()!r} is cut off"
        assert whole.y0 - 1 <= box.y0 and box.y1 <= whole.y1 + 1, f"{t.get_text()!r} is cut off"
    for a, b in combinations(drawn, 2):
        assert not boxes[a].overlaps(boxes[b]), f"{a.get_text()!r} lies on {b.get_text()!r}"
    axes = figure.axes[0]
    if name != "parallel":
        assert axes.get_xlabel()
    assert axes.get_title()


def _beyond(figure):
    """Matplotlib keeps labels of ticks beyond the limits, and does not draw them."""
    found = set()
    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            for tick in (*axis.majorTicks, *axis.minorTicks):
                if not min(low, high) <= tick.get_loc() <= max(low, high):
                    found |= {tick.label1, tick.label2}
    return found


def test_files_are_pictures(tmp_path):
    from PIL import Image

    DRAWN["steps"](tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        picture.load()
        assert picture.size[0] > 800


@pytest.mark.parametrize("plot", [pictures.plot_against_time, pictures.plot_against_size, pictures.plot_parallel,
                                  pictures.plot_steps], ids=lambda p: p.__name__)  # fmt: skip
def test_nothing_finished_is_told(tmp_path, plot):
    rows = [row_of(c, {"error": "no memory"}) for c in steps([0.1], [0])]
    with pytest.raises(ValueError, match="no finished row"):
        plot(rows, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_what_a_picture_wants_is_told(tmp_path):
    one = [row for row in GRID if row["ratio"] == 0.01]
    with pytest.raises(ValueError, match="several sizes"):
        pictures.plot_against_size(one, tmp_path / "a.png")
    with pytest.raises(ValueError, match="composite"):
        pictures.plot_parallel(one[:2], tmp_path / "a.png")
