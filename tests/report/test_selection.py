"""How a bank was selected: planes against SVD, pictures with the right colours."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patchcore_fast.coverage import Coverage, spatial_coverage
from patchcore_fast.report import (
    choose_images,
    pca_plane,
    plot_kept_patches,
    plot_plane,
    plot_provenance,
    plot_score_distributions,
    umap_plane,
)
from patchcore_fast.report.images import OUTLINE
from patchcore_fast.report.selection import end_colours, percent, pruned_ends

N, GRID, IMAGES = 600, (5, 6), 20


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as im:
        assert im.format == "PNG"
        return np.asarray(im.convert("RGB"))


def near(image: np.ndarray, colour: str | tuple[int, int, int], within: int = 12) -> int:
    """Pixels of about a colour."""
    rgb = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) if isinstance(colour, str) else colour
    return int((np.abs(image.astype(int) - rgb).max(-1) <= within).sum())


def places(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(rng(seed).integers(0, (IMAGES, *GRID), (count, 3))).int()


# --- plane ---


def cloud(n: int = N, dim: int = 9) -> torch.Tensor:
    """A stretched, turned and shifted cloud: its axes are well apart."""
    g = torch.Generator().manual_seed(4)
    scale = torch.linspace(3, 0.2, dim)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=g)).Q
    return (torch.randn(n, dim, generator=g) * scale) @ turn + 40


@pytest.mark.parametrize("shape", [(600, 9), (7, 30), (50, 1)], ids=["tall", "wide", "one-column"])
def test_pca_plane_is_the_svd(shape: tuple[int, int]) -> None:
    x = cloud(*shape)
    xy, explained = pca_plane(x)
    u, s, vh = np.linalg.svd(x.double().numpy() - x.double().numpy().mean(0), full_matrices=False)
    shares = s**2 / (s**2).sum()
    for axis in range(min(2, shape[1])):
        sign = np.sign(vh[axis][np.abs(vh[axis]).argmax()])
        np.testing.assert_allclose(xy[:, axis], u[:, axis] * s[axis] * sign, atol=2e-5)
        assert float(explained[axis]) == pytest.approx(shares[axis], rel=1e-9)
    assert xy.shape == (shape[0], 2) and xy.dtype == torch.float32
    if shape[1] == 1:
        assert (xy[:, 1] == 0).all() and explained[1] == 0


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, np.ndarray])
def test_pca_plane_takes_any_floats_and_any_chunks(kind: Any) -> None:
    x: Any = cloud().numpy() if kind is np.ndarray else cloud().to(kind)
    whole, explained = pca_plane(x)
    parts, shares = pca_plane(x, chunk_size=7)
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(explained, shares)


class FakeUMAP:
    """Stands in for umap-learn: remembers how it was called, places rows on their first two columns."""

    calls: list[dict[str, Any]] = []

    def __init__(self, **given: Any) -> None:
        self.calls.append(given)

    def fit_transform(self, x: np.ndarray) -> np.ndarray:
        self.calls[-1]["rows"] = x
        return x[:, :2]


@pytest.fixture
def umap(monkeypatch: pytest.MonkeyPatch) -> type[FakeUMAP]:
    FakeUMAP.calls = []
    module = types.ModuleType("umap")
    module.UMAP = FakeUMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)
    return FakeUMAP


def test_umap_plane_samples_by_seed_and_keeps_the_picks(umap: type[FakeUMAP]) -> None:
    x, picks = cloud(), np.array([599, 3, 77])
    xy, shown = umap_plane(x, picks, seed=5, rows=100)
    again, same = umap_plane(x, picks, seed=5, rows=100)
    _, other = umap_plane(x, picks, seed=6, rows=100)
    assert len(shown) == 100 and (np.diff(shown) > 0).all() and np.isin(picks, shown).all()
    assert (shown == same).all() and torch.equal(xy, again) and (shown != other).any()
    assert (umap.calls[0]["rows"] == x[shown].numpy()).all() and umap.calls[0]["random_state"] == 5
    assert (umap_plane(x, picks)[1] == np.arange(N)).all(), "few rows are all shown"
    many = np.arange(N)[::-1].copy()
    assert (umap_plane(x, many, rows=100)[1] == np.arange(N - 50, N)).all(), "the first picks, half of the places"


def test_umap_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="pip install umap-learn"):
        plot_plane(cloud(), [1, 2], None, tmp_path / "p.png", method="umap")
    assert not list(tmp_path.iterdir())


def test_real_umap_is_deterministic_and_leaves_the_global_random_state() -> None:
    pytest.importorskip("umap", reason="umap-learn is not installed")
    state = np.random.get_state()[1].copy()  # type: ignore[index]
    first, shown = umap_plane(cloud(), [3, 5], rows=120)
    again, _ = umap_plane(cloud(), [3, 5], rows=120)
    assert first.shape == (120, 2) and torch.equal(first, again) and len(shown) == 120
    assert (state == np.random.get_state()[1]).all()  # type: ignore[index]


def test_many_picks_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from matplotlib.axes import Axes

    drawn: list[Any] = []
    whole = Axes.scatter
    monkeypatch.setattr(Axes, "scatter", lambda self, *a, **k: drawn.append((a, k)) or whole(self, *a, **k))
    monkeypatch.setattr("patchcore_fast.report.plane.DOTS", 50)
    x, picks = cloud(), rng().permutation(N)[:301]
    plot_plane(x, picks, None, tmp_path / "a.png")
    ((places_x, places_y), given), xy = drawn[0], pca_plane(x)[0].numpy()
    turns = given["c"][::-1] - 1
    assert len(turns) == 50 and turns[0] == 0 and turns[-1] == 300 and set(np.diff(turns)) <= {6, 7}
    assert (np.stack([places_x, places_y], 1)[::-1] == xy[picks[turns]]).all()
    assert (given["vmin"], given["vmax"]) == (1, 301)


@pytest.mark.parametrize("method", ["pca", "umap"])
def test_plot_plane_tints_what_was_pruned(umap: type[FakeUMAP], method: Any, tmp_path: Path) -> None:
    x = cloud()
    kept = torch.ones(N, dtype=torch.bool)
    plot_plane(x, [5, 1, 9], kept, tmp_path / "a.png", method=method)
    far = x[:, 0] > x[:, 0].median()
    plot_plane(x, [5, 1, 9], ~far, tmp_path / "b.png", method=method, pruned={"hard": far})
    before, after = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    pink = [int(((p[..., 0].astype(int) - p[..., 1:].max(-1)) > 30).sum()) for p in (before, after)]
    assert pink[1] > 2000 > 20 * pink[0]
    assert umap.calls == [] if method == "pca" else len(umap.calls) == 2


# --- distributions ---


def signals() -> dict[str, Any]:
    r = rng()
    return {
        "rarity": torch.from_numpy(r.gamma(2, 1, N)).float(),
        "forgetting": r.integers(0, 5, N),
        "weight": np.ones(N, np.float32),
        "support": np.concatenate([r.normal(0, 1, N - 1), [1e6]]),
    }


def test_distributions_show_the_pruned_end_in_its_colour(tmp_path: Path) -> None:
    scores, picks = signals(), rng(1).choice(N, 30, replace=False)
    colour = end_colours(["hard"])["hard"]
    plot_score_distributions(scores, None, picks, tmp_path / "a.png")
    hard = scores["rarity"] > scores["rarity"].quantile(0.8)
    plot_score_distributions(scores, ~hard, picks, tmp_path / "b.png", pruned={"hard": hard})
    a, b = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    assert near(a, colour, 60) < 100 < 1000 < near(b, colour, 60)
    assert a.shape[1] == 1575 and 700 < a.shape[0] < 1100, "three columns, two lines"


def legend_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []

    def watch(figure: Any, title: str, handles: list[Any]) -> None:
        texts.extend([title, *(h.get_label() for h in handles)])

    monkeypatch.setattr("patchcore_fast.report.selection.headed_legend", watch)
    return texts


def test_distributions_tell_shares(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = legend_texts(monkeypatch)
    kept = np.arange(N) >= 90
    hard = np.arange(N) < 60
    plot_score_distributions(signals(), kept, [100, 200], tmp_path / "a.png", pruned={"hard": hard}, title="T")
    assert texts == ["T", "all 600 patches", "pruned, hard: 10 %", "pruned: 5 %", "2 picked"]


def test_distributions_have_units(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    labels: list[str] = []
    monkeypatch.setattr("patchcore_fast.report.selection.save_figure",
                        lambda figure, path: labels.extend(axes.get_xlabel() for axes in figure.axes))  # fmt: skip
    plot_score_distributions(signals(), None, [1], tmp_path / "a.png", units={"rarity": "distance"})
    assert labels[:4] == ["distance", "", "", ""]


@pytest.mark.parametrize(("share", "text"), [(0, "0 %"), (0.123, "12 %"), (0.0123, "1.2 %"), (0.00012, "0.012 %")])
def test_percent(share: float, text: str) -> None:
    assert percent(share, 1) == text


def test_pruned_ends_name_what_nobody_claims() -> None:
    kept = np.array([1, 1, 0, 0, 0], bool)
    ends = pruned_ends("x", kept, {"hard": torch.tensor([0, 0, 1, 0, 0], dtype=torch.bool)}, 5)
    assert {k: v.tolist() for k, v in ends.items()} == {"hard": [0, 0, 1, 0, 0], "pruned": [0, 0, 0, 1, 1]}
    assert pruned_ends("x", None, None, 5) == {} and list(pruned_ends("x", kept, None, 5)) == ["pruned"]
    colours = end_colours(["odd", "hard", "odder", "support"])
    assert len(set(colours.values())) == 4 and colours["hard"] == end_colours(["hard"])["hard"]


# --- photographs and provenance ---


def test_choose_images_gives_each_reason_its_part() -> None:
    picks = [5, 9, 1, 5, 7, 5, 0]
    assert choose_images(picks, [0, 0, 8, 3, 0, 0, 0], 6) == {
        1: "most picked", 4: "most picked", 2: "most pruned", 3: "most pruned", 0: "typical", 5: "typical"
    }  # fmt: skip
    assert choose_images(picks, [0] * 7, 2) == {1: "most picked", 0: "typical"}
    assert list(choose_images(picks, None, 99).items())[:2] == [(1, "most picked"), (4, "most picked")]
    assert set(choose_images([2], [1], 8)) == {0} and len(choose_images(picks, None, 99)) == 7
    with pytest.raises(ValueError, match=r"got \(7,\) and \(2,\)"):
        choose_images(picks, [1, 2])
    with pytest.raises(ValueError, match="count must be a positive integer, got 0"):
        choose_images(picks, None, 0)


def test_kept_patches_frames_and_hatches_the_right_cells(tmp_path: Path) -> None:
    """One grey photograph: what is cyan or red must lie in the cells that were given, in the right quarter."""
    grey = np.full((60, 90, 3), 120, np.uint8)
    out = tmp_path / "k.png"
    plot_kept_patches({4: grey}, [[4, 0, 1], [3, 1, 1]], (2, 2), out, pruned={"hard": [[4, 1, 0], [2, 0, 1]]})
    drawn = picture(out)
    photo = np.abs(drawn.astype(int) - 120).max(-1) < 3
    rows, columns = np.flatnonzero(photo.mean(1) > 0.3), np.flatnonzero(photo.mean(0) > 0.3)
    inside = drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(int)
    h, w = inside.shape[0] // 2, inside.shape[1] // 2
    quarters = [inside[y : y + h, x : x + w] for y in (0, h) for x in (0, w)]
    red = [int((q[..., 0] - q[..., 1] > 20).sum()) for q in quarters]
    cyan = [near(q.astype(np.uint8), OUTLINE, 40) for q in quarters]
    assert red[2] > 0.9 * h * w and red[0] + red[1] + red[3] < 0.02 * h * w
    assert cyan[1] > 300 and cyan[2] < 10
    assert 1.3 < w / h < 1.7, "the photograph keeps its shape"


def coverage() -> Coverage:
    return spatial_coverage(places(200), IMAGES, GRID)


def test_provenance_names_the_images_that_gave_most(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    seen: list[str] = []
    whole = Figure.savefig

    def watch(self: Figure, *args: Any, **given: Any) -> Any:
        for axes in self.findobj(lambda a: hasattr(a, "get_yticklabels")):
            seen.extend(label.get_text() for label in axes.get_yticklabels())
        return whole(self, *args, **given)

    monkeypatch.setattr(Figure, "savefig", watch)
    found = coverage()
    plot_provenance(found, tmp_path / "p.png", names=[f"photo{i}.png" for i in range(IMAGES)])
    order = np.argsort(-found.per_image.numpy(), kind="stable")
    assert [t for t in seen if t.startswith("photo")] == [f"photo{i}.png" for i in order[:8]]
    seen.clear()
    few = spatial_coverage([[0, 0, 0], [2, 1, 1]], 3, GRID)
    plot_provenance(few, tmp_path / "q.png")
    assert [t for t in seen if t.startswith("image")] == ["image 0", "image 2", "image 1"], "few images are all named"
    with pytest.raises(ValueError, match="names must be 20, one an image, got 3"):
        plot_provenance(found, tmp_path / "r.png", names=["a", "b", "c"])


# --- all pictures ---

MASK = np.arange(N) % 7 == 0
DRAW: dict[str, Callable[[Path], None]] = {
    "distributions": lambda p: plot_score_distributions(signals(), ~MASK, [3, 1], p, pruned={"easy": MASK}),
    "plane": lambda p: plot_plane(cloud(), np.arange(1, N, 5), ~MASK, p, pruned={"support": MASK}),
    "patches": lambda p: plot_kept_patches({2: np.zeros((40, 30)), 0: np.ones((3, 8, 8))}, places(60), GRID, p),
    "provenance": lambda p: plot_provenance(coverage(), p),
}


@pytest.mark.parametrize("name", DRAW)
def test_pictures_are_sane_and_equal_for_equal_input(name: str, tmp_path: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    for file in ("a.png", "b.png"):
        DRAW[name](tmp_path / file)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "b.png"}
    height, width = picture(tmp_path / "a.png").shape[:2]
    assert 400 < height < 1600 and 600 < width < 1800
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # type: ignore[index]


NAN = np.where(np.arange(N) == 3, np.nan, 1.0)
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no-signals": (lambda p: plot_score_distributions({}, None, [1], p), "at least one signal"),
    "short-signal": (lambda p: plot_score_distributions({"a": NAN[4:], "b": NAN}, None, [1], p), r"b must be \[596\]"),
    "nan-signal": (lambda p: plot_score_distributions({"a": NAN}, None, [1], p), "a must be finite, 1 of 600"),
    "kept-shape": (lambda p: plot_score_distributions({"a": np.ones(N)}, MASK[1:], [1], p), r"kept must be \[600\]"),
    "kept-type": (lambda p: plot_plane(cloud(), [1], np.ones(N), p), r"kept must be \[600\] bool.*float64"),
    "pruned-shape": (lambda p: plot_plane(cloud(), [1], None, p, pruned={"hard": MASK[1:]}), r"pruned\['hard'\] must"),
    "picks-float": (lambda p: plot_plane(cloud(), [1.0], None, p), "must be integers"),
    "picks-range": (lambda p: plot_plane(cloud(), [600], None, p), r"lie in \[0, 600\), got 600"),
    "picks-none": (lambda p: plot_plane(cloud(), np.empty(0, int), None, p), "k >= 1"),
    "method": (lambda p: plot_plane(cloud(), [1], None, p, method="tsne"), "got 'tsne'"),  # type: ignore[arg-type]
    "features-1d": (lambda p: plot_plane(torch.ones(5), [1], None, p), r"got shape \(5,\)"),
    "features-one": (lambda p: plot_plane(torch.ones(1, 2), [0], None, p), "at least two rows"),
    "umap-rows": (lambda p: (umap_plane(torch.ones(3, 2), [0]), None)[1], "at least 4 rows are needed, got 3"),
    "features-int": (lambda p: plot_plane(torch.ones(5, 2).int(), [1], None, p), "must be floating"),
    "features-nan": (lambda p: plot_plane(cloud() / 0, [1], None, p), "must be finite"),
    "features-equal": (lambda p: plot_plane(torch.full((9, 3), 0.1), [1], None, p), "all rows are equal"),
    "no-images": (lambda p: plot_kept_patches({}, [[0, 0, 0]], GRID, p), "at least one image"),
    "place": (lambda p: plot_kept_patches({0: np.ones((4, 4))}, [[0, 5, 0]], GRID, p), r"row must lie in \[0, 5\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_pictures_refuse(name: str, umap: type[FakeUMAP], tmp_path: Path) -> None:
    draw, words = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=words):
        draw(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_report_loads_without_torch() -> None:
    """The doctor writes its findings through this package where torch is broken."""
    code = "import sys; sys.modules['torch'] = None; import patchcore_fast.report as r; print(r.plot_plane.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "plot_plane\n", done.stderr
