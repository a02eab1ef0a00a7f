"""Pictures, plots and tables: right pixels, right text, nothing half-written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchcore_fast.regions import find_regions
from patchcore_fast.report import (
    Panel,
    contact_sheet,
    metrics_table,
    outline,
    overlay,
    plot_histogram,
    plot_roc,
    shared_scale,
    write_json,
    write_scores_csv,
)
from patchcore_fast.report.images import BOX, BOX_EDGE, OUTLINE, draw_boxes, region_boxes


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as im:
        return np.asarray(im.convert("RGB"))


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 3), (3, 6, 8)], ids=["grey", "last", "first"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32], ids=["uint8", "float"])
def test_overlay_leaves_cold_pixels_alone(shape: tuple[int, ...], kind: type) -> None:
    grey = np.full(shape, 100, np.uint8) if kind is np.uint8 else np.full(shape, 100 / 255, np.float32)
    heat = np.zeros((6, 8), np.float32)
    heat[2, 3] = 9
    drawn = overlay(grey, heat, vmin=1, vmax=5)
    assert drawn.shape == (6, 8, 3) and drawn.dtype == np.uint8
    cold = np.ones((6, 8), bool)
    cold[2, 3] = False
    assert (drawn[cold] == 100).all()
    assert drawn[2, 3, 0] > 200 > drawn[2, 3, 2], "the hottest pixel glows yellow"


def test_overlay_uses_the_given_scale_not_the_images_own() -> None:
    calm, hot = np.full((4, 4), 2.0), np.full((4, 4), 9.0)
    grey = np.full((4, 4), 90, np.uint8)
    as_calm, as_hot = (overlay(grey, m, vmin=1, vmax=10).astype(int) for m in (calm, hot))
    assert np.abs(as_calm - 90).max() < 40 < np.abs(as_hot - 90).max()


def test_overlay_treats_nan_as_cold() -> None:
    assert (overlay(np.full((2, 2), 7, np.uint8), np.full((2, 2), np.nan), vmin=0, vmax=1) == 7).all()


def test_outline_is_drawn_outside_the_mask() -> None:
    mask = np.zeros((9, 9), bool)
    mask[3:6, 3:6] = True
    drawn = outline(np.zeros((9, 9, 3), np.uint8), mask)
    assert (drawn[mask] == 0).all()
    assert (drawn[2, 3] == OUTLINE).all() and (drawn[0] == 0).all()


def test_boxes_lie_just_outside_of_their_regions_in_a_picture_of_any_size() -> None:
    values = np.zeros((40, 60))
    values[10:20, 24:36] = values[30:, 50:] = 1
    boxes = region_boxes(find_regions(values, 0.5), (40, 60))
    assert (
        boxes == [(24 / 60, 10 / 40, 36 / 60, 20 / 40), (50 / 60, 30 / 40, 1, 1)] and region_boxes(None, (4, 4)) == []
    )
    drawn = draw_boxes(np.full((20, 30, 3), 99, np.uint8), boxes)
    assert (drawn[5:10, 12:18] == 99).all() and (drawn[15:18, 25:28] == 99).all()
    assert (drawn[4, 11:19] == BOX).all() and (drawn[4:11, 18] == BOX).all()  # the frame of rows 5 to 9
    assert (drawn[3, 10:20] == BOX_EDGE).all() and (drawn[3:12, 10] == BOX_EDGE).all()
    assert (drawn[19, 23:] == BOX_EDGE).all() and (drawn[18, 24:29] == BOX).all()  # inside, at the edge of the picture
    assert draw_boxes(np.zeros((1, 2, 3), np.uint8), [(0, 0, 1, 1)]).shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("image", "heat", "limits", "words"),
    [
        (np.zeros((4, 4)), np.zeros((5, 4)), (0, 1), r"anomaly_map must be \(4, 4\)"),
        (np.zeros((4, 4, 2)), np.zeros((4, 4)), (0, 1), "image must be"),
        (np.zeros((4, 4)), np.zeros((4, 4)), (1, 1), "vmax must be above vmin"),
        (np.zeros((4, 4)), np.zeros((4, 4)), (0, np.nan), "vmax must be above vmin"),
    ],
    ids=["map-shape", "channels", "empty-scale", "nan-scale"],
)
def test_overlay_refuses(image: np.ndarray, heat: np.ndarray, limits: tuple[float, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        overlay(image, heat, vmin=limits[0], vmax=limits[1])


def test_shared_scale_reaches_the_threshold() -> None:
    calm = [np.linspace(0, 1, 64 * 64).reshape(64, 64)]
    low, high = shared_scale(calm)
    assert 0.4 < low < 0.6 and 0.9 < high <= 1
    assert shared_scale(calm, threshold=4.0)[1] > 4.0
    assert shared_scale(calm, threshold=0.1) == (low, high)
    assert shared_scale([np.zeros((8, 8))]) == (0.0, 1.0)
    with pytest.raises(ValueError, match="at least one map"):
        shared_scale([])


def panels(n: int) -> list[Panel]:
    rng = np.random.default_rng(0)
    mask = np.zeros((20, 30), bool)
    mask[5:9, 5:9] = True
    return [
        Panel(rng.random((20, 30)), rng.random((20, 30)), 0.5, f"bent/{i:03d}", 1, bool(i % 2), mask) for i in range(n)
    ]


@pytest.mark.parametrize("n", [1, 5])
def test_contact_sheet_grows_by_rows(tmp_path: Path, n: int) -> None:
    contact_sheet(panels(n), tmp_path / "s.png", vmin=0, vmax=1, title="bent", columns=2)
    height, width, _ = picture(tmp_path / "s.png").shape
    assert height > 200 * -(-n // 2) and width > 380 * min(n, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["s.png"]


@pytest.mark.parametrize(
    ("label", "called", "verdict"),
    [(1, True, "anomalous"), (1, False, "missed"), (0, True, "false alarm"), (0, False, "normal"), (-1, None, "")],
)
def test_verdicts(label: int, called: bool | None, verdict: str) -> None:
    assert Panel(np.zeros((2, 2)), np.zeros((2, 2)), 0.0, "x", label, called).verdict == verdict


def test_plots_are_pictures_and_leave_pyplot_alone(tmp_path: Path) -> None:
    labels, scores = [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]
    plot_roc({"a": (labels, scores), "b": (labels, scores)}, tmp_path / "roc.png")
    plot_histogram(scores, labels, tmp_path / "hist.png", threshold=0.5)
    plot_histogram([0.3], [0], tmp_path / "one.png")
    for name in ("roc.png", "hist.png", "one.png"):
        assert picture(tmp_path / name).std() > 5, "not a blank page"
    from matplotlib import _pylab_helpers

    assert not _pylab_helpers.Gcf.figs


def test_no_bar_of_the_histogram_lies_on_both_sides_of_the_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr("patchcore_fast.report.plots.save_figure", lambda figure, path: figures.append(figure))
    scores = np.linspace(3, 11, 40)
    plot_histogram(scores, scores > 7, tmp_path / "h.png", threshold=6.2)
    bars = [b for b in figures[0].axes[0].patches if b.get_height() > 0]
    assert sum(b.get_height() for b in bars) == 40
    for bar in bars:
        assert not bar.get_x() + 1e-9 < 6.2 < bar.get_x() + bar.get_width() - 1e-9


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([0, 0], [0.1, 0.2], "one class only"),
        ([0, 1, 1], [0.1, 0.2], "one label per score"),
        ([0, 1], [0.1, np.nan], "1 are not"),
    ],
    ids=["one-class", "lengths", "nan"],
)
def test_roc_refuses(tmp_path: Path, labels: list[int], scores: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plot_roc({"a": (labels, scores)}, tmp_path / "roc.png")
    assert not list(tmp_path.iterdir())


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    for draw in (
        lambda p: plot_roc({}, p),
        lambda p: plot_histogram([], [], p),
        lambda p: contact_sheet([], p, vmin=0, vmax=1),
    ):
        with pytest.raises(ValueError, match="at least one"):
            draw(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_scores_csv(tmp_path: Path) -> None:
    rows = [
        {"path": "a, b.png", "score": 0.1, "is_anomalous": None},
        {"path": "c.png", "score": float("nan"), "is_anomalous": True},
    ]
    write_scores_csv(tmp_path / "s.csv", rows)
    with (tmp_path / "s.csv").open(newline="", encoding="utf-8") as f:
        assert list(csv.reader(f)) == [
            ["path", "score", "is_anomalous"],
            ["a, b.png", "0.1", ""],
            ["c.png", "", "True"],
        ]
    with pytest.raises(ValueError, match="columns are needed"):
        write_scores_csv(tmp_path / "t.csv", [])
    with pytest.raises(ValueError, match="row 1 has unknown columns"):
        write_scores_csv(tmp_path / "t.csv", [{"a": 1}, {"b": 2}])
    assert not (tmp_path / "t.csv").exists()


def test_csv_keeps_float32_exactly(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(50).astype(np.float32)
    write_scores_csv(tmp_path / "s.csv", [{"score": float(v)} for v in values])
    read = np.array((tmp_path / "s.csv").read_text().split()[1:], dtype=np.float32)
    assert (read == values).all()


def test_json_is_strict(tmp_path: Path) -> None:
    value = {"nan": float("nan"), "np": np.float32(0.5), "n": np.arange(2), "path": Path("a"), 3: (True, None)}
    write_json(tmp_path / "m.json", value)
    found = json.loads((tmp_path / "m.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} in JSON"))
    assert found == {"nan": None, "np": 0.5, "n": [0, 1], "path": "a", "3": [True, None]}
    with pytest.raises(TypeError):
        write_json(tmp_path / "bad.json", {"x": object()})
    assert not (tmp_path / "bad.json").exists()


def test_metrics_table_is_aligned() -> None:
    text = metrics_table({"brick": {"AUROC": 0.98765, "n": 32}, "grass": {"AUROC": float("nan")}}, corner="texture")
    assert text.splitlines() == ["texture  AUROC   n", "------------------", "brick    0.988  32", "grass        -   -"]
