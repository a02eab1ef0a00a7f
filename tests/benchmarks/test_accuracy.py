"""benchmarks/accuracy/grid.py on the demo's textures with a random network: the machinery, not the accuracy."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from patchcore_fast import metrics
from patchcore_fast.samplers import RandomSampler
from patchcore_fast.samplers.base import Sampler

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="installed without benchmarks/")
TINY = ["--image-size", "64", "--map-size", "32", "--sigma", "1", "--weights", "random", "--resamples", "60"]
GRID = ["--samplers", "random", "greedy", "--seeds", "0", "1", "--banks", "0.01", "0.05", "--contamination", "0", "0.1"]


@pytest.fixture(scope="module")
def bench():
    """The modules by their short names."""
    before = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    names = {
        n: f"accuracy_{n}" for n in ("sets", "bootstrap", "cells", "samplers", "store", "summary", "page", "plots")
    }
    yield types.SimpleNamespace(
        main=importlib.import_module("accuracy"),
        memory=importlib.import_module("memory"),
        **{short: importlib.import_module(name) for short, name in names.items()},
    )
    sys.path[:] = before


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two textures, and one without masks and with so few images that 1 % of contamination moves none."""
    pytest.importorskip("timm", reason="the extra pipeline is not installed")
    from patchcore_fast.demo.textures import write_texture

    root = tmp_path_factory.mktemp("textures")
    folders = [write_texture(name, root) for name in ("brick", "grass")]
    shutil.copytree(folders[0], root / "unmasked", ignore=shutil.ignore_patterns("ground_truth"))
    return folders


@pytest.fixture(scope="module")
def measured(bench, data, tmp_path_factory):
    """A whole run: (file, result, folder of its figures)."""
    out = tmp_path_factory.mktemp("run")
    assert (
        bench.main.main([*map(str, data), *TINY, *GRID, "--json", str(out / "a.json"), "--plot", str(out / "p")]) == 0
    )
    return out / "a.json", json.loads((out / "a.json").read_text()), out / "p"


def test_the_grid_is_measured(measured):
    _, result, figures = measured
    cells = result["cells"]
    assert len(cells) == 2 * 2 * 2 * 2 * 2 and all(c["status"] == "ok" for c in cells)
    assert {c["set"] for c in cells} == {"brick", "grass"} and {"commit", "torch", "device"} <= set(
        result["environment"]
    )
    for c in cells:
        train = 32 + c["moved"]
        assert c["moved"] == (3 if c["share"] else 0) and c["picked"] == int(train * 64 * c["bank"])
        assert c["select_s"] > 0 and c["extra_bytes"] >= 0 and c["binned"] < 0.01
        for value, low, high in c["metrics"].values():
            assert 0 <= low <= value <= high <= 1 and (low < high or value == 1)
        assert set(c["rest"]) == (set() if c["share"] else {"0.1"})
    clean = [c["from_moved"] for c in cells if not c["share"]]
    greedy = [c["from_moved"] for c in cells if c["share"] and c["sampler"] == "greedy"]
    assert not any(clean) and np.mean(greedy) > 0.05
    assert {p.name for p in figures.iterdir()} == {"accuracy-lite0-tradeoff.png", "accuracy-lite0-contamination.png"}


def test_means_are_means_of_paired_differences(measured):
    _, result, _ = measured
    by = {(c["set"], c["seed"], c["share"], c["bank"], c["sampler"]): c["metrics"] for c in result["cells"]}
    for row in result["means"]:
        names = [row["set"]] if row["set"] else ["brick", "grass"]
        for m, (value, low, high, diff, diff_low, diff_high, spread) in row["metrics"].items():
            own, base = (
                np.array([[by[n, s, row["share"], row["bank"], who][m][0] for s in (0, 1)] for n in names])
                for who in (row["sampler"], "greedy")
            )
            assert value == pytest.approx(own.mean(), abs=2e-6) and diff == pytest.approx((own - base).mean(), abs=2e-6)
            assert spread == pytest.approx(np.ptp(own, axis=1).mean(), abs=2e-6)
            assert low <= value <= high and diff_low <= diff_high
            if row["sampler"] == "greedy":
                assert (diff, diff_low, diff_high, row["ratio"]) == (0, 0, 0, 1)
        if not row["set"]:
            single = {r["set"]: r["metrics"] for r in result["means"] if r["set"] and all(
                r[x] == row[x] for x in ("share", "bank", "sampler"))}  # fmt: skip
            for m, (name, lost) in row["worst"].items():
                assert lost == single[name][m][3] == min(v[m][3] for v in single.values())
    assert len(result["means"]) == 2 * 2 * 2 * 3  # shares, banks, samplers; two sets and their mean
    assert {r["sets"] for r in result["means"] if r["set"] is None} == {2}


