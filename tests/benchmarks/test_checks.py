"""How the benchmarks judge what is not exact, what they run of ours, and what takes the place of photographs."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from patchcore_fast.kernels import k_center_greedy
from patchcore_fast.kernels.knn.reference import knn_reference

from .test_benchmarks import BENCHMARKS, rows, script

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="installed without benchmarks/")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def crowd(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d), np.float32)


def test_a_radius_is_judged() -> None:
    import kcenter
    from providers import Provider
    from runs import Row

    x = crowd(600, 4)
    exact = k_center_greedy(torch.from_numpy(x), 40, start=0).indices.numpy()
    provider = Provider("p", "reduced tf32", "", lambda *a: None, judged="radius", tolerance=0.01)
    other = exact.copy()
    other[[20, 21]] = other[[21, 20]]  # another order, the same radius
    twice = exact.copy()
    twice[-1] = twice[0]
    judge = kcenter.Judge(x, "cpu", None)
    found = {}
    for name, picks in {"exact": exact, "other": other, "twice": twice, "poor": np.arange(40)}.items():
        found[name] = row = Row("p", "reduced tf32", 40, k_timed=40)
        judge.judge(row, picks, None, provider)
        assert row.facts["judged"] == "covering radius"
    assert found["exact"].error == 0.0 and found["exact"].leading == 40
    assert found["other"].status == "ok" and found["other"].leading == 20 and found["other"].error < 1e-12
    assert found["poor"].status == "wrong" and found["poor"].error > 0.1 and "covering radius" in found["poor"].message
    assert found["twice"].status == "wrong" and found["twice"].error == float("inf")


def test_on_a_device_the_picks_are_those_of_the_cpu() -> None:
    """The arithmetic is that of the CPU here; only what is asked of the picks is the device's."""
    import kcenter
    from providers import Provider
    from runs import Row

    judge = kcenter.Judge(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32), "cpu", None)
    judge.device = "cuda"
    for name, family in (("patchcore_fast", "ours"), ("gemv loop", "loop")):
        right, tied = (Row(name, family, 4, k_timed=4) for _ in range(2))
        judge.judge(right, np.array([0, 3, 1, 2]), None, Provider(name, family, "", lambda *a: None))
        judge.judge(tied, np.array([0, 3, 2, 1]), None, Provider(name, family, "", lambda *a: None))
        assert right.status == "ok" and right.leading == right.facts["compared"] == 4
        assert (tied.status == "wrong") == (family == "ours") and tied.leading == 2 and tied.error < 1e-12
        assert tied.message == ("pick 2 is not that of the CPU engine" if family == "ours" else "")


def test_searches_without_a_certificate_and_products_are_judged() -> None:
    import knn
    from check import Neighbours
    from providers import Provider
    from runs import Row

    query, bank = crowd(60, 8), crowd(500, 8, 1)
    order = knn_reference(torch.from_numpy(query), torch.from_numpy(bank), 4)[1].numpy()
    true = Neighbours(query, bank, 4, 60)

    def judged(answer: dict[str, np.ndarray], judge: str, tolerance: float) -> Row:
        row = Row("p", "p", 3)
        knn.judge(row, answer, true, Provider("p", "p", "", lambda *a: None, judged=judge, tolerance=tolerance))
        return row

    right, second = judged({"rows": order[:, :3]}, "slack", 1e-4), judged({"rows": order[:, 1:]}, "slack", 0.5)
    assert right.status == "ok" and right.error == 0.0 and right.facts["recall"] == 1.0
    assert second.status == "ok" and 0 < second.error < 0.5 and second.facts["recall"] == pytest.approx(2 / 3)
    assert judged({"rows": order[:, 1:]}, "slack", 1e-4).status == "wrong"
    assert judged({"rows": order[:, [0, 0, 1]]}, "slack", 0.5).status == "wrong"
    which = np.array([0, 7, 30])
    product = query[which] @ bank.T
    assert judged({"rows": which, "product": product}, "product", 1e-5).status == "ok"
    for bad in (product * np.float32(1.01), product[:, :-1], np.full_like(product, np.nan)):
        row = judged({"rows": which, "product": bad}, "product", 1e-5)
        assert row.status == "wrong" and "the product is off" in row.message


def test_anomalib_loop_is_upstreams() -> None:
    from providers.kcenter import PROVIDERS

    pytest.importorskip("sklearn")
    from tests.peers.restated_anomalib import select

    x = crowd(400, 6)
    found = PROVIDERS["anomalib loop"].open({"features": x}, "cpu", 0).answer(50)["indices"]
    assert found.tolist() == select(torch.from_numpy(x), 50, 0, "2.4")


