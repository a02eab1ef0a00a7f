"""The benchmark scripts end to end on tiny problems; no test looks at a time's value."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from patchcore_fast.kernels import k_center_greedy
from patchcore_fast.kernels.kcenter.trace import greedy_shortfall

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="installed without benchmarks/")

PLUGIN = """
import os, signal
import numpy as np
from providers import Provider

class Wrong:
    def __init__(self, arrays, device, seed):
        self.arrays = arrays
    def answer(self, k):
        if "bank" in self.arrays:
            return {"rows": np.tile(np.arange(k), (len(self.arrays["queries"]), 1))}
        return {"indices": np.arange(k)}

class Hungry(Wrong):
    def answer(self, k):
        if len(self.arrays["features"]) > 2000:  # not while it is warmed up
            self.held = np.ones(1 << 28)
        return super().answer(k)

class Dying(Wrong):
    def answer(self, k):
        if len(self.arrays["features"]) > 2000:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().answer(k)

KNN = {"wrong": Provider("wrong", "wrong", "the first rows", Wrong)}
KCENTER = {
    "wrong": Provider("wrong", "wrong", "the first rows", Wrong),
    "hungry": Provider("hungry", "hungry", "takes 2 GB", Hungry),
    "dying": Provider("dying", "dying", "ends its process", Dying),
}
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "plugin.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts' own modules can be imported."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def script(name: str, *options: str | Path, ok: bool = True) -> str:
    command = [sys.executable, str(BENCHMARKS / name), *map(str, options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def rows(path: Path, problem: int = 0) -> dict[str, dict]:
    return {row["provider"]: row for row in json.loads(path.read_text())["problems"][problem]["rows"]}


def test_kcenter(tmp_path: Path, plugin: Path) -> None:
    out, plot = tmp_path / "kcenter.json", tmp_path / "kcenter.png"
    names = ["patchcore_fast torch", "gemv loop", "amazon", "anomalib", "wrong", "dying"]
    text = script("kcenter.py", "--case", "clustered", "--n", 1500, 3000, "--d", 16, "--ratio", 0.02, 0.04,
                  "--repeat", 2, "--providers", *names, "--plugin", plugin, "--json", out, "--plot", plot)  # fmt: skip
    result = json.loads(out.read_text())
    assert [(p["n"], p["k"]) for p in result["problems"]] == [(1500, 30), (3000, 60), (3000, 120)]
    for problem in range(3):
        found = rows(out, problem)
        for name in names[:4]:
            row = found[name]
            assert row["status"] == "ok" and row["error"] <= 1e-5 and row["min_s"] <= row["median_s"] <= row["max_s"]
            assert row["leading"] == row["k_timed"] or name != names[0]
        assert found[names[0]]["extrapolated_from"] is None and found[names[0]]["facts"]["passes"] >= 1
        assert (
            found["wrong"]["status"] == "wrong" and found["wrong"]["error"] > 0.01 and "median_s" not in found["wrong"]
        )
    assert "not greedy" in text and rows(out, 0)["dying"]["status"] == "wrong"
    died = rows(out, 1)["dying"]
    assert died["status"] == "failed" and "SIGSEGV" in died["message"] and "median_s" not in died
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_a_limit_extrapolates_sequential_providers_only(tmp_path: Path) -> None:
    out = tmp_path / "limit.json"
    text = script("kcenter.py", "--case", "gaussian", "--n", 20_000, "--d", 16, "--k", 4000, "--repeat", 1,
                  "--limit-s", 0.02, "--check-picks", 100, "--providers", "patchcore_fast torch", "gemv loop",
                  "--json", out)  # fmt: skip
    loop, ours = rows(out)["gemv loop"], rows(out)["patchcore_fast torch"]
    assert loop["status"] == "ok" and loop["extrapolated_from"] == loop["k_timed"] < 4000
    assert ours["extrapolated_from"] is None and ours["k_timed"] == 4000
    assert f"gemv loop from {loop['k_timed']:,} picks" in text


def test_memory_limit(tmp_path: Path, plugin: Path) -> None:
    out = tmp_path / "memory.json"
    text = script("kcenter.py", "--case", "gaussian", "--n", 3000, "--d", 8, "--k", 10, "--repeat", 1,
                  "--memory-gb", 1.5, "--providers", "hungry", "gemv loop", "--plugin", plugin,
                  "--json", out)  # fmt: skip
    hungry = rows(out)["hungry"]
    assert hungry["status"] == "failed" and "needs more than 1.5 GB" in hungry["message"] and "median_s" not in hungry
    assert 1.5 * 2**30 < hungry["peak_bytes"] < 2.6 * 2**30
    assert rows(out)["gemv loop"]["status"] == "ok" and "needs more than" in text


def test_knn(tmp_path: Path, plugin: Path) -> None:
    out, plot = tmp_path / "knn.json", tmp_path / "knn.png"
    text = script("knn.py", "--case", "gaussian", "--n", 3000, "--queries", 40, "--d", 16, "--k", 1, 3, "--repeat", 2,
                  "--without", "KeOps", "--plugin", plugin, "--json", out, "--plot", plot)  # fmt: skip
    for problem in range(2):
        found = rows(out, problem)
        for name in ("patchcore_fast torch", "faiss", "scikit-learn", "torch chunks", "torch whole"):
            assert found[name]["status"] == "ok" and found[name]["error"] <= 1e-5, found[name]
        assert found["wrong"]["status"] == "wrong" and "median_s" not in found["wrong"]
    assert "not the nearest" in text and plot.read_bytes()[:4] == b"\x89PNG"


def test_list_and_bad_options() -> None:
    text = script("kcenter.py", "--list")
    assert "bottle-1024" in text and "patchcore_fast torch" in text and "gemv loop" in text
    assert "--case: nonsense unknown" in script("kcenter.py", "--case", "nonsense", ok=False)
    assert "--ratio: in (0, 1]" in script("kcenter.py", "--ratio", 2, ok=False)


def test_render(tmp_path: Path) -> None:
    results, readme = tmp_path / "results" / "box", tmp_path / "README.md"
    script("kcenter.py", "--case", "gaussian", "--n", 1500, "--d", 8, "--k", 20, 40, "--repeat", 1, "--providers",
           "patchcore_fast torch", "gemv loop", "--json", results / "kcenter.json")  # fmt: skip
    readme.write_text("before\n<!-- benchmark:begin -->\nold\n<!-- benchmark:end -->\nafter\n")
    place = ["--results", tmp_path / "results", "--root", tmp_path]
    assert "stale" in script("render.py", *place, "--check", ok=False)
    script("render.py", *place)
    script("render.py", *place, "--check")
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "gaussian: 40 picks of 1,500 x 8" in page and (tmp_path / "docs/benchmarks/box-kcenter.png").exists()
    text = readme.read_text()
    assert (
        text.startswith("before\n") and text.endswith("after\n") and "old" not in text and "| 40 of 1,500 x 8" in text
    )
    readme.write_text(text.replace("passes", "steps"))
    assert "README.md" in script("render.py", *place, "--check", ok=False)


def test_committed_pages_are_what_the_results_give() -> None:
    script("render.py", "--check")


def test_trace_agrees_with_the_other_checker(modules: None) -> None:
    from check import Trace

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(700, 9, generator=generator)
    picks = k_center_greedy(x, 300, start=5).indices
    trace = Trace(x)
    trace.rows = 100  # several blocks of rows
    wrong = picks.clone()
    wrong[200] = next(i for i in range(700) if i not in picks)
    for sequence in (picks, wrong, picks[:150], torch.arange(40)):
        assert trace.shortfall(sequence) == pytest.approx(greedy_shortfall(x, sequence), abs=1e-9)
        assert trace.shortfall(sequence) == Trace(x).shortfall(sequence)
    assert trace.shortfall(picks) < 1e-9 < 1e-3 < trace.shortfall(wrong)
    assert trace.shortfall([0, 1, 1]) > 0.99  # a row twice
    with pytest.raises(ValueError, match=r"row numbers in 0\.\.699"):
        trace.shortfall([700])


def test_trace_with_initial_distances(modules: None) -> None:
    from check import Trace

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 5, generator=generator)
    initial = torch.rand(400, generator=generator) + 0.5
    picks = k_center_greedy(x, 60, initial_min_dist=initial).indices
    assert Trace(x, initial).shortfall(picks) < 1e-9
    assert Trace(x).shortfall(picks) > 1e-3  # by plain distances they are not greedy
    assert Trace(x, initial).shortfall(picks.flip(0)) > 1e-3


def test_trace_where_all_rows_are_taken_up(modules: None) -> None:
    from check import Trace

    x = torch.randn(4, 6).repeat(10, 1)
    assert Trace(x).shortfall(k_center_greedy(x, 12).indices) <= 1e-5


def test_neighbour_error(modules: None) -> None:
    from check import neighbour_error

    random = np.random.default_rng(0)
    bank, query = (
        random.standard_normal((300, 4)).astype(np.float32),
        random.standard_normal((20, 4)).astype(np.float32),
    )
    true = ((query[:, None].astype(float) - bank) ** 2).sum(2).argsort(1)
    assert neighbour_error(query, bank, true[:, :3]) == 0.0
    assert neighbour_error(query, bank, true[:, 1:4]) > 1e-3
    assert neighbour_error(query, bank, true[:, [0, 0, 1]]) == np.inf
    with pytest.raises(ValueError, match=r"rows in 0\.\.299"):
        neighbour_error(query, bank, np.full((20, 1), 300))


def test_labels_are_moved_apart(modules: None) -> None:
    from plots import apart

    assert apart([0.0, 5.0], 1.0) == [0.0, 5.0]
    placed = apart([0.0, 1.0, 1.1, 1.2, 9.0], 1.0)
    assert placed == sorted(placed) and min(np.diff(placed)) >= 1 - 1e-9 and placed[-1] == 9.0