def test_regained_is_of_the_same_test_images(measured):
    _, result, _ = measured
    by = {(c["set"], c["seed"], c["share"], c["bank"], c["sampler"]): c for c in result["cells"]}
    assert [(r["bank"], r["sampler"], r["sets"]) for r in result["regained"]] == [
        (0.01, "random", 2),
        (0.05, "random", 2),
    ]
    for row in result["regained"]:
        places = [(n, s) for n in ("brick", "grass") for s in (0, 1)]
        dirty, own = (
            np.mean([by[n, s, 0.1, row["bank"], who]["metrics"]["image_auroc"][0] for n, s in places])
            for who in ("greedy", "random")
        )
        clean = np.mean([by[n, s, 0.0, row["bank"], "greedy"]["rest"]["0.1"] for n, s in places])
        assert row["loss"][0] == pytest.approx(clean - dirty, abs=2e-6)
        assert row["gain"][0] == pytest.approx(own - dirty, abs=2e-6)
        if clean - dirty >= 0.005:
            assert row["regained"] == pytest.approx((own - dirty) / (clean - dirty), rel=1e-3)
        else:
            assert row["regained"] is None


def test_contamination_moves_images(bench, data):
    truth = bench.sets.read_truth(data[0], 32)
    assert (len(truth.train), int((~truth.labels).sum()), int(truth.labels.sum())) == (32, 12, 20)
    small, large = bench.sets.draw(truth, 0.05, 7), bench.sets.draw(truth, 0.9, 7)
    assert len(small.moved) == 2 and len(large.moved) == 10  # round(0.05 * 32), half of the masked
    assert truth.labels[large.moved].all() and set(small.moved) <= set(large.moved)
    assert sorted(large.order[large.order >= 0]) == list(range(32))
    assert sorted(-1 - large.order[large.order < 0]) == sorted(large.moved)
    assert (large.order[large.order >= 0] == np.arange(32)).all()  # the good ones keep their order
    assert list(large.order) != [*range(32), *(-1 - large.moved)]  # the others stand among them
    assert not large.kept[large.moved].any() and large.kept.sum() == 22
    again, other = bench.sets.draw(truth, 0.9, 7), bench.sets.draw(truth, 0.9, 8)
    assert (again.order == large.order).all() and set(other.moved) != set(large.moved)

    train = torch.arange(32.0).repeat_interleave(6).view(32, 6, 1)
    features = bench.sets.Features(train, 100 + torch.arange(32.0).repeat_interleave(6).view(32, 6, 1), (2, 3), "")
    rows, positions = bench.sets.training_rows(features, large)
    expected = [i if i >= 0 else 100 + (-1 - i) for i in large.order]
    assert rows.view(-1, 6)[:, 0].tolist() == expected and rows.shape == (42 * 6, 1)
    assert positions[6 * 5 + 4].tolist() == [5, 1, 1] and positions.dtype == torch.int32
    inside = torch.tensor([6 * int(np.flatnonzero(large.order < 0)[0]), 6 * int(np.flatnonzero(large.order >= 0)[0])])
    assert bench.cells.moved_share(inside, large, 6) == 0.5


