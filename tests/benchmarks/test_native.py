"""speed/native.py, and pages/roofline.py that draws it; no test looks at a time's value."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.providers.own import isas_here
from benchmarks.pages import render, roofline
from benchmarks.speed import native
from patchcore_fast.kernels.backends.native_library import native_refusal

needs_native = pytest.mark.skipif(native_refusal() is not None, reason=f"no native engine: {native_refusal()}")


@needs_native
@pytest.mark.thorough  # compiles all of the engine, optimised
def test_the_machine_is_measured() -> None:
    told = native.machine(1, 2)
    assert [k["isa"] for k in told["kernels"]] == isas_here()
    tiles = {(t["isa"], t["depth"], t["set"]) for t in told["tiles"]}
    assert {(i, d, s) for i in isas_here() for d in (128, 256, 512, 1024) for s in ("L2", "L3")} <= tiles
    for kind in ("peaks", "bandwidth", "tiles", "rows"):
        assert all(0 < m["median"] < 1e7 and 0 < m["best"] < 1e7 for m in told[kind])


@needs_native
def test_runs_and_page(
    tmp_path: Path, small_kcenter: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., str]
) -> None:
    out, plot = tmp_path / "results" / "box" / "native.json", tmp_path / "native.png"
    isa = isas_here()[-1]
    made_up = json.loads(json.dumps(result_of_two_isas()["machine"]).replace("avx2", isa))
    monkeypatch.setattr(native, "machine", lambda rounds, milliseconds: made_up)
    text = run(native, "--quick", "--isa", isa, "--repeat", 1, "--check-picks", 100, "--json", out,
                  "--plot", plot)  # fmt: skip
    result = json.loads(out.read_text())
    assert result["machine"] == made_up and plot.read_bytes()[:4] == b"\x89PNG"
    assert [(p["k"], p.get("queries")) for p in result["problems"]] == [(600, None), (9, 4000)]
    assert all(row["status"] == "ok" for p in result["problems"] for row in p["rows"])
    assert "| clustered: 600 picks of 6,000 x 128 | " + isa in text

    (tmp_path / "docs").mkdir()
    marks = "before\n<!-- benchmark:begin -->\nold\n<!-- benchmark:end -->\nafter\n"
    for page in ("README.md", "docs/native.md"):
        (tmp_path / page).write_text(marks)
    shutil.copy(small_kcenter, out.parent)
    place = ["--results", tmp_path / "results", "--root", tmp_path]
    with pytest.raises(SystemExit, match=r"docs/native\.md"):
        run(render, *place, "--check")
    run(render, *place)
    run(render, *place, "--check")
    page = (tmp_path / "docs" / "native.md").read_text()
    assert page.startswith("before\n") and page.endswith("after\n") and "old" not in page
    assert "(benchmarks/box-native.png)" in page and "600 picks of 6,000 x 128 | " + isa in page
    assert (tmp_path / "docs" / "benchmarks" / "box-native.png").exists()


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


def test_tables_and_rates(tmp_path: Path) -> None:
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


def test_without_a_compiler_the_reason_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.shutil, "which", lambda *a, **k: None)
    assert native.machine(1, 1.0) == {"message": "cmake is not there"}
