"""accuracy/grid.py on the demo's textures with a random network: the machinery, not the accuracy."""

from __future__ import annotations

import json
import shutil
import sys
import types

import numpy as np
import pytest

pytest.importorskip("timm", reason="the extra pipeline is not installed")

from benchmarks import ROOT
from benchmarks.accuracy import cells, grid, samplers
from benchmarks.pages import accuracy as page
from benchmarks.pages import accuracy_plots, render
from patchcore_fast.samplers import RandomSampler
from patchcore_fast.samplers.base import Sampler

TINY = ["--image-size", "64", "--map-size", "32", "--sigma", "1", "--weights", "random", "--resamples", "30"]
GRID = ["--samplers", "random", "greedy", "--seeds", "0", "1", "--banks", "0.01", "0.05", "--contamination", "0", "0.1"]


@pytest.fixture(scope="module")
def measured(textures, tmp_path_factory):
    """A whole run: (file, result)."""
    out = tmp_path_factory.mktemp("run") / "a.json"
    assert grid.main([*map(str, textures), *TINY, *GRID, "--json", str(out)]) == 0
    return out, json.loads(out.read_text())


def test_the_grid_is_measured(measured):
    _, result = measured
    cells = result["cells"]
    assert len(cells) == 2 * 2 * 2 * 2 * 2 and all(c["status"] == "ok" for c in cells)
    assert {c["set"] for c in cells} == {"brick", "grass"}
    assert {"commit", "torch", "device"} <= set(result["environment"])
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
    figures = {f"accuracy-lite0-{what}.png" for what in ("tradeoff", "contamination")}
    assert set(accuracy_plots.figures(result, "accuracy")) == figures


def test_means_are_means_of_paired_differences(measured):
    _, result = measured
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
    _, result = measured
    by = {(c["set"], c["seed"], c["share"], c["bank"], c["sampler"]): c for c in result["cells"]}
    rows = [(r["bank"], r["sampler"], r["sets"]) for r in result["regained"]]
    assert rows == [(0.01, "random", 2), (0.05, "random", 2)]
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


