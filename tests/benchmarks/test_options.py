"""The command line that the scripts share, and the features that it asks for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import options
from benchmarks.harness.cases import CASES
from benchmarks.speed import kcenter


def test_list_and_bad_options(run: Callable[..., str]) -> None:
    text = run(kcenter, "--list")
    assert "bottle-1024" in text and "patchcore_fast torch" in text and "gemv loop" in text
    wrong = {"--case nonsense": "--case: nonsense unknown", "--ratio 2": r"--ratio: in \(0, 1\]",
             "--isa sse9": "--isa: sse9 unknown", "--plugin x.txt": "x.txt is no Python file"}  # fmt: skip
    for asked, message in wrong.items():
        with pytest.raises(SystemExit, match=message):
            run(kcenter, *asked.split())


def test_photographs_are_never_replaced_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(options, "without_pipeline", lambda: "timm is missing (extra demo)")
    args = argparse.Namespace(features=None, images=None, d=None, seed=0, dtype="float16")
    case, path = options.features(args, "bottle-1024", 900, tmp_path)
    assert (case.name, case.n, case.d) == ("low-rank", 900, 1024)
    assert "in place of bottle-1024, since timm is missing" in case.about and "stored as float16" in case.about
    stored = np.load(path)
    assert stored.shape == (900, 1024) and stored.dtype == np.float16
    assert "the case low-rank takes its place" in capsys.readouterr().err


def test_low_rank_is_of_low_rank_and_fewer_rows_begin_alike() -> None:
    x, y = (np.concatenate(list(CASES["low-rank"].parts(n, 64, 3))) for n in (3000, 2000))
    assert x.shape == (3000, 64) and x.dtype == np.float32
    np.testing.assert_allclose(x[:2000], y, atol=1e-5)  # the same draws; products of other sizes round otherwise
    spread = np.linalg.svd(x - x.mean(0), compute_uv=False)
    assert spread[16] < 0.1 * spread[15] and spread[63] > 0