def test_sets_without_masks_or_too_few_images(bench, data, tmp_path, capsys):
    folder = str(data[0].parent / "unmasked")
    out = tmp_path / "u.json"
    command = [folder, *TINY, "--samplers", "greedy", "random", "--seeds", "0", "--banks", "0.02", "--json", str(out)]
    assert bench.main.main([*command, "--contamination", "0", "0.01", "0.1"]) == 0
    result = json.loads(out.read_text())
    assert result["sets"][0]["masked"] == 0 and result["sets"][0]["moved"] == {"0": 0, "0.01": 0, "0.1": 3}
    assert {c["share"] for c in result["cells"]} == {0, 0.1}  # nothing would be moved at 1 %
    assert "too small for a contamination of 0.01" in capsys.readouterr().err
    for c in result["cells"]:
        assert c["metrics"]["pixel_ap"] == [None] * 3 and c["metrics"]["image_ap"][0] > 0
    text = "\n".join(bench.page.as_markdown(result, "box", "u", "benchmarks"))
    assert "A set into which no image would be moved" in text and "weights are random" in text


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_and_resamples(bench, data, ties):
    """The shortcut against patchcore_fast.metrics, and weights against images that are really there n times."""
    truth = bench.sets.read_truth(data[0], 32)
    random = np.random.default_rng(3)
    scores = random.normal(truth.labels * 1.0, 1).astype(np.float32)
    maps = random.normal(truth.masks * 1.5, 1).astype(np.float32) + random.normal(size=(len(scores), 1, 1))
    maps = maps.astype(np.float32)
    if ties:
        scores, maps = scores.round(1), maps.round(1)
    kept = bench.sets.draw(truth, 0.1, 0).kept
    weights = bench.bootstrap.resamples(truth, kept, 40)
    values, replicates, binned = bench.bootstrap.measure(truth, kept, weights, scores, maps)
    bench.cells.agree(truth, kept, values, scores, maps)
    with pytest.raises(RuntimeError, match="metrics gives"):
        bench.cells.agree(truth, kept, values + 1e-4, scores, maps)
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
    alone = bench.bootstrap.image_auroc(truth, kept, weights, scores)
    assert alone[0] == values[0] and (alone[1] == replicates[:, 0]).all()


def test_resamples_are_paired(bench, data):
    brick, grass = (bench.sets.read_truth(folder, 32) for folder in data)
    every = np.ones(len(brick.test), dtype=bool)
    all_there = bench.bootstrap.resamples(brick, every, 300)
    assert (all_there == bench.bootstrap.resamples(brick, every, 300)).all()
    assert all_there.mean(axis=0) == pytest.approx(np.ones(32), abs=0.3)  # every image is drawn once on average
    kept = every.copy()
    kept[bench.sets.draw(brick, 0.1, 0).moved] = False
    fewer = bench.bootstrap.resamples(brick, kept, 300)
    good = ~brick.labels
    assert (fewer[:, good] == all_there[:, good]).all()  # what is untouched is drawn alike
    left = kept & brick.labels
    assert np.corrcoef(fewer[:, left].ravel(), all_there[:, left].ravel())[0, 1] > 0.9
    other = bench.bootstrap.resamples(grass, np.ones(len(grass.test), dtype=bool), 300)
    assert not (other[:, :8] == all_there[:, :8]).all()


