"""speed/knn.py and speed/rarity.py end to end on tiny problems; no test looks at a time's value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.speed import knn, rarity

from .conftest import rows


def test_knn(tmp_path: Path, plugin: Path, run: Callable[..., str]) -> None:
    out, plot = tmp_path / "knn.json", tmp_path / "knn.png"
    text = run(knn, "--case", "gaussian", "--n", 3000, "--queries", 40, "--d", 16, "--k", 1, 3, "--repeat", 2,
                  "--without", "KeOps", "--plugin", plugin, "--json", out, "--plot", plot)  # fmt: skip
    for problem in range(2):
        found = rows(out, problem)
        for name in ("patchcore_fast torch", "faiss", "scikit-learn", "torch chunks", "torch whole"):
            assert found[name]["status"] == "ok" and found[name]["error"] <= 1e-5, found[name]
        assert found["wrong"]["status"] == "wrong" and "median_s" not in found["wrong"]
    assert "not the nearest" in text and plot.read_bytes()[:4] == b"\x89PNG"


def test_rarity(tmp_path: Path, plugin: Path, run: Callable[..., str]) -> None:
    out, plot = tmp_path / "rarity.json", tmp_path / "rarity.png"
    text = run(rarity, "--case", "gaussian", "--n", 3000, "--d", 12, "--k", 3, 5, "--repeat", 1, "--plugin",
                  plugin, "--json", out, "--plot", plot)  # fmt: skip
    for problem in range(2):
        found = rows(out, problem)
        assert found["patchcore_fast"]["error"] <= 1e-6 and found["patchcore_fast torch"]["error"] <= 1e-6
        for name in ("patchcore_fast", "patchcore_fast torch", "scikit-learn", "torch chunks"):
            assert found[name]["status"] == "ok" and found[name]["error"] <= 1e-3, found[name]
        assert found["wrong"]["status"] == "wrong" and "median_s" not in found["wrong"]
    assert "gaussian: 5 nearest of 1,024 anchors for 3,000 x 12" in text and plot.read_bytes()[:4] == b"\x89PNG"


def test_a_small_bank_is_taken_at_equal_steps(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(30, dtype=np.float32)[:, None])
    files = knn.split(tmp_path / "x.npy", 3, tmp_path)
    assert np.load(files["bank"]).ravel().tolist() == [0, 10, 20] and len(np.load(files["queries"])) == 27
    files = knn.split(tmp_path / "x.npy", 25, tmp_path)
    assert np.load(files["bank"]).ravel().tolist() == list(range(25))
