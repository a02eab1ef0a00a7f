"""Pictures of signals: panels, maps in their scale, marks where the picks are, numbers in the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcore_fast.report.signals import described, plot_correlations, plot_signal_maps, plot_signals

from .test_selection import near, picture

GRID, IMAGES = (4, 6), 5
N = GRID[0] * GRID[1] * IMAGES


def values() -> dict[str, Any]:
    r = np.random.default_rng(0)
    return {"rarity": r.gamma(2, 1, N).astype(np.float32), "forgetting": r.integers(0, 3, N), "sampler: x": np.ones(N)}


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved."""
    import patchcore_fast.report.signals as module

    kept, save = [], module.save_figure
    monkeypatch.setattr(module, "save_figure", lambda figure, path: (kept.append(figure), save(figure, path)))
    return kept


def test_histograms_name_unit_and_tails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = drawn(monkeypatch)
    given = values() | {"rarity": np.arange(float(N))}
    plot_signals(given, np.array([0, 1, N - 1, 60]), tmp_path / "a.png")
    axes = figures[0].axes
    assert [a.get_title(loc="left") for a in axes] == ["rarity", "forgetting", "sampler: x"]
    assert [a.get_xlabel() for a in axes] == ["distance, in feature units", "events in 4 epochs",
                                              "the sampler's own numbers"]  # fmt: skip
    assert axes[0].texts[0].get_text() == "picks: 50 % in the lowest 5 %, 25 % in the highest 5 %"
    assert axes[2].texts[0].get_text() == "no tails: too many rows tie"
    ticks = next(line for line in axes[0].lines if line.get_marker() == "|")
    assert len(ticks.get_xdata()) == 4, "one tick a pick"
    assert picture(tmp_path / "a.png").shape[1] > 1500


def test_maps_have_one_scale_for_all_images_and_marks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures, given = drawn(monkeypatch), values()
    places = np.array([[3, 1, 2], [3, 0, 5], [1, 3, 0], [0, 0, 0]])
    photos = {3: np.full((40, 60, 3), 200, np.uint8), 1: np.zeros((60, 40), np.uint8)}
    plot_signal_maps(photos, given, places, GRID, tmp_path / "a.png", captions={3: "name.png\ntypical"})
    axes = np.array(figures[0].axes[: 2 * (1 + len(given))]).reshape(1 + len(given), 2)
    assert [a.get_title(loc="left") for a in axes[0]] == ["name.png\ntypical\n2 picked", "image 1\n1 picked"]
    low, high = np.quantile(given["rarity"], (0.01, 0.99))
    for column, image in enumerate(photos):
        shown = axes[1, column].images[0]
        assert (np.asarray(shown.get_array()) == given["rarity"].reshape(IMAGES, *GRID)[image]).all()
        assert shown.get_clim() == pytest.approx((low, high))
    marks = axes[2, 0].collections[0].get_offsets()
    assert np.asarray(marks).tolist() == [[2.5, 1.5], [5.5, 0.5]], "at the middle of the cells"
    # A cell is drawn in the photograph's shape, not in the grid's.
    assert axes[1, 0].get_aspect() == pytest.approx(40 / 60 * 6 / 4)
    assert axes[1, 1].get_aspect() == pytest.approx(60 / 40 * 6 / 4)
    assert near(picture(tmp_path / "a.png"), "#d1495b", 40) > 50


def test_the_table_has_its_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = drawn(monkeypatch)
    plot_correlations(["rarity", "aum"], [[1, -0.253], [-0.253, np.nan]], tmp_path / "a.png")
    axes = figures[0].axes[0]
    assert [t.get_text() for t in axes.texts] == ["1.00", "-0.25", "-0.25", "-"]
    assert [t.get_text() for t in axes.get_yticklabels()] == [described(x).label for x in ("rarity", "aum")]


BAD: dict[str, tuple[Any, str]] = {
    "no-signals": (lambda p: plot_signals({}, [0], p), "at least one signal"),
    "nan": (lambda p: plot_signals({"rarity": [np.nan, 1]}, [0], p), "1 of 2 scores are not"),
    "lengths": (lambda p: plot_signals({"a": [1.0], "b": [1.0, 2]}, [0], p), r"must be \[1\] numbers"),
    "beyond": (lambda p: plot_signals({"a": [1.0]}, [1], p), r"must lie in \[0, 1\)"),
    "no-images": (lambda p: plot_signal_maps({}, values(), [[0, 0, 0]], GRID, p), "at least one image"),
    "grid": (lambda p: plot_signal_maps({0: np.zeros((4, 4))}, values(), [[0, 0, 0]], (7, 7), p), "no grids of 7 x 7"),
    "image": (lambda p: plot_signal_maps({9: np.zeros((4, 4))}, values(), [[0, 0, 0]], GRID, p), "hold image 9"),
    "place": (lambda p: plot_signal_maps({0: np.zeros((4, 4))}, values(), [[0, 4, 0]], GRID, p), "row must lie"),
    "table": (lambda p: plot_correlations(["a"], [[1, 2]], p), r"must be \[1, 1\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, tmp_path: Path) -> None:
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