def test_resume(bench, data, measured, tmp_path, monkeypatch, capsys):
    shutil.copytree(measured[0].parent, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "a.json"
    command = [*map(str, data), *TINY, *GRID, "--json", str(path), "--resume"]
    select, made = bench.cells.select, []
    monkeypatch.setattr(bench.cells, "select", lambda s, *rest: made.append(type(s).__name__) or select(s, *rest))
    before = json.loads(path.read_text())
    assert bench.main.main(command) == 0 and made == []
    after = json.loads(path.read_text())
    assert {**after, "environment": 0} == {**before, "environment": 0}

    bench.main.main([*command, "--dry-run", "--again", "random"])
    assert "32 cells, 16 to measure: random, greedy" in capsys.readouterr().out
    next((tmp_path / "a.json.resamples").iterdir()).unlink()  # a cell whose resampled values are gone is measured again
    assert bench.main.main(command) == 0
    assert len(set(made)) == 1 and len(made) == 2  # warming up, and the cell
    with pytest.raises(SystemExit, match="other options: sigma"):
        bench.main.main([*command, "--sigma", "2"])
    # A further contamination needs its reference from the clean cells: these are measured again, the others not.
    bench.main.main([*command, "--dry-run", "--contamination", "0", "0.1", "0.2"])
    assert "48 cells, 32 to measure" in capsys.readouterr().out


class Elfs(Sampler):
    """Takes what ELFSCoresetSampler takes."""

    given: list = []

    def __init__(self, percentage, device=None, *, seed=0, prune_support=True):
        super().__init__()
        self.inner = RandomSampler(percentage, seed)
        self.report_ = {"support": prune_support}

    def select(self, features, image_ids=None, views=None, positions=None):
        self.given.append((len(features), None if positions is None else tuple(positions[-1].tolist())))
        if len(features) > 2000 and not self.report_["support"]:
            raise ValueError("no support here")
        self.indices_ = self.inner.select(features)
        return self.indices_

    def _select(self, features):
        raise AssertionError("select does it")


@pytest.fixture
def elfs(monkeypatch, bench):
    module = types.ModuleType("patchcore_fast.samplers.elfs")
    module.ELFSCoresetSampler = Elfs
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Elfs, "given", [])
    monkeypatch.delitem(bench.samplers.TABLE, "two-level")
    options = {"elfs": {}, "elfs without support": {"prune_support": False}}
    for name in [n for n in bench.samplers.TABLE if n.startswith("elfs") and n not in options]:
        monkeypatch.delitem(bench.samplers.TABLE, name)


def test_positions_ablations_and_failures(bench, data, elfs, tmp_path, capsys):
    out = tmp_path / "e.json"
    status = bench.main.main([str(data[0]), *TINY, "--quick", "--ablations", "--bare", "--json", str(out),
                              "--plot", str(tmp_path / "p")])  # fmt: skip
    assert status == 1  # the ablation fails
    given = {g for g in Elfs.given if g[0] >= 2048}
    assert given == {(2048, (31, 7, 7)), (2048, None), (2240, (34, 7, 7)), (2240, None)}
    result = json.loads(out.read_text())
    kinds = {name: s["kind"] for name, s in result["samplers"].items()}
    assert kinds == {"random": "main", "greedy": "main", "elfs": "main", "elfs bare": "main",
                     "elfs without support": "ablation", "elfs without support bare": "ablation"}  # fmt: skip
    failed = [c for c in result["cells"] if c["status"] == "failed"]
    assert len(failed) == 4 and all(c["message"] == "ValueError: no support here" for c in failed)
    assert "FAILED: brick elfs without support: ValueError: no support here" in capsys.readouterr().err
    assert next(c for c in result["cells"] if c["sampler"] == "elfs")["report"] == {"support": True}
    same = {
        c["sampler"]: c["metrics"] for c in result["cells"] if c["share"] == 0 and c["sampler"] in ("random", "elfs")
    }
    assert same["random"] == same["elfs"]  # as this one is random inside
    assert "4 that FAILED" in "\n".join(bench.page.as_markdown(result, "box", "e", "benchmarks"))


def test_ablation_figure_and_table(bench, data, elfs, monkeypatch, tmp_path):
    monkeypatch.setitem(bench.samplers.TABLE, "elfs without support",
                        bench.samplers.Entry(lambda r, s, d: RandomSampler(r, s + 9), "about", "ablation"))  # fmt: skip
    out = tmp_path / "e.json"
    assert (
        bench.main.main([str(data[0]), *TINY, "--quick", "--ablations", "--json", str(out), "--plot", str(tmp_path)])
        == 0
    )
    assert (tmp_path / "accuracy-lite0-ablation.png").read_bytes()[:4] == b"\x89PNG"
    text = "\n".join(bench.page.as_markdown(json.loads(out.read_text()), "box", "e", "benchmarks"))
    assert "**Ablation**" in text
    ablation = text.partition("**Ablation**")[2].partition("<details>")[0]
    assert ablation.count("| elfs without support |") == ablation.count("| elfs |") == 2  # clean and contaminated
    assert "![box-e-lite0-ablation](benchmarks/box-e-lite0-ablation.png)" in text


