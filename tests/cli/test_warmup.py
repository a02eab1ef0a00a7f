"""warmup: what it refuses and how it reads; what it calls and times is in tests/autotune."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from patchcore_fast.cli import main, parser
from patchcore_fast.cli.warmup import render
from patchcore_fast.kernels import tuning


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["warmup"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == "patchcore-fast: error: nothing to warm up on cuda: torch finds no CUDA device\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dim", "0"], "--dim must be at least 1, got 0"),
        (["--device", "mps"], "nothing to warm up on mps: Triton kernels run on CUDA devices, not on mps"),
    ],
)
def test_what_cannot_be_done(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["warmup", *arguments]) == 2
    assert capsys.readouterr().err == f"patchcore-fast: error: {message}\n"


def test_every_precision_can_be_asked_for() -> None:
    assert parser.PRECISIONS == tuning.PRECISIONS


def test_text_names_kernels_and_calls() -> None:
    call = {"call": "knn", "first": 1.5, "again": 0.002, "kernels": {}}
    text = render({"kernels": {"search.search_kernel": 1.2}, "calls": [call], "seconds": 1.5, "tiles_tuned": 2,
                   "cache_file": "/c/triton.json"})  # fmt: skip
    assert "  search.search_kernel    1.20 s" in text and "1.50 s      2.00 ms  knn" in text
    assert "Tiles tuned: 2, kept in /c/triton.json" in text and text.endswith("First calls took 1.5 s in all.")
