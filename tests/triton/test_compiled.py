"""Every kernel compiled for every kind of card, without a GPU: what the machine code says.

The compilation runs in processes of its own: here Triton's interpreter may be on, and then nothing compiles.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

import triton

from patchcore_fast.kernels.backends.triton_kernels.catalogue import CAPABILITIES, KERNELS, variants
from patchcore_fast.kernels.backends.triton_kernels.tile_table import shared_limit

pytestmark = pytest.mark.thorough
ROOT = Path(__file__).parent.parent.parent
HOT = {kernel.key for kernel in KERNELS if kernel.hot}
# Instructions on local memory: none in hot kernels, but for the most neighbours on sm_120; a few in others.
COLD_BUDGET = 24
# The tiles were chosen with triton 3.8; other versions' compilers are held to this much with them.
HOT_BUDGET = 0 if triton.__version__.startswith("3.8.") else 16
BUDGET = {"search.search_kernel: 128 columns, float32, 128 slots": 8}


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The facts of all variants (offline.Facts), compiled now: triton's own cache is a new, empty folder."""
    place = os.environ | {
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "patchcore_fast.kernels.backends.triton_kernels.offline", "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=place, cwd=ROOT, timeout=1500)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["facts"]
    return found


def name(fact: dict[str, Any]) -> str:
    return f"sm_{fact['capability']} {fact['kernel']} ({fact['variant']})"


def test_all_of_the_catalogue_was_compiled(compiled: list[dict[str, Any]]) -> None:
    wanted = [(v.kernel.key, v.label, c) for c in CAPABILITIES for v in variants((c // 10, c % 10))]
    assert [(f["kernel"], f["variant"], f["capability"]) for f in compiled] == wanted


def test_no_spills(compiled: list[dict[str, Any]]) -> None:
    over = {name(f): f["spills"] for f in compiled if f["spills"] > budget(f) or (budget(f) == 0 and f["stack"])}
    assert not over


def budget(fact: dict[str, Any]) -> int:
    """Instructions on local memory that are put up with."""
    usual = HOT_BUDGET if fact["kernel"] in HOT else COLD_BUDGET
    return max(BUDGET.get(f"{fact['kernel']}: {fact['variant']}", 0), usual)


def test_shared_memory_fits(compiled: list[dict[str, Any]]) -> None:
    for f in compiled:
        limit = shared_limit((f["capability"] // 10, f["capability"] % 10))
        assert f["shared"] <= limit, name(f)


def test_registers_leave_room_for_eight_warps(compiled: list[dict[str, Any]]) -> None:
    for f in compiled:
        if f["kernel"] in HOT:
            per_warp = 32 * (-(-f["registers"] // 8) * 8)
            assert 65536 // (per_warp * f["warps"]) * f["warps"] >= 8, name(f)


def test_float32_is_float32(compiled: list[dict[str, Any]]) -> None:
    """No matrix instruction where multiply-adds were promised: they would round to TF32."""
    found = [f for f in compiled if f["mode"] == "ieee"]
    assert {f["capability"] for f in found} == set(CAPABILITIES)
    for f in found:
        assert f["mma"] == "" and f["fma32"] > 0, name(f)


@pytest.mark.parametrize(
    ("mode", "kinds"),
    [("tf32x3", {"tf32"}), ("tf32", {"tf32"}), ("bf16", {"bf16", "f16"}), ("half", {"bf16", "f16"})],
)
def test_tensor_cores_where_the_precision_says_so(compiled: list[dict[str, Any]], mode: str, kinds: set[str]) -> None:
    found = [f for f in compiled if f["mode"] == mode and f["capability"] >= 80]
    assert found
    for f in found:
        instructions = f["mma"].split(", ")
        assert all(i.split()[-1] in kinds for i in instructions), name(f)
        if f["kernel"] in HOT and f["warps"] % 4 == 0 and "128 slots" not in f["variant"]:
            wanted = {90: "wgmma.mma_async", 100: "tcgen05.mma"}.get(f["capability"], "mma.sync")
            assert {i.split()[0] for i in instructions} == {wanted}, name(f)


def test_kernels_without_products_use_no_tensor_cores(compiled: list[dict[str, Any]]) -> None:
    assert not [name(f) for f in compiled if f["mode"] == "" and f["mma"]]


def test_canonical_distances_are_not_fused(compiled: list[dict[str, Any]]) -> None:
    """A fused multiply-add rounds once where the canonical distance rounds twice."""
    unfused = {kernel.key for kernel in KERNELS if not kernel.fused}
    assert not [name(f) for f in compiled if f["kernel"] in unfused and f["fma64"]]


def test_hot_kernels_load_sixteen_bytes_at_a_time(compiled: list[dict[str, Any]]) -> None:
    assert not [name(f) for f in compiled if f["kernel"] in HOT and not f["wide_loads"]]


def test_nothing_is_called(compiled: list[dict[str, Any]]) -> None:
    """All is inlined: no recursion, no call frames."""
    assert not [name(f) for f in compiled if f["calls"]]


def test_the_page_shows_what_was_compiled(compiled: list[dict[str, Any]], tmp_path: Path) -> None:
    """docs/kernels.md, where this triton is the one that it was written with."""
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps({"triton": triton.__version__, "facts": compiled}))
    command = [sys.executable, "-m", "benchmarks.pages.kernels_table", "--check", "--facts", str(facts)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