def test_sets_without_masks_or_too_few_images(textures, tmp_path, capsys):
    folder, out = tmp_path / "unmasked", tmp_path / "u.json"
    shutil.copytree(textures[0], folder, ignore=shutil.ignore_patterns("ground_truth"))
    more = "--samplers greedy random --seeds 0 --banks 0.02 --contamination 0 0.01 0.1"
    assert grid.main([str(folder), *TINY, *more.split(), "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["sets"][0]["masked"] == 0 and result["sets"][0]["moved"] == {"0": 0, "0.01": 0, "0.1": 3}
    assert {c["share"] for c in result["cells"]} == {0, 0.1}  # nothing would be moved at 1 %
    assert "too small for a contamination of 0.01" in capsys.readouterr().err
    for c in result["cells"]:
        assert c["metrics"]["pixel_ap"] == [None] * 3 and c["metrics"]["image_ap"][0] > 0
    text = "\n".join(page.as_markdown(result, "box", "u", "benchmarks"))
    assert "A set into which no image would be moved" in text and "weights are random" in text


def test_the_best_of_a_grid_is_of_its_set(tmp_path):
    options = {"w_repr": -1.0, "pool": "diversity"}
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
    text = f'[selection]\nsampler = "composite"\n[selection.sampler_options]\n{lines}\n'
    (tmp_path / "brick.toml").write_text(text)
    best = samplers.chosen(tmp_path, "brick")
    assert best == options
    made = samplers.make(samplers.BEST, 0.02, 3, "cpu", best)
    assert (made.w_repr, made.pool, made.percentage, made.seed) == (-1.0, "diversity", 0.02, 3)
    for name, wanted in (("grass", "is not there"), ("wood", "sampler 'greedy'")):
        (tmp_path / "wood.toml").write_text('[selection]\nsampler = "greedy"\n')
        with pytest.raises(SystemExit, match=wanted):
            samplers.chosen(tmp_path, name)
    with pytest.raises(SystemExit, match="--best goes with"):
        grid.main(["x", "--samplers", samplers.BEST])


def test_resume(textures, measured, tmp_path, monkeypatch, capsys):
    shutil.copytree(measured[0].parent, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "a.json"
    command = [*map(str, textures), *TINY, *GRID, "--json", str(path), "--resume"]
    select, made = cells.select, []
    monkeypatch.setattr(cells, "select", lambda s, *rest: made.append(type(s).__name__) or select(s, *rest))
    before = json.loads(path.read_text())
    assert grid.main(command) == 0 and made == []
    after = json.loads(path.read_text())
    assert {**after, "environment": 0} == {**before, "environment": 0}

    grid.main([*command, "--dry-run", "--again", "random"])
    assert "32 cells, 16 to measure: random, greedy" in capsys.readouterr().out
    next((tmp_path / "a.json.resamples").iterdir()).unlink()  # a cell whose resampled values are gone is measured again
    assert grid.main(command) == 0
    assert len(set(made)) == 1 and len(made) == 2  # warming up, and the cell
    with pytest.raises(SystemExit, match="other options: sigma"):
        grid.main([*command, "--sigma", "2"])
    # A further contamination needs its reference from the clean cells: these are measured again, the others not.
    grid.main([*command, "--dry-run", "--contamination", "0", "0.1", "0.2"])
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
def elfs(monkeypatch):
    module = types.ModuleType("patchcore_fast.samplers.elfs")
    module.ELFSCoresetSampler = Elfs
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Elfs, "given", [])
    monkeypatch.delitem(samplers.TABLE, "two-level")
    options = {"elfs": {}, "elfs without support": {"prune_support": False}}
    for name in [n for n in samplers.TABLE if n.startswith("elfs") and n not in options]:
        monkeypatch.delitem(samplers.TABLE, name)


def test_positions_ablations_and_failures(textures, elfs, tmp_path, capsys):
    out = tmp_path / "e.json"
    status = grid.main([str(textures[0]), *TINY, "--quick", "--ablations", "--bare", "--json", str(out),
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
    assert next(c for c in result["cells"] if c["sampler"] == "elfs")["report"] == {"support": "rule"}
    same = {c["sampler"]: c["metrics"] for c in result["cells"] if c["share"] == 0 and c["status"] == "ok"}
    assert same["random"] == same["elfs"]  # as this one is random inside
    assert "4 that FAILED" in "\n".join(page.as_markdown(result, "box", "e", "benchmarks"))


def test_ablation_figure_and_table(textures, elfs, monkeypatch, tmp_path):
    monkeypatch.setitem(samplers.TABLE, "elfs without support",
                        samplers.Entry(lambda r, s, d: RandomSampler(r, s + 9), "about", "ablation"))  # fmt: skip
    out = tmp_path / "e.json"
    asked = ["--quick", "--ablations", "--json", str(out), "--plot", str(tmp_path)]
    assert grid.main([str(textures[0]), *TINY, *asked]) == 0
    assert (tmp_path / "accuracy-lite0-ablation.png").read_bytes()[:4] == b"\x89PNG"
    text = "\n".join(page.as_markdown(json.loads(out.read_text()), "box", "e", "benchmarks"))
    assert "**Ablation**" in text
    ablation = text.partition("**Ablation**")[2].partition("<details>")[0]
    assert ablation.count("| elfs without support |") == ablation.count("| elfs |") == 2  # clean and contaminated
    assert "![box-e-lite0-ablation](benchmarks/box-e-lite0-ablation.png)" in text


def test_samplers_are_checked_first(elfs, monkeypatch):
    samplers.check(["random", "elfs"])
    with pytest.raises(SystemExit, match="nonsense unknown; there are random, greedy, elfs"):
        samplers.check(["nonsense"])
    monkeypatch.setitem(samplers.TABLE, "elfs", samplers.Entry(samplers._elfs({"no_such": 1}), ""))
    with pytest.raises(SystemExit, match=r"elfs cannot be made: .*no_such"):
        samplers.check(["elfs"])


def test_wrong_options(textures):
    brick = str(textures[0])
    wrong = {"--banks: shares": [brick, "--banks", "1"], "need --json": [brick, "--resume"],
             "--contamination: shares": [brick, "--contamination", "-0.1"],
             "--resamples >= 20": [brick, "--resamples", "3"], "layout": [f"{brick}/train"],
             "no such folder": [f"{brick}/nowhere"], "different names": [brick, brick]}  # fmt: skip
    for message, asked in wrong.items():
        with pytest.raises(SystemExit, match=message):
            grid.main([*asked, "--samplers", "random"])


def test_page(measured, tmp_path):
    """render.py: the part between the marks and the figures, and nothing else; --check sees what is stale."""
    results = tmp_path / "results" / "box"
    results.mkdir(parents=True)
    shutil.copy(measured[0], results / "accuracy.json")
    committed = next((ROOT / "benchmarks" / "results").glob("*/kcenter.json"))
    shutil.copy(committed, results / "kcenter.json")  # the README's table needs one
    (tmp_path / "README.md").write_text("<!-- benchmark:begin -->\n<!-- benchmark:end -->\n")
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "accuracy.md"
    page.write_text("by hand\n<!-- accuracy:begin -->\nold\n<!-- accuracy:end -->\nby hand, too\n")

    def rendered(*options: str) -> None:
        render.main(["--results", str(tmp_path / "results"), "--root", str(tmp_path), *options])

    with pytest.raises(SystemExit, match=r"docs/accuracy\.md"):
        rendered("--check")
    rendered()
    text = page.read_text()
    assert text.startswith("by hand\n<!-- accuracy:begin -->\n")
    assert text.endswith("<!-- accuracy:end -->\nby hand, too\n")
    result = measured[1]
    mean = next(r for r in result["means"] if r["set"] is None and r["sampler"] == "random" and r["share"] == 0.1)
    assert f"{mean['metrics']['aupro'][3]:+.3f} [{mean['metrics']['aupro'][4]:+.3f}, " in text
    assert "| brick | 32 | 12 / 20 | 20 | 3 |" in text
    assert "accuracy.json" not in (tmp_path / "docs/benchmarks.md").read_text()
    for what in ("tradeoff", "contamination"):
        assert f"(benchmarks/box-accuracy-lite0-{what}.png)" in text
        assert (tmp_path / "docs" / "benchmarks" / f"box-accuracy-lite0-{what}.png").exists()
    rendered("--check")  # from its own output the page comes out the same
    page.write_text(text.replace("| brick |", "| bricks |"))
    with pytest.raises(SystemExit, match=r"stale.*docs/accuracy.md"):
        rendered("--check")
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="<!-- accuracy:begin -->"):
        rendered("--check")