def test_samplers_are_checked_first(bench, elfs, monkeypatch):
    bench.samplers.check(["random", "elfs"])
    with pytest.raises(SystemExit, match="nonsense unknown; there are random, greedy, elfs"):
        bench.samplers.check(["nonsense"])
    monkeypatch.setitem(bench.samplers.TABLE, "elfs", bench.samplers.Entry(bench.samplers._elfs({"no_such": 1}), ""))
    with pytest.raises(SystemExit, match=r"elfs cannot be made: .*no_such"):
        bench.samplers.check(["elfs"])


def test_memory_is_what_a_selection_takes(bench):
    class Hungry(RandomSampler):
        def _select(self, features):
            held = np.ones(200 << 17)  # 200 MB
            return super()._select(features) + int(held[0] - 1)

    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the kernel's high-water mark cannot be set back here")
    features, cpu = torch.randn(1000, 8), torch.device("cpu")
    positions = torch.zeros(1000, 3, dtype=torch.int32)
    for _ in range(2):  # what was freed before does not hide what is taken now
        chosen = bench.cells.select(Hungry(0.1), features, positions, cpu)
        assert 195 <= chosen.extra_bytes / 2**20 < 230 and len(chosen.rows) == 100
        assert bench.cells.select(RandomSampler(0.1), features, positions, cpu).extra_bytes < 20 << 20


def test_wrong_options(bench, data):
    for options, message in (
        (["--banks", "1"], "--banks: shares"),
        (["--contamination", "-0.1"], "--contamination: shares"),
        (["--resume"], "need --json"),
        (["--resamples", "3"], "--resamples >= 20"),
    ):
        with pytest.raises(SystemExit, match=message):
            bench.main.main([str(data[0]), "--samplers", "random", *options])
    with pytest.raises(SystemExit, match="layout"):
        bench.main.main([str(data[0] / "train"), "--samplers", "random"])
    with pytest.raises(SystemExit, match="no such folder"):
        bench.main.main([str(data[0] / "nowhere"), "--samplers", "random"])
    with pytest.raises(SystemExit, match="different names"):
        bench.main.main([str(data[0]), str(data[0]), "--samplers", "random"])


def test_page(bench, measured, tmp_path, monkeypatch):
    """render.py: the part between the marks and the figures, and nothing else; --check sees what is stale."""
    results = tmp_path / "results" / "box"
    results.mkdir(parents=True)
    shutil.copy(measured[0], results / "accuracy.json")
    committed = next((BENCHMARKS / "results").glob("*/kcenter.json"))
    shutil.copy(committed, results / "kcenter.json")  # the README's table needs one
    (tmp_path / "README.md").write_text("<!-- benchmark:begin -->\n<!-- benchmark:end -->\n")
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "accuracy.md"
    page.write_text("by hand\n<!-- accuracy:begin -->\nold\n<!-- accuracy:end -->\nby hand, too\n")

    def render(*options: str) -> None:
        place = ["--results", str(tmp_path / "results"), "--root", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["render.py", *place, *options])
        importlib.import_module("render").main()

    with pytest.raises(SystemExit, match=r"docs/accuracy\.md"):
        render("--check")
    render()
    text = page.read_text()
    assert text.startswith("by hand\n<!-- accuracy:begin -->\n") and text.endswith(
        "<!-- accuracy:end -->\nby hand, too\n"
    )
    result = measured[1]
    mean = next(r for r in result["means"] if r["set"] is None and r["sampler"] == "random" and r["share"] == 0.1)
    assert f"{mean['metrics']['aupro'][3]:+.3f} [{mean['metrics']['aupro'][4]:+.3f}, " in text
    assert (
        "| brick | 32 | 12 / 20 | 20 | 3 |" in text
        and "accuracy.json" not in (tmp_path / "docs/benchmarks.md").read_text()
    )
    for what in ("tradeoff", "contamination"):
        assert f"(benchmarks/box-accuracy-lite0-{what}.png)" in text
        assert (tmp_path / "docs" / "benchmarks" / f"box-accuracy-lite0-{what}.png").exists()
    render("--check")  # from its own output the page comes out the same
    page.write_text(text.replace("| brick |", "| bricks |"))
    with pytest.raises(SystemExit, match=r"stale.*docs/accuracy.md"):
        render("--check")
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="<!-- accuracy:begin -->"):
        render("--check")