@pytest.mark.parametrize("task", ["kcenter", "knn", "rarity"])
def test_what_variants_ask_for(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import providers

    known = providers.providers(task)
    module = sys.modules[f"providers.{task}"]
    name = {"kcenter": "k_center_greedy", "knn": "knn", "rarity": "knn_rarity"}[task]
    real, asked = getattr(module, name), {}

    def recorded(*arguments: Any, **options: Any) -> Any:
        asked.update(options)
        return real(*arguments, **{**options, "backend": "torch"})

    monkeypatch.setattr(module, name, recorded)
    arrays = {"features": crowd(80, 5)} if task != "knn" else {"bank": crowd(80, 5), "queries": crowd(20, 5)}
    wanted = {
        "ieee": ("precision", "ieee"),
        "tf32x3": ("precision", "tf32x3"),
        "tf32": ("precision", "tf32"),
        "bf16": ("precision", "bf16"),
        "512 MB": ("memory_limit", 512 << 20),
    }
    for variant, (option, value) in wanted.items():
        provider = known[f"patchcore_fast triton {variant}"]
        assert provider.optional and bool(provider.judged) == (variant in ("tf32", "bf16"))
        asked.clear()
        provider.open(arrays, "cpu", 0).answer(3)
        assert asked["backend"] == "triton" and asked[option] == value
    if task == "kcenter":
        for variant, graph in {"graph": True, "no graph": False}.items():
            known[f"patchcore_fast triton {variant}"].open(arrays, "cpu", 0).answer(3)
            assert asked["tuning"].graph is graph


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on the device, gpu.sh measures them there")
def test_triton_variants_in_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    names = [f"triton {v}" for v in ("ieee", "tf32")]
    out = tmp_path / "out.json"
    script("kcenter.py", "--case", "low-rank", "--n", 100, "--d", 8, "--k", 4, "--repeat", 1, "--limit-s", 1,
           "--providers", "torch", *names, "--json", out)  # fmt: skip
    for row in rows(out).values():
        assert row["status"] == "ok" and row["leading"] == 4, row
    assert rows(out)["patchcore_fast triton tf32"]["facts"]["judged"] == "covering radius"


def test_photographs_are_never_replaced_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import options

    monkeypatch.setattr(options, "without_pipeline", lambda: "timm is missing (extra demo)")
    args = argparse.Namespace(features=None, images=None, d=None, seed=0, dtype="float16")
    case, path = options.features(args, "bottle-1024", 900, tmp_path)
    assert (case.name, case.n, case.d) == ("low-rank", 900, 1024)
    assert "in place of bottle-1024, since timm is missing" in case.about and "stored as float16" in case.about
    stored = np.load(path)
    assert stored.shape == (900, 1024) and stored.dtype == np.float16
    assert "the case low-rank takes its place" in capsys.readouterr().err


def test_low_rank_is_of_low_rank_and_fewer_rows_begin_alike() -> None:
    from cases import CASES

    x, y = (np.concatenate(list(CASES["low-rank"].parts(n, 64, 3))) for n in (3000, 2000))
    assert x.shape == (3000, 64) and x.dtype == np.float32 and np.array_equal(x[:2000], y)
    spread = np.linalg.svd(x - x.mean(0), compute_uv=False)
    assert spread[16] < 0.1 * spread[15] and spread[63] > 0


def test_the_small_case_says_what_is_wrong() -> None:
    text = script("sanitize.py", "--device", "cpu", "--backend", "nonsense", "--rows", 60, "--only", "k = 9", ok=False)
    assert "knn, k = 9, float16: FAILED: ValueError" in text and "2 WRONG" in text
    text = script("sanitize.py", "--device", "cpu", "--backend", "torch", "--rows", 60, "--only", "weights")
    assert text.count(": right, ") == 2 and "torch on cpu: all right" in text


def test_an_answer_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    plugin, out = tmp_path / "plugin.py", tmp_path / "out.json"
    plugin.write_text(
        "import time\nfrom providers import Provider\n"
        "class Slow:\n"
        "    def __init__(self, arrays, device, seed):\n        self.n = len(arrays['features'])\n"
        "    def answer(self, k):\n        time.sleep(300)\n"
        "KCENTER = {'slow': Provider('slow', 'slow', 'sleeps', Slow)}\n"
    )
    script("kcenter.py", "--case", "gaussian", "--n", 500, "--d", 4, "--k", 5, "--repeat", 1, "--answer-s", 12,
           "--providers", "gemv loop", "slow", "--plugin", plugin, "--json", out)  # fmt: skip
    assert rows(out)["slow"]["status"] == "failed" and "no answer within 12 s" in rows(out)["slow"]["message"]
    assert rows(out)["gemv loop"]["status"] == "ok"
