"""Loading the native module, and which instruction set it takes."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from patchcore_fast.kernels.backends import native_library

REFUSAL = native_library.native_refusal()
needs_native = pytest.mark.skipif(REFUSAL is not None, reason=str(REFUSAL))
AVX2 = {"avx2", "fma", "f16c"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
# In the order of preference, with what Linux calls the CPU's features.
FLAGS: dict[str, set[str]] = {
    "portable": set(),
    "avx2": AVX2,
    "avx512f": AVX512,
    "avx512": AVX512 | {"avx512_vnni"},
    "amx": AVX512 | {"avx512_bf16", "amx_tile", "amx_bf16"},
}


@pytest.fixture
def fail_import(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[ImportError], None]]:
    """Makes the next load of the native module raise that error."""
    real = builtins.__import__

    def fail_with(error: ImportError) -> None:
        def replaced(name, *args, **kwargs):
            if name == "patchcore_fast._native":
                raise error
            return real(name, *args, **kwargs)

        native_library._load.cache_clear()
        monkeypatch.setattr(builtins, "__import__", replaced)

    yield fail_with
    native_library._load.cache_clear()


def test_not_built(fail_import: Callable[[ImportError], None]) -> None:
    fail_import(ModuleNotFoundError("No module named 'patchcore_fast._native'", name="patchcore_fast._native"))
    reason = native_library.native_refusal()
    assert reason is not None and "PATCHCORE_FAST_NATIVE=1" in reason
    with pytest.raises(RuntimeError, match="no native CPU engine: patchcore_fast was installed without"):
        native_library.native()


def test_there_but_broken(fail_import: Callable[[ImportError], None]) -> None:
    fail_import(ImportError("version `GLIBC_9.9' not found"))
    with pytest.raises(RuntimeError, match=r"patchcore_fast\._native cannot be loaded: version `GLIBC_9\.9' not found"):
        native_library.native()


def test_loads_when_asked_and_not_before() -> None:
    code = (
        "import sys, patchcore_fast.kernels, patchcore_fast.samplers\n"
        "from patchcore_fast.kernels.backends.native_library import native_refusal\n"
        "assert 'patchcore_fast._native' not in sys.modules\n"
        "print(native_refusal() is None, 'patchcore_fast._native' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = REFUSAL is None
    assert done.stdout == f"{here} {here}\n" and done.stderr == ""


def isa(value: str | None) -> subprocess.CompletedProcess[str]:
    """A fresh process that prints the instruction set it would use."""
    env = {k: v for k, v in os.environ.items() if k != "PATCHCORE_FAST_ISA"}
    code = "import patchcore_fast._native as n; print(n.isa())"
    env |= {} if value is None else {"PATCHCORE_FAST_ISA": value}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


@needs_native
def test_best_is_taken() -> None:
    explained = native_library.native().explain_isa()
    assert [name for name, _ in explained] == list(FLAGS) and explained[0] == ("portable", "")
    best = [name for name, reason in explained if not reason][-1]
    for value in (None, "", "auto"):
        assert isa(value).stdout.strip() == best


@needs_native
@pytest.mark.parametrize("name", FLAGS)
def test_named_is_taken_or_refused_with_the_reason(name: str) -> None:
    reason = dict(native_library.native().explain_isa())[name]
    done = isa(name)
    if reason:
        assert done.returncode != 0 and f"RuntimeError: PATCHCORE_FAST_ISA={name}: {reason}" in done.stderr
    else:
        assert done.stdout.strip() == name, done.stderr


@needs_native
def test_unknown_name() -> None:
    done = isa("sse9")
    wanted = f"ValueError: PATCHCORE_FAST_ISA: want auto, {', '.join(FLAGS)}, got 'sse9'"
    assert done.returncode != 0 and wanted in done.stderr


@needs_native
def test_agrees_with_the_kernel_on_the_cpu() -> None:
    info = Path("/proc/cpuinfo")
    lines = [line for line in info.read_text().splitlines() if line.startswith("flags")] if info.exists() else []
    if not lines:
        pytest.skip("no x86 flags in /proc/cpuinfo")
    flags = set(lines[0].split(":")[1].split())
    for name, reason in native_library.native().explain_isa():
        if not reason:
            assert flags >= FLAGS[name], name
        elif not reason.startswith(("not built", "the kernel does not grant")):
            assert not flags >= FLAGS[name], f"{name}: {reason}"
