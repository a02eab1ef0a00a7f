"""The benchmarks of the native engine and of rarity, end to end on tiny problems; no test looks at a time's value."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcore_fast.kernels.backends.native_library import native, native_refusal

from .test_benchmarks import BENCHMARKS, rows, script

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="installed without benchmarks/")
needs_native = pytest.mark.skipif(native_refusal() is not None, reason=f"no native engine: {native_refusal()}")

PLUGIN = """
import numpy as np
from providers import Provider

class Wrong:
    def __init__(self, arrays, device, seed):
        self.n = len(arrays["features"])
    def answer(self, k):
        return {"rarity": np.ones(self.n)}

RARITY = {"wrong": Provider("wrong", "wrong", "ones", Wrong)}
"""


def here() -> list[str]:
    return [isa for isa, refusal in native().explain_isa() if not refusal]


def test_rarity(tmp_path: Path) -> None:
    out, plot, plugin = tmp_path / "rarity.json", tmp_path / "rarity.png", tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    text = script("rarity.py", "--case", "gaussian", "--n", 3000, "--d", 12, "--k", 3, 5, "--repeat", 1, "--plugin",
                  plugin, "--json", out, "--plot", plot)  # fmt: skip
    for problem in range(2):
        found = rows(out, problem)
        assert found["patchcore_fast"]["error"] <= 1e-6 and found["patchcore_fast torch"]["error"] <= 1e-6
        for name in ("patchcore_fast", "patchcore_fast torch", "scikit-learn", "torch chunks"):
            assert found[name]["status"] == "ok" and found[name]["error"] <= 1e-3, found[name]
        assert found["wrong"]["status"] == "wrong" and "median_s" not in found["wrong"]
    assert "gaussian: 5 nearest of 1,024 anchors for 3,000 x 12" in text and plot.read_bytes()[:4] == b"\x89PNG"


@needs_native
def test_instruction_sets_are_held_and_compared_with_what_auto_takes(tmp_path: Path) -> None:
    out = tmp_path / "kcenter.json"
    script("kcenter.py", "--case", "clustered", "--n", 1500, "--d", 16, "--k", 30, "--repeat", 1, "--isa", "all",
           "--providers", "patchcore_fast", "torch", "native-portable x1", "native-portable unpruned",
           "--json", out)  # fmt: skip
    found = rows(out)
    forced = {f"patchcore_fast native-{isa}" for isa in here()}
    more = {"patchcore_fast native-portable x1", "patchcore_fast native-portable unpruned", "patchcore_fast torch"}
    assert found.keys() == forced | more | {"patchcore_fast"}
    for name, row in found.items():
        assert row["status"] == "ok" and row["leading"] == 30, row
        assert (row["family"] == "ours") == (name == "patchcore_fast")
    assert found["patchcore_fast"]["facts"]["backend"].startswith("native: ")


def test_an_instruction_set_that_is_none() -> None:
    assert "--isa: sse9 unknown" in script("kcenter.py", "--isa", "sse9", ok=False)


@needs_native
def test_native(tmp_path: Path) -> None:
    out, plot = tmp_path / "results" / "box" / "native.json", tmp_path / "native.png"
    isa = here()[-1]
    text = script("native.py", "--quick", "--isa", isa, "--repeat", 1, "--check-picks", 100, "--json", out,
                  "--plot", plot)  # fmt: skip
    result = json.loads(out.read_text())
    told = result["machine"]
    assert [k["isa"] for k in told["kernels"]] == here() and plot.read_bytes()[:4] == b"\x89PNG"
    tiles = {(t["isa"], t["depth"], t["set"]) for t in told["tiles"]}
    assert {(i, d, s) for i in here() for d in (128, 256, 512, 1024) for s in ("L2", "L3")} <= tiles
    for kind in ("peaks", "bandwidth", "tiles", "rows"):
        assert all(0 < m["median"] < 1e7 and 0 < m["best"] < 1e7 for m in told[kind])
    assert [(p["k"], p.get("queries")) for p in result["problems"]] == [(600, None), (9, 4000)]
    assert all(row["status"] == "ok" for p in result["problems"] for row in p["rows"])
    assert "| clustered: 600 picks of 6,000 x 128 | " + isa in text

    (tmp_path / "docs").mkdir()
    marks = "before\n<!-- benchmark:begin -->\nold\n<!-- benchmark:end -->\nafter\n"
    for page in ("README.md", "docs/native.md"):
        (tmp_path / page).write_text(marks)
    script("kcenter.py", "--case", "gaussian", "--n", 1500, "--d", 8, "--k", 20, "--repeat", 1, "--providers",
           "patchcore_fast", "gemv loop", "--json", out.parent / "kcenter.json")  # fmt: skip
    place = ["--results", tmp_path / "results", "--root", tmp_path]
    assert "docs/native.md" in script("render.py", *place, "--check", ok=False)
    script("render.py", *place)
    script("render.py", *place, "--check")
    page = (tmp_path / "docs" / "native.md").read_text()
    assert page.startswith("before\n") and page.endswith("after\n") and "old" not in page
    assert "(benchmarks/box-native.png)" in page and "600 picks of 6,000 x 128 | " + isa in page
    assert (tmp_path / "docs" / "benchmarks" / "box-native.png").exists()


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def result_of_two_isas() -> dict[str, Any]:
    def row(isa: str, suffix: str, seconds: float) -> dict[str, Any]:
        facts = {"passes": 2, "share_of_distances": 0.5}
        return {"provider": f"patchcore_fast native-{isa}{suffix}", "family": f"ours native-{isa}{suffix}",
                "status": "ok", "message": "", "median_s": seconds, "facts": facts}  # fmt: skip

    kcenter = {"case": "a", "n": 1000, "d": 50, "k": 100}
    kcenter["rows"] = [row("avx2", "", 0.5), row("avx2", " x1", 0.9), row("avx2", " unpruned", 0.001)]
    knn = {"case": "b", "n": 1000, "d": 50, "k": 1, "queries": 100, "rows": [row("avx2", "", 0.002)]}
    machine = {
        "rounds": 1,
        "kernels": [{"isa": "avx2", "lanes": 16, "points": 6}],
        "peaks": [{"isa": "avx2", "instruction": "fma", "threads": t, "median": 5 * t, "best": 5 * t} for t in (1, 2)],
        "bandwidth": [{"level": "L1", "bytes": 4096, "threads": t, "median": 9.0, "best": 9.0} for t in (1, 2)],
        "tiles": [{"isa": "avx2", "depth": 128, "set": "L1", "intensity": 2.0, "threads": t, "median": 4.0, "best": 4.0}
                  for t in (1, 2)],
        "rows": [{"isa": "avx2", "depth": 128, "what": "canonical", "threads": 1, "median": 7.0, "best": 7.0}],
    }  # fmt: skip
    place = {"threads": 2, "device": "a machine"}
    return {"options": {"repeat": 1, "isas": ["avx2"]}, "environment": place, "machine": machine,
            "problems": [kcenter, knn]}  # fmt: skip


def test_tables_and_rates(modules: None, tmp_path: Path) -> None:
    import roofline

    result = result_of_two_isas()
    text = "\n".join(roofline.tables(result))
    # 2 * 50 * 0.5 * 1000 * 100 operations in a millisecond are 5 GFLOP/s, half of the peak of two threads.
    assert "| a: 100 picks of 1,000 x 50 | avx2 | 500 ms | 900 ms | 1.80 x | 1.00 ms | 5 | 50 % |" in text
    assert "| b: 1 nearest of 1,000 x 50 for 100 queries | avx2 | 2.00 ms |  |  |  | 5 | 50 % |" in text
    assert "| avx2, 16 x 6 | L1 | 4 (80 %) |" in text and "4 KB a thread" in text
    roofline.plot(result, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG" and roofline.drawable(result)
    failed = copy.deepcopy(result)
    failed["machine"] = {"message": "no compiler"}
    text = "\n".join(roofline.tables(failed))
    assert "The machine was not measured: no compiler." in text and "500 ms" in text and "50 %" not in text
    assert not roofline.drawable(failed)


def test_without_a_compiler_the_reason_is_kept(modules: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import native as benchmark

    monkeypatch.setattr(benchmark.shutil, "which", lambda *a, **k: None)
    assert benchmark.machine(1, 1.0) == {"message": "cmake is not there"}


def test_a_small_bank_is_taken_at_equal_steps(modules: None, tmp_path: Path) -> None:
    import knn

    np.save(tmp_path / "x.npy", np.arange(30, dtype=np.float32)[:, None])
    files = knn.split(tmp_path / "x.npy", 3, tmp_path)
    assert np.load(files["bank"]).ravel().tolist() == [0, 10, 20] and len(np.load(files["queries"])) == 27
    files = knn.split(tmp_path / "x.npy", 25, tmp_path)
    assert np.load(files["bank"]).ravel().tolist() == list(range(25))
